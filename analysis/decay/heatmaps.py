"""Mean matrices of attention weights, kept for drawing beside the JSON of a result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

SIDE = 1024
"""A matrix with a longer side is averaged over square blocks until it fits."""


@dataclass(frozen=True, eq=False)
class Heatmap:
    """W of one layer, direction and scope, mean over clips.

    Attributes:
        values: W, or its mean over blocks of ``block`` x ``block`` tokens, in the units of W.
        block: tokens that one cell spans; the last row and column of cells may span fewer.
    """

    layer: int
    direction: str
    scope: str
    values: Float[np.ndarray, "c c"]
    block: int


def block_size(length: int) -> int:
    """Tokens that one cell of a heatmap of ``length`` tokens spans."""
    return max(1, math.ceil(length / SIDE))


def block_mean(matrix: Float[np.ndarray, "L L"]) -> Float[np.ndarray, "c c"]:
    """Mean over square blocks of `block_size` tokens; the last block may be narrower."""
    length = len(matrix)
    block = block_size(length)
    if block == 1:
        return matrix
    starts = np.arange(0, length, block)
    widths = np.diff([*starts, length])
    total = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)
    return total / (widths[:, None] * widths)


def save_heatmaps(heatmaps: Sequence[Heatmap], path: Path) -> None:
    """Write heatmaps as a compressed .npz in float32, an array each, named as in "0.forward.ssm.1"."""
    arrays = {f"{h.layer}.{h.direction}.{h.scope}.{h.block}": h.values.astype(np.float32) for h in heatmaps}
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_heatmaps(path: Path) -> tuple[Heatmap, ...]:
    """Read what `save_heatmaps` wrote."""
    with np.load(path) as file:
        return tuple(
            Heatmap(int(layer), direction, scope, file[name].astype(float), int(block))
            for name in file.files
            for layer, direction, scope, block in [name.split(".")]
        )
