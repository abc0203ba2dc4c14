"""The one loop over models, clips, layers, directions and scopes; every measure runs in it and gives one `Result`.

A model runs once over each clip, and only the input of each chosen mixer is kept. A layer is then computed again from
its own input, so that memory does not grow with depth, and a measure may ask what another input would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from analysis.assemble import Variables, check_shapes, clips_of, estimates
from analysis.capture import Capture, CaptureError, Family, family_of, layer_inputs
from analysis.capture.recorder import Layout, layer_indices
from analysis.inputs import DistinctFrames, Sample, as_samples, digest_of
from analysis.intervals import resample_weights
from analysis.matrix.scopes import SCOPES, Scope
from analysis.measure import (
    Measure,
    ModelView,
    Place,
    SiteRun,
    as_measures,
    numpy_of,
    views,
)
from analysis.precision import full_precision
from analysis.provenance import Clips, ModelOrigin, origin_of, provenance, toolkit_version
from analysis.result import Result, with_notes
from analysis.unfinished import Key, Unfinished, text_of, text_of_layout
from vmp.checkpoint import weights_sha256
from vmp.layout import TokenLayout

Progress = Callable[[str, int], None]
"""Called after each layer of each clip, and after each measure of the whole model, with what was done and how many
steps there are in all."""

WHOLE_MODEL = (-1, "", "")
"""The place of a measure of the whole model."""


@final
@dataclass(frozen=True, eq=False)
class Entry:
    """One model of a probe.

    Attributes:
        samples: its clips, the same at every call.
        shown: how many clips there are and what else changes what a probe finds in them, for resumption.
        layers: those of this model, where they are not those of the run.
        origin: what is known of its checkpoint: fields of `ModelOrigin`.
        notes: what a reader of its numbers has to know.
    """

    name: str
    model: nn.Module
    samples: Callable[[], Iterable[Sample]]
    count: int
    shown: Mapping[str, Any]
    origin: Mapping[str, Any] = field(default_factory=dict)
    family: Family | None = None
    layout: Layout | None = None
    layers: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


def probe(
    model: nn.Module | Mapping[str, nn.Module],
    clips: Tensor | Iterable[Sample | Tensor],
    measures: Measure | str | Sequence[Measure | str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    scopes: str | Sequence[str] = ("ssm",),
    layout: Layout | Mapping[str, Layout] | None = None,
    family: Family | str | Mapping[str, Family | str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    resume: Path | str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Measure one model, or several on the same clips.

    Args:
        model: in evaluation mode or not, it runs in evaluation mode; or {"name": model, ...} for a comparison.
        clips: (n, 3, T, H, W) as the model takes them, token ids (n, L), or one sample at a time, all of one shape.
        measures: instances or names; decay and contradiction where None.
        layers: indices from 0, negative from the end; all where None.
        scopes: one or more of `ssm`, `mixer` and `contribution`, or `all`.
        layout: where class tokens, frames and patches lie, for a model of your own whose family cannot know it; or
            {"name": layout, ...} for those models of a comparison that need one.
        family: how the model's mixers are found, where its class is not known: a `Family` or the name of one; or
            {"name": family, ...}.
        resamples: of the bootstrap over clips.
        seed: of all that is drawn; the same seed gives the same bits.
        resume: a folder in which finished clips wait, so that the same call goes on after an interruption.
        progress: called with what was just done and how many steps there are.

    Returns:
        A `Result` of the models by name; a single model is called by its class.

    Raises:
        TypeError: a `CaptureError`, where a model has neither scan nor self-attention that can be read.
        ValueError: no models, no clips, no measures, or an unknown scope.
        IndexError: a layer out of range.
    """
    models = dict(model) if isinstance(model, Mapping) else {type(model).__name__: model}
    if not models:
        raise ValueError('models: there are none; give a module, or {"name": module, ...} for a comparison')
    samples = as_samples(clips)
    layouts, families = _by_model("layout", layout, models), _by_model("family", family, models)
    entries = [
        Entry(name, one, lambda: samples, len(samples), {"clips": digest_of(samples)},
              family=family_of(one, families.get(name)), layout=layouts.get(name))
        for name, one in models.items()
    ]  # fmt: skip
    return run(
        entries,
        as_measures(measures),
        source="given",
        command="analysis.probe",
        layers=layers,
        scopes=scopes,
        resamples=resamples,
        seed=seed,
        resume=Unfinished(Path(resume)) if resume is not None else None,
        discard=True,
        progress=progress,
    )


