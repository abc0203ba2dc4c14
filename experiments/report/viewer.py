"""Rows of implicit attention packed into the page, so that its viewer shows any of them without a file beside it.

A weight is a byte: 0 for none, else its logarithm below the row's largest weight, over `DECADES` decades, so that a
linear and a logarithmic view come from the same bytes. What a row gives to each frame and to each class token, and
its largest weight, are kept apart in 16 bits, as the viewer shows these as numbers.
"""

import base64
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float

from experiments.cell import ROWS
from experiments.report.saved import SavedGrid, read_rows
from experiments.report.words import base_labels, variant_label
from experiments.statistics.bases import base_fields

DECADES = 4
BUDGET = 4_000_000
"""Characters of packed rows in the page."""


@dataclass(frozen=True)
class Packed:
    """What the viewer shows.

    Attributes:
        data: the page's JSON.
        shown, saved: how many matrices, one a model, clip and layer, are in the page and in the grid's folder.
        seed: of the cells that were packed.
    """

    data: Mapping[str, Any]
    shown: int
    saved: int
    seed: int


def pack(grid: SavedGrid, budget: int = BUDGET) -> Packed:
    """Pack the rows of the first seed's cells, as many for each as its part of the budget holds.

    First clips come first, and last layers. Where a part holds no matrix at all, one is packed while the budget lasts.
    """
    seed = int(grid.cells["seed"].min())
    cells = grid.cells[grid.cells["seed"] == seed]
    settings = list(base_labels(cells, base_fields(grid.cells), grid.cells))
    clips: dict[bytes, dict[str, Any]] = {}
    models: list[dict[str, Any]] = []
    saved = 0
    for k, (_, cell) in enumerate(cells.iterrows()):
        path = grid.folder / "cells" / cell["cell"] / ROWS
        arrays = read_rows(path)
        saved += arrays["P"].shape[0] * arrays["P"].shape[1]
        shown, spent = _matrices(arrays, budget // (len(cells) - k), budget)
        budget -= spent
        if shown:
            models.append(
                {
                    "setting": settings[k],
                    "variant": cell["variant"],
                    "name": variant_label(cell["variant"]),
                    "cell": cell["cell"],
                    "frames": int(arrays["grid"][0]),
                    "rows": int(arrays["grid"][1]),
                    "columns": int(arrays["grid"][2]),
                    "tokens": int(arrays["P"].shape[-1]),
                    "classTokens": [int(position) for position in arrays["class_positions"]],
                    "directions": [str(name) for name in arrays["directions"]],
                    "clips": [
                        {
                            "clip": _clip(arrays, place, clips),
                            "prediction": str(arrays["predictions"][place]),
                            "layers": layers,
                        }
                        for place, layers in shown.items()
                    ],
                }
            )
    data = {
        "decades": DECADES,
        "colours": _base64(matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255),
        "clips": list(clips.values()),
        "models": models,
    }
    count = sum(len(clip["layers"]) for model in models for clip in model["clips"])
    return Packed(data, count, saved, seed)


def _matrices(
    arrays: Mapping[str, np.ndarray], room: int, most: int
) -> tuple[dict[int, dict[str, dict[str, Any]]], int]:
    """By clip and layer, what fits in `room` characters, or one that fits in `most`; and characters spent."""
    count, layers = arrays["P"].shape[:2]
    shown: dict[int, dict[str, dict[str, Any]]] = {}
    spent = 0
    for k, layer in itertools.product(range(count), [layers - 1, *range(layers - 1)]):
        entry = {
            str(name): pack_rows(matrix, arrays)
            for name, matrix in zip(arrays["directions"], arrays["P"][k, layer], strict=True)
        }
        size = sum(len(text) for direction in entry.values() for text in direction.values())
        if spent + size > (room if shown else max(room, most)):
            break
        spent += size
        shown.setdefault(k, {})[str(arrays["layers"][layer])] = entry
    return {
        k: dict(sorted(found.items(), key=lambda item: int(item[0]))) for k, found in shown.items()
    }, spent


def pack_rows(matrix: Float[np.ndarray, "L L"], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """One matrix of rows that sum to 1, or to 0 where a row has no weight.

    Returns `keys`, which keys a row holds (all, lower: up to its own, upper: from its own on), and in base64
    `weights`, a byte a key; `peaks` and `shares`, 16 bits a row and a row's frames and class tokens.
    """
    P = np.nan_to_num(matrix.astype(np.float64))
    peaks = P.max(axis=1, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        decades_below = -np.log10(P / peaks[:, None])
    level = 255 - 254 * decades_below / DECADES
    weights = np.where(level >= 1, np.rint(np.nan_to_num(level, nan=0, neginf=0)), 0)
    lower, upper = not np.triu(P, 1).any(), not np.tril(P, -1).any()
    keys = "lower" if lower else "upper" if upper else "all"
    kept = {"all": np.ones_like(P, bool), "lower": np.tri(len(P), dtype=bool)}
    kept["upper"] = kept["lower"].T
    classes = [int(position) for position in arrays["class_positions"]]
    patches = np.delete(P, classes, axis=1).reshape(len(P), int(arrays["grid"][0]), -1)
    shares = np.concatenate([patches.sum(axis=2), P[:, classes]], axis=1)
    return {
        "keys": keys,
        "weights": _base64(weights[kept[keys]]),
        "peaks": _sixteen_bits(peaks),
        "shares": _sixteen_bits(shares),
    }


def _clip(arrays: Mapping[str, np.ndarray], k: int, clips: dict[bytes, dict[str, Any]]) -> int:
    """The place of a clip in the page's list, where each stands once though many models saw it."""
    pixels = np.ascontiguousarray(arrays["frames"][k])
    name = str(arrays["names"][k])
    clips.setdefault(
        name.encode() + pixels.tobytes(),
        {
            "name": name,
            "label": str(arrays["labels"][k]),
            "frames": pixels.shape[0],
            "height": pixels.shape[1],
            "width": pixels.shape[2],
            "pixels": _base64(pixels),
        },
    )
    return list(clips).index(name.encode() + pixels.tobytes())


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.rint(values).astype(np.uint8).tobytes()).decode("ascii")


def _sixteen_bits(shares: Float[np.ndarray, "..."]) -> str:
    """Numbers from 0 to 1 as little-endian multiples of 1 / 65535."""
    return base64.b64encode(np.rint(shares.clip(0, 1) * 65535).astype("<u2").tobytes()).decode("ascii")
