"""What the probes find in a cell's model, as rows of tables, and its attention rows for the report's viewer."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import torch

import analysis
import vmp
from analysis.capture import Captured, record
from analysis.contradiction import Contradiction
from analysis.decay import Decay
from analysis.inputs import Sample
from analysis.matrix.scopes import Scope, normalise, scoped
from experiments.data.clip import Clip

# What a cell spends on probes: few mediators, as triples are averaged over layers' clips and then over seeds.
MEDIATORS = 4
RESAMPLES = 400
PROBE_SEED = 0

VIEWED: Scope = "contribution"
VIEWED_BYTES = 2**26
"""What the viewer's matrices may take: the clips and layers that are kept follow from it."""


@final
@dataclasses.dataclass(frozen=True)
class ProbeRows:
    """Rows of the tables `probes` and `profiles`."""

    probes: list[dict[str, Any]]
    profiles: list[dict[str, Any]]


def probe_rows(model: vmp.VideoModel, clips: Sequence[Clip], trained: bool) -> ProbeRows:
    """Decay and contradiction of every layer and direction of a model.

    The scope is `contribution`, in which scans and self-attention compare, and for scans `ssm` too.
    """
    scopes: tuple[Scope, ...] = ("ssm", VIEWED) if model.config.mixer == "mamba" else (VIEWED,)
    result = analysis.probe(
        model,
        [Sample(clip.video, clip.name, clip.label) for clip in clips],
        [Decay(draw=()), Contradiction(MEDIATORS)],
        scopes=scopes,
        resamples=RESAMPLES,
        seed=PROBE_SEED,
    )
    numbers = result.summary().rename(columns={"measure": "probe"})
    probes = numbers.drop(columns=["model", "at"]).assign(trained=trained).to_dict("records")
    return ProbeRows(
        probes=[{str(k): None if v != v else v for k, v in row.items()} for row in probes],
        profiles=list(_entries(result, trained)),
    )


def _entries(result: analysis.Result, trained: bool) -> Iterator[dict[str, Any]]:
    """One row an entry of every curve."""
    for quantity in result.quantities:
        about = result.data[quantity].attrs
        if about["number"]:
            continue
        places = itertools.product(
            result.layers, result.directions(about["measure"], result.model), result.scopes
        )
        for layer, direction, scope in places:
            curve = result.curve(quantity, layer, direction, scope)
            if curve is None:
                continue
            place = {
                "layer": layer,
                "direction": direction,
                "scope": scope,
                "quantity": quantity,
                "unit": curve.unit,
            }
            for index in np.ndindex(curve.value.shape):
                interval = {
                    end: None if values is None or np.isnan(values[index]) else float(values[index])
                    for end, values in (("value", curve.value), ("low", curve.low), ("high", curve.high))
                }
                yield {"trained": trained, **place, "index": ",".join(map(str, index)), **interval}


def attention_rows(model: vmp.VideoModel, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    """P of layers and directions on clips, scope `contribution`: what share of a token comes from which.

    The first K clips and K' layers, evenly spread from first to last, that fit into `VIEWED_BYTES`: all, in a small
    model.

    Returns:
        By name: `P`, (K, K', directions, L, L) in float16, where a row whose sum is 0 is 0; `layers` and `directions`,
        in the order of its axes; `names` and `labels` of the K clips; `class_positions`, 0-based, empty without a class
        token; and `grid`, temporal positions, and patches down and across, which hold the other tokens in order.
    """
    layout, depth = model.token_layout(), model.config.depth
    directions = layer_directions(model)
    one = len(directions) * layout.length**2 * 2
    layers = np.unique(np.linspace(0, depth - 1, min(depth, max(1, VIEWED_BYTES // one))).round().astype(int))
    clips = clips[: max(1, VIEWED_BYTES // (one * len(layers)))]
    shares: list[np.ndarray] = []

    def keep(capture: Captured) -> None:
        matrix = scoped(capture, VIEWED)
        every = slice(0, matrix.length)
        shares.append(normalise(matrix.weigh(every, every)[0])[0].cpu().numpy().astype(np.float16))

    device = next(model.parameters()).device
    with torch.inference_mode(), record(model, layers=layers.tolist(), sink=keep):
        for clip in clips:
            model(clip.video[None].to(device))
    return {
        "P": np.concatenate(shares).reshape(
            len(clips), len(layers), len(directions), layout.length, layout.length
        ),
        "layers": layers,
        "directions": np.array(directions),
        "names": np.array([clip.name for clip in clips]),
        "labels": np.array([clip.label for clip in clips]),
        "class_positions": np.array(layout.class_positions, np.int64),
        "grid": np.array([layout.frames, *layout.grid]),
    }


def layer_directions(model: vmp.VideoModel) -> tuple[str, ...]:
    """The directions that each layer is captured in, in their order."""
    if model.config.mixer == "attention":
        return ("both",)
    return ("forward", "backward") if model.config.directions == "both" else ("forward",)
