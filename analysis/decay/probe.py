"""Run a model over its input and keep, clip by clip, the sums that every decay quantity follows from.

Layers are reduced as they come, so that memory does not grow with depth: what is kept of a layer is its
profiles, frame matrices and, for the layers that are to be drawn, one mean matrix.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final, get_args

import numpy as np
import torch
from torch import Tensor, nn

from analysis.capture import AttentionCapture, Capture, family_of, record
from analysis.decay.heatmaps import Heatmap, block_mean, block_size
from analysis.decay.measure import ATTENTION_UNITS, WEIGHT_UNITS
from analysis.decay.metrics import predicted_half_life
from analysis.decay.result import ClipSums
from analysis.inputs import Sample
from analysis.matrix.base import AttentionMatrix
from analysis.matrix.reduce import (
    AbsoluteMean,
    Distances,
    EffectiveContext,
    FrameMatrix,
    LagProfile,
    Reducer,
    reduce,
)
from analysis.matrix.scopes import Scope, scoped
from analysis.matrix.softmax import OneSide, Side
from analysis.precision import full_precision
from analysis.unfinished import ClipRecord, Unfinished
from vmp.layout import TokenLayout


@dataclass(frozen=True, eq=False)
class Probed:
    """What `probe` gives: sums in the order in which layers ran, heatmaps, and what was shown."""

    sums: tuple[ClipSums, ...]
    heatmaps: tuple[Heatmap, ...]
    layout: TokenLayout
    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    dtype: str
    backend: str


@full_precision()
def probe(
    model: nn.Module,
    samples: Iterable[Sample],
    *,
    layers: Sequence[int],
    scopes: Sequence[Scope],
    draw: Sequence[int] = (),
    progress: Callable[[str], None] | None = None,
    unfinished: Unfinished | None = None,
) -> Probed:
    """Decay sums of a model on samples, one sample at a time.

    Args:
        model: of a family that `analysis.capture` knows, in eval mode; samples go to the device and dtype of
            its parameters.
        samples: all of one shape.
        layers: indices from 0.
        draw: the layers whose mean matrix is kept as a `Heatmap`.
        progress: called with a few words after each layer, direction and scope of each sample.
        unfinished: where each sample's sums are kept as they come, and taken from instead of run again.

    Raises:
        TypeError: from `analysis.capture.record`, where the model has neither scan nor self-attention to capture.
        ValueError: no samples, or no layers.
    """
    parameter, family = next(model.parameters()), family_of(model)
    collector = _Collector(scopes, draw, progress)
    names, labels = [], []
    with torch.inference_mode(), record(model, layers=layers, sink=collector.take):
        for index, sample in enumerate(samples):
            names.append(sample.name)
            labels.append(sample.label)
            kept = None if unfinished is None else unfinished.get(index)
            if kept is not None:
                collector.resume(*kept)
                continue
            tokens = sample.tokens[None].to(parameter.device)
            family.run(model, tokens.to(parameter.dtype) if tokens.is_floating_point() else tokens)
            if unfinished is not None:
                unfinished.put(index, collector.latest(), collector.about())
    if collector.layout is None:
        raise ValueError(f"nothing was captured: {len(names)} samples, layers {list(layers)}")
    return Probed(
        sums=collector.sums(),
        heatmaps=collector.heatmaps(),
        layout=collector.layout,
        names=tuple(names),
        labels=tuple(labels),
        dtype=collector.dtype,
        backend=collector.backend,
    )


Key = tuple[int, str, str]
"""Layer, direction, scope."""

SIDES: tuple[Side, ...] = get_args(Side)

NO_BACKEND = "none: self-attention"
"""What stands for the scan's backend where there is no scan."""


def views(direction: str) -> tuple[str, ...]:
    """The rows of a report that one captured direction gives: itself and, where it looks both ways, each side.

    One side alone has the keys that a scan of one direction could carry, rows divided by their sums over those, so
    that its numbers stand beside a scan's; lags forward and backward are then apart. The whole comes first, as its
    rows are what the layer computes with. Its lag profile is the mean of both sides.
    """
    return (
        (direction,)
        if direction in ("forward", "backward")
        else (direction, *(f"{direction} {s}" for s in SIDES))
    )


def _views(capture: Capture | AttentionCapture, scope: Scope) -> Iterator[tuple[str, AttentionMatrix]]:
    matrix = scoped(capture, scope)
    yield capture.direction, matrix
    for name, side in zip(views(capture.direction)[1:], SIDES, strict=False):
        yield name, OneSide(matrix, side)


