"""What the probes find in a cell's model, as rows of tables, and its attention rows for the report's viewer."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, final

import numpy as np
import torch

import vmp
from analysis.capture import AttentionCapture, Capture, record
from analysis.contradiction.measure import measure as measure_contradiction
from analysis.contradiction.probe import probe as probe_contradiction
from analysis.decay.measure import measure as measure_decay
from analysis.decay.probe import probe as probe_decay
from analysis.inputs import Sample
from analysis.request import layout_record
from analysis.results import Curve
from analysis.weights import Scope, normalise, scoped
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
class ProbeTables:
    """Rows of the tables `probes` and `profiles`."""

    probes: list[dict[str, Any]]
    profiles: list[dict[str, Any]]


def probe_tables(model: vmp.VideoModel, clips: Sequence[Clip], trained: bool) -> ProbeTables:
    """Decay and contradiction of every layer and direction of a model in evaluation mode.

    The scope is `contribution`, in which scans and self-attention compare, and for scans `ssm` too.
    """
    scopes: tuple[Scope, ...] = ("ssm", VIEWED) if model.config.mixer == "mamba" else (VIEWED,)
    samples = [Sample(clip.video, clip.name, clip.label) for clip in clips]
    layers = range(model.config.depth)
    decay = probe_decay(model, samples, layers=layers, scopes=scopes)
    numbers, curves = measure_decay(decay.sums, layout_record(decay.layout), RESAMPLES, PROBE_SEED)
    found = probe_contradiction(
        model, samples, layers=layers, scopes=scopes, mediators=MEDIATORS, seed=PROBE_SEED
    )
    others, more = measure_contradiction(
        found.values, found.layout.length, found.margin, RESAMPLES, PROBE_SEED
    )
    return ProbeTables(
        probes=[
            {"probe": probe, "trained": trained, **dataclasses.asdict(number)}
            for probe, measured in (("decay", numbers), ("contradiction", others))
            for number in measured
        ],
        profiles=[row for curve in (*curves, *more) for row in _entries(curve, trained)],
    )


def _entries(curve: Curve, trained: bool) -> Iterable[dict[str, Any]]:
    place = {name: getattr(curve, name) for name in ("layer", "direction", "scope", "quantity", "unit")}
    for index in np.ndindex(curve.value.shape):
        interval = {
            name: None if part is None or np.isnan(part[index]) else float(part[index])
            for name, part in (("value", curve.value), ("low", curve.low), ("high", curve.high))
        }
        yield {"trained": trained, **place, "index": ",".join(map(str, index)), **interval}


def attention_rows(model: vmp.VideoModel, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    """P of layers and directions on clips, scope `contribution`: what share of a token comes from which.

    The first K clips and K' layers, evenly spread from first to last, that fit into `VIEWED_BYTES`: all, in a small
    model.

    Returns:
        P                (K, K', directions, L, L), float16; a row whose sum is 0 is 0
        layers, directions   which they are, in the order of P's axes
        names, labels    of the K clips
        class_positions  0-based, empty without a class token
        grid             temporal positions, and patches down and across: the other tokens in their order
    """
    layout, depth = model.token_layout(), model.config.depth
    directions = layer_directions(model)
    one = len(directions) * layout.length**2 * 2
    layers = np.unique(np.linspace(0, depth - 1, min(depth, max(1, VIEWED_BYTES // one))).round().astype(int))
    clips = clips[: max(1, VIEWED_BYTES // (one * len(layers)))]
    shares: list[np.ndarray] = []

    def keep(capture: Capture | AttentionCapture) -> None:
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