def _by_model(what: str, given: Any, models: Mapping[str, nn.Module]) -> Mapping[str, Any]:
    """An argument of `probe` by model, where it is given for all of them or by name."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(models, given)
    if unknown := [name for name in given if name not in models]:
        raise ValueError(f"{what}: no model named {unknown[0]!r}; there are {', '.join(models)}")
    return given


@full_precision()
def run(
    entries: Sequence[Entry],
    measures: Sequence[Measure],
    *,
    source: str,
    command: str,
    layers: Sequence[int] | None,
    scopes: str | Sequence[str],
    resamples: int,
    seed: int,
    resume: Unfinished | None = None,
    discard: bool = False,
    progress: Progress | None = None,
) -> Result:
    """`probe` of models that are ready; the caller discards `resume` unless `discard` is set."""
    scopes = (scopes,) if isinstance(scopes, str) else tuple(scopes)
    chosen = tuple(scope for scope in SCOPES if scope in scopes or "all" in scopes)
    if not chosen or set(scopes) - {*SCOPES, "all"}:
        raise ValueError(f"scopes: {tuple(scopes)}; wanted one or more of {', '.join(SCOPES)}, or all")
    measures = as_measures(measures)
    for entry in entries:
        stored = next(entry.model.parameters()).dtype
        if stored.itemsize < torch.float32.itemsize:
            raise ValueError(
                f"{entry.name}: is in {stored}; probe it in float32 or wider, as model.float() is"
            )
    if resume is not None:
        resume.begin(_depends(entries, measures, layers, chosen, seed))
    found = []
    names: dict[str, None] = {}
    total = sum(entry.count * _steps(entry, measures, layers) for entry in entries)
    for number, entry in enumerate(entries):
        one = _Collected(entry, measures, total, progress)
        indices = _layers(entry, layers)
        shown = DistinctFrames(entry.samples())
        with _evaluating(entry.model):
            for index, sample in enumerate(shown):
                kept = None if resume is None else resume.get(number, index)
                if kept is not None:
                    one.resume(*kept)
                    for _ in range(_steps(entry, measures, layers)):
                        one.step(f"clip {sample.name}, done before")
                else:
                    _one_clip(one, sample, index, measures, indices, chosen, seed)
                    if resume is not None:
                        resume.put(number, index, *one.latest())
                one.shown(sample)
        if not one.names:
            raise ValueError(f"clips: there are none for {entry.name}")
        names[", ".join(one.names)] = None
        one.notes += shown.notes()
        found.append(one)
    if len(names) > 1:
        raise ValueError(f"clips: the models saw different ones: {' and '.join(names)}")
    result = _result(found, measures, source, command, resamples, seed, chosen)
    if discard and resume is not None:
        resume.discard()
    return result


def _layers(entry: Entry, layers: Sequence[int] | None) -> list[int]:
    chosen = layers if entry.layers is None else entry.layers
    if chosen is not None and not len(chosen):
        raise ValueError("layers: there are none; name one or more, or leave it out for all")
    return layer_indices(chosen, len(_family(entry).mixers(entry.model)))


def _family(entry: Entry) -> Family:
    return entry.family or family_of(entry.model)


def _one_clip(
    out: _Collected,
    sample: Sample,
    index: int,
    measures: Sequence[Measure],
    layers: Sequence[int],
    scopes: tuple[Scope, ...],
    seed: int,
) -> None:
    """Add to `out` what every measure makes of one clip, place by place."""
    entry = out.entry
    whole = ModelView(entry.model, sample, entry.family, entry.layout)
    out.begin()
    by_layer = [m for m in measures if m.level == "matrix"]
    # Where only the whole model is measured, its first layer says where tokens lie and what the model ran as.
    looked = layers if by_layer else [] if out.about["dtype"] else layers[:1]
    with torch.inference_mode():
        inputs = layer_inputs(entry.model, whole.clip[None], looked, family=entry.family) if looked else {}
        for layer in looked:
            _check_inputs(layer, inputs.get(layer, []))
            rngs = {m.name: np.random.default_rng([seed, index, layer]) for m in by_layer}
            for hidden, direction in inputs[layer]:
                site = SiteRun(entry.model, sample, layer, hidden, direction, scopes, tuple(layers), entry.family,
                               entry.layout)  # fmt: skip
                out.see(site)
                for measure in by_layer:
                    for view in views(site, measure):
                        values = measure.per_clip(view, rngs[measure.name])
                        out.take(measure.name, view.place(entry.name), values)
                if by_layer:
                    out.step(" ".join(filter(None, [f"layer {layer}", direction])))
    for measure in measures:
        if measure.level == "model":
            values = measure.per_clip(whole, np.random.default_rng([seed, index]))
            layout = out.layout or TokenLayout.sequence(0)
            out.take(measure.name, Place(entry.name, *WHOLE_MODEL, layout, False, 1), values)
            out.step(measure.name)


def _check_inputs(layer: int, inputs: Sequence[tuple[Tensor, str | None]]) -> None:
    """Raise CaptureError where a layer did not run once for the one clip, as one number a layer is then not defined."""
    if not inputs:
        raise CaptureError(f"layer {layer}: did not run; name the layers that do with layers=")
    directions = [direction for _, direction in inputs]
    if len(set(directions)) < len(directions):
        raise CaptureError(
            f"layer {layer}: ran {len(directions)} times for one clip; a mixer that is shared is not known"
        )
    for hidden, _ in inputs:
        if hidden.shape[0] != 1:
            raise CaptureError(
                f"layer {layer}: sees a batch of {hidden.shape[0]} for one clip; frames that are folded into the batch "
                "are not known, as one token then relates to its own frame alone"
            )


@final
class _Collected:
    """What one model gave, clip by clip."""

    def __init__(self, entry: Entry, measures: Sequence[Measure], total: int, progress: Progress | None):
        self.entry, self._total, self._progress = entry, total, progress
        self._measures = {m.name: m for m in measures}
        self.clips: dict[str, dict[Key, list[dict[str, np.ndarray]]]] = {m.name: {} for m in measures}
        self.sums: dict[str, dict[Key, dict[str, np.ndarray]]] = {m.name: {} for m in measures}
        self.places: dict[tuple[str, Key], Place] = {}
        self.names: list[str] = []
        self.labels: list[str | None] = []
        self.notes: tuple[str, ...] = entry.notes
        self.layout = entry.layout if isinstance(entry.layout, TokenLayout) else None
        self.shape: tuple[int, ...] = ()
        self.about: dict[str, Any] = {"dtype": "", "backend": "", "residual": ""}
        self._latest: dict[tuple[str, Key], dict[str, np.ndarray]] = {}
        self._shapes: dict[tuple[str, Key], dict[str, tuple[int, ...]]] = {}

    def see(self, site: SiteRun) -> None:
        """Note what a layer ran as."""
        capture = site.captures[0]
        self.layout = capture.layout
        if capture.is_scan or not self.about["dtype"]:
            self.about["dtype"] = str(capture.dtype).removeprefix("torch.")
            self.about["backend"] = capture.backend()
        if isinstance(capture, Capture):
            self.about["residual"] = capture.terms.residual

    def shown(self, sample: Sample) -> None:
        self.names.append(sample.name)
        self.labels.append(sample.label)
        self.shape = tuple(sample.tokens.shape)

    def begin(self) -> None:
        """Begin another clip."""
        self._latest = {}

    def take(self, measure: str, place: Place, values: Mapping[str, Any]) -> None:
        """Keep what a measure gave in one place for the clip."""
        self._add(measure, place, {n: numpy_of(value) for n, value in values.items() if value is not None})

    def _add(self, measure: str, place: Place, arrays: dict[str, np.ndarray]) -> None:
        key = (place.layer, place.direction, place.scope)
        shapes = {name: value.shape for name, value in arrays.items()}
        check_shapes(self._measures[measure], arrays, self._shapes.setdefault((measure, key), shapes))
        self._latest[measure, key] = arrays
        self.places[measure, key] = place
        summed = self._measures[measure].summed
        kept = {name: value for name, value in arrays.items() if name not in summed}
        self.clips[measure].setdefault(key, []).append(kept)
        sums = self.sums[measure].setdefault(key, {})
        for name in arrays.keys() - kept.keys():
            sums[name] = sums[name] + arrays[name] if name in sums else arrays[name]

    def step(self, what: str) -> None:
        """Tell what was just done."""
        if self._progress is not None:
            self._progress(f"{self.entry.name}: {what}", self._total)

    def latest(self) -> tuple[dict[tuple[str, Key], dict[str, np.ndarray]], dict[str, Any]]:
        """What the clip that ran last gave, and what `resume` needs beside it."""
        places = [
            [measure, *key, place.is_scan, place.reach]
            for (measure, key) in self._latest
            for place in [self.places[measure, key]]
        ]
        layout = None if self.layout is None else vars(self.layout)
        return self._latest, {**self.about, "layout": layout, "places": places}

    def resume(
        self, record: Mapping[tuple[str, Key], Mapping[str, np.ndarray]], about: dict[str, Any]
    ) -> None:
        """Take what an earlier run kept of a clip in the place of running it."""
        kept = about["layout"]
        if kept is not None:
            self.layout = TokenLayout(
                tuple(kept["class_positions"]), kept["frames"], tuple(kept["grid"]), kept["plain"]
            )
        self.about = {name: about[name] for name in self.about}
        for measure, layer, direction, scope, is_scan, reach in about["places"]:
            key = (layer, direction, scope)
            layout = self.layout or TokenLayout.sequence(0)
            place = Place(self.entry.name, layer, direction, scope, layout, is_scan, reach)
            self._add(measure, place, {n: np.asarray(v) for n, v in record[measure, key].items()})


def _result(
    found: Sequence[_Collected],
    measures: Sequence[Measure],
    source: str,
    command: str,
    resamples: int,
    seed: int,
    scopes: tuple[Scope, ...],
) -> Result:
    first = found[0]
    n = len(first.names)
    weights = resample_weights(n, resamples, seed) if n > 1 else None
    keys = [key for one in found for by_key in one.clips.values() for key in by_key]
    table = Variables([one.entry.name for one in found], keys, scopes, first.names)
    for measure in measures:
        for one in found:
            for key, clips in one.clips[measure.name].items():
                place = one.places[measure.name, key]
                data = clips_of(measure, clips, one.sums[measure.name][key], place)
                table.put(measure, place, data, estimates(measure, data, weights))
    data = xr.Dataset(table.variables(measures), coords=table.coords(measures))
    origin = provenance(
        command,
        seed,
        resamples,
        {m.name: m.settings for m in measures},
        Clips(source, tuple(first.names), tuple(first.labels)),
        {one.entry.name: _origin(one, table.sizes[one.entry.name]) for one in found},
    )
    draft = Result(data, origin, measures)
    notes = _notes(found) + [note for m in measures for note in m.notes(draft)]
    return with_notes(draft, notes)


def _notes(found: Sequence[_Collected]) -> list[str]:
    """What holds for all numbers of a result; with the models named where it holds for some alone."""
    said: dict[str, list[str]] = {}
    for one in found:
        for note in (*_layout_notes(one), *one.notes):
            said.setdefault(note, []).append(one.entry.name)
    notes = [
        note if len(names) == len(found) else f"{', '.join(names)}: {note}" for note, names in said.items()
    ]
    if len(found[0].names) == 1:
        notes.append("One clip was shown: there are no intervals over clips.")
    return notes


def _layout_notes(one: _Collected) -> Iterator[str]:
    layout = one.layout
    if layout is None:
        return
    if layout.frames == 0:
        yield "A plain sequence has no frames and no class token, so quantities of those are gaps."
    elif layout.frames == 1:
        yield "The model sees one frame: frame lags, frame matrix and class row by frame are gaps."
    if layout.frames and len(one.shape) == 4 and one.shape[1] > layout.frames:
        span = one.shape[1] // layout.frames
        yield f"Frames are counted as the model sees them: a token spans {span} frames of the clip."
    if layout.frames and not layout.class_positions:
        yield "The model has no class token: its row is a gap."
    if len(layout.class_positions) > 1:
        yield "The class row is the mean over the class tokens."
    directions = {key[1] for by_key in one.clips.values() for key in by_key if key[0] >= 0}
    if directions == {"forward"} and one.about["residual"]:
        yield "The model scans forward only: there is no backward direction."
    if one.about["residual"] == "elemental":
        yield "The residual \"elemental\" is this toolkit's reading of the paper's text, not a released form."


def _origin(one: _Collected, sizes: Mapping[str, int]) -> ModelOrigin:
    layout = one.layout or TokenLayout.sequence(0)
    return origin_of(
        one.entry.model, one.entry.origin, layout, one.shape, one.about["dtype"], one.about["backend"], sizes
    )


def _steps(entry: Entry, measures: Sequence[Measure], layers: Sequence[int] | None) -> int:
    """How many steps one clip takes: one for each input of a layer, and one for each measure of the whole model."""
    family = _family(entry)
    indices = _layers(entry, layers)
    whole = [m for m in measures if m.level == "model"]
    inputs = sum(len(family.sites(entry.model, i)) for i in indices) if len(whole) < len(measures) else 0
    return inputs + len(whole)


def _depends(
    entries: Sequence[Entry],
    measures: Sequence[Measure],
    layers: Sequence[int] | None,
    scopes: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """All that changes what a clip gives, as `Unfinished.begin` takes it."""
    return {
        "toolkit": toolkit_version(),
        "torch": torch.__version__,
        "layers": None if layers is None else list(layers),
        "scopes": list(scopes),
        "seed": seed,
        "measures": {m.name: [m.settings, text_of(type(m).per_clip)] for m in measures},
        "models": [
            {
                "name": entry.name,
                "weights": entry.origin.get("weights_sha256") or weights_sha256(entry.model.state_dict()),
                "layout": text_of_layout(entry.layout),
                "family": _family(entry).NAME,
                "layers": entry.layers,
                **entry.shown,
            }
            for entry in entries
        ],
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode and leave every module's mode as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