@final
class _Collector:
    """Takes captures as layers run and adds their sums up by layer, direction and scope."""

    def __init__(
        self, scopes: Sequence[Scope], draw: Sequence[int], progress: Callable[[str], None] | None
    ) -> None:
        self._scopes, self._draw, self._progress = scopes, frozenset(draw), progress
        self._clips: defaultdict[Key, list[dict[str, Any]]] = defaultdict(list)
        self._matrices: dict[Key, np.ndarray] = {}
        self.layout: TokenLayout | None = None
        self.dtype, self.backend = "", NO_BACKEND

    def take(self, capture: Capture | AttentionCapture) -> None:
        self.layout = capture.layout
        self.dtype = str(capture.hidden.dtype).removeprefix("torch.")
        predicted = None
        if isinstance(capture, Capture):
            self.backend = capture.backend()
            predicted = predicted_half_life(_numpy(capture.terms.A), _numpy(capture.terms.delta)[0])
        for scope in self._scopes:
            for direction, matrix in _views(capture, scope):
                reducers: list[Reducer] = [LagProfile(), Distances(), EffectiveContext(), FrameMatrix()]
                # One side of a matrix is half of a picture that the whole has.
                draw = capture.layer in self._draw and direction == capture.direction
                if draw:
                    reducers.append(AbsoluteMean())
                found = reduce(matrix, reducers, layout=capture.layout)
                clip = {**_one_clip(found, capture.layout), "predicted": predicted}
                if draw:
                    clip["matrix"] = block_mean(_numpy(found["AbsoluteMean"])[0])
                self._add((capture.layer, direction, scope), clip)

    def _add(self, key: Key, clip: dict[str, Any]) -> None:
        matrix = clip.get("matrix")
        if matrix is not None and self._clips[key]:
            # Only the sum of the matrices is needed, and only the latest one to keep the clip by.
            self._matrices[key] = self._matrices[key] + matrix
            self._clips[key][-1].pop("matrix")
        elif matrix is not None:
            self._matrices[key] = matrix
        self._clips[key].append(clip)
        if self._progress is not None:
            layer, direction, scope = key
            self._progress(f"layer {layer} {direction}, {scope}")

    def latest(self) -> ClipRecord:
        """What the sample that ran last gave."""
        return {key: clips[-1] for key, clips in self._clips.items()}

    def about(self) -> dict[str, Any]:
        """What `resume` needs to know beside a sample's record."""
        layout = {} if self.layout is None else asdict(self.layout)
        return {"layout": layout, "dtype": self.dtype, "backend": self.backend}

    def resume(self, record: ClipRecord, about: dict[str, Any]) -> None:
        """Take a sample's record, as an earlier run kept it, for a run of it."""
        layout = about["layout"]
        self.layout = TokenLayout(
            tuple(layout["class_positions"]), layout["frames"], tuple(layout["grid"]), layout["plain"]
        )
        self.dtype, self.backend = about["dtype"], about["backend"]
        for key, clip in record.items():
            self._add(key, dict(clip))

    def sums(self) -> tuple[ClipSums, ...]:
        return tuple(_stack(key, clips) for key, clips in self._clips.items())

    def heatmaps(self) -> tuple[Heatmap, ...]:
        length = 0 if self.layout is None else self.layout.length
        return tuple(
            Heatmap(*key, values=total / len(self._clips[key]), block=block_size(length))
            for key, total in self._matrices.items()
        )


def _one_clip(found: dict[str, Any], layout: TokenLayout) -> dict[str, Any]:
    """One clip's sums from the results of the reducers, under the names of `ClipSums`."""
    profile, distance = found["LagProfile"], found["Distances"]
    context, frames = found["EffectiveContext"], found["FrameMatrix"]
    with_class = frames is not None and bool(layout.class_positions)
    return {
        "lag_profile": _numpy(profile.mean)[0],
        "lag_pairs": _numpy(profile.counts),
        "frame_profile": None if profile.frame_mean is None else _numpy(profile.frame_mean)[0],
        "frame_pairs": None if profile.frame_counts is None else _numpy(profile.frame_counts),
        "distance": np.array([float(d[0]) for d in (distance.token, distance.frame, distance.patch)]),
        "uniform": np.array(
            [float(d[0]) for d in (distance.uniform_token, distance.uniform_frame, distance.uniform_patch)]
        ),
        "effective_context": _numpy(context.tokens)[0],
        "empty_rows": _numpy(context.empty_rows)[0],
        "frame_matrix": None if frames is None else _numpy(frames.frames)[0],
        "class_row": _numpy(frames.class_row)[0] if with_class else None,
        "class_self": _numpy(frames.class_self)[0] if with_class else None,
    }


def _stack(key: Key, clips: list[dict[str, Any]]) -> ClipSums:
    layer, direction, scope = key
    first = clips[0]
    shared: dict[str, Any] = {name: first[name] for name in ("lag_pairs", "frame_pairs")}
    stacked: dict[str, Any] = {
        name: None if value is None else np.stack([clip[name] for clip in clips])
        for name, value in first.items()
        if name not in shared and name != "matrix"
    }
    units = ATTENTION_UNITS if first["predicted"] is None else WEIGHT_UNITS
    return ClipSums(
        layer=layer, direction=direction, scope=scope, weight_unit=units[scope], **shared, **stacked
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
