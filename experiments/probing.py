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

MEDIATORS = 8
RESAMPLES = 400
BOOTSTRAP_SEED = 0
VIEWED: Scope = "contribution"


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
    numbers, curves = measure_decay(decay.sums, layout_record(decay.layout), RESAMPLES, BOOTSTRAP_SEED)
    found = probe_contradiction(
        model, samples, layers=layers, scopes=scopes, mediators=MEDIATORS, seed=BOOTSTRAP_SEED
    )
    others, more = measure_contradiction(
        found.values, found.layout.length, found.margin, RESAMPLES, BOOTSTRAP_SEED
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
    """P of every layer and direction on each clip, scope `contribution`: what share of a token comes from which.

    Returns:
        P                (K, layers, directions, L, L), float16; a row whose sum is 0 is 0
        layers, directions   their names, in the order of P's axes
        names, labels    of the K clips
        class_positions  0-based, empty without a class token
        grid             temporal positions, and patches down and across: the other tokens in their order
    """
    shares: list[np.ndarray] = []
    directions: list[str] = []

    def keep(capture: Capture | AttentionCapture) -> None:
        matrix = scoped(capture, VIEWED)
        every = slice(0, matrix.length)
        shares.append(normalise(matrix.weigh(every, every)[0])[0].numpy().astype(np.float16))
        if capture.direction not in directions:
            directions.append(capture.direction)

    with torch.inference_mode(), record(model, sink=keep):
        model(torch.stack([clip.video for clip in clips]))
    layout, depth = model.token_layout(), model.config.depth
    stacked = np.stack(shares, axis=1)
    return {
        "P": stacked.reshape(len(clips), depth, len(directions), layout.length, layout.length),
        "layers": np.arange(depth),
        "directions": np.array(directions),
        "names": np.array([clip.name for clip in clips]),
        "labels": np.array([clip.label for clip in clips]),
        "class_positions": np.array(layout.class_positions, np.int64),
        "grid": np.array([layout.frames, *layout.grid]),
    }
