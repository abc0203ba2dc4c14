"""One decay probe from a request to a result: load, show, reduce, measure, write."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from analysis.capture import family_of
from analysis.decay.figures import write_figures
from analysis.decay.heatmaps import Heatmap, save_heatmaps
from analysis.decay.measure import measure
from analysis.decay.probe import probe, views
from analysis.decay.result import DecayResult
from analysis.inputs import DistinctFrames
from analysis.request import Request, Step, layout_record
from analysis.results import Layout, replacing, save, write_csv
from analysis.subject import Subject, subject_of
from analysis.unfinished import Unfinished
from vmp.config import ModelConfig

MOST_DRAWN = 6
"""Layers drawn as heatmaps where more were chosen: the first, the last and some evenly between."""

WRITTEN = ("result.json", "decay.csv", "lag_profiles.csv", "heatmaps.npz", "figures")
"""What `write` puts into its folder."""


def run(
    request: Request, command: str, step: Step | None = None, keep: Unfinished | None = None
) -> tuple[DecayResult, tuple[Heatmap, ...]]:
    """Probe one checkpoint.

    Args:
        command: the command line, for the result's provenance.
        step: called after each layer, direction, scope and clip.
        keep: where the sums of finished clips wait, so that the same request goes on after a kill. The caller
            discards them.

    Raises:
        RequestError: a request or a checkpoint that will not do. InputError: a clip that cannot be read. Both
            with a message for the user.
    """
    return run_on(subject_of(request), command, step, keep)


def run_on(
    subject: Subject, command: str, step: Step | None = None, keep: Unfinished | None = None
) -> tuple[DecayResult, tuple[Heatmap, ...]]:
    """`run` of a checkpoint that is read."""
    layers, config = subject.layers, subject.config
    draw = layers_to_draw(layers)
    source, count, samples = subject.samples()
    shown = DistinctFrames(samples)
    if keep is not None:
        keep.begin(subject.depends())
    total = count * len(layers) * rows_a_layer(subject.model, config) * len(subject.scopes)
    probed = probe(
        subject.model,
        shown,
        layers=layers,
        scopes=subject.scopes,
        draw=draw,
        progress=None if step is None else lambda done: step(done, total),
        unfinished=keep,
    )
    layout = layout_record(probed.layout)
    request = subject.request
    measurements, curves = measure(probed.sums, layout, request.bootstrap, request.seed)
    result = DecayResult(
        provenance=subject.provenance(command, source, probed),
        layout=layout,
        layers=layers,
        scopes=subject.scopes,
        resamples=request.bootstrap,
        notes=(*_notes(layout, layers, draw, len(probed.names), config), *shown.notes()),
        measurements=measurements,
        curves=curves,
        sums=probed.sums,
    )
    return result, probed.heatmaps


def write(
    result: DecayResult,
    heatmaps: Sequence[Heatmap],
    directory: Path,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write JSON, CSV, heatmaps and figures to a folder, which appears whole or not at all.

    Raises ResultError where the folder cannot be written or holds files of others.
    """
    with replacing(directory, WRITTEN) as new:
        save(result, new / "result.json")
        scalars = [c for c in result.curves if c.quantity != "lag_profile"]
        write_csv(new / "decay.csv", result.measurements, scalars)
        profiles = [c for c in result.curves if c.quantity == "lag_profile"]
        write_csv(new / "lag_profiles.csv", (), profiles)
        save_heatmaps(heatmaps, new / "heatmaps.npz")
        write_figures(result, heatmaps, new / "figures", progress)


def rows_a_layer(model: nn.Module, config: ModelConfig) -> int:
    """How many directions, and sides of a direction, a layer is reported in."""
    if config.mixer == "attention":
        sites = family_of(model).sites(model, 0)
        return len(sites) * len(views("forward" if config.directions == "forward" else "both"))
    return 2 if config.directions == "both" else 1


def layers_to_draw(layers: Sequence[int]) -> list[int]:
    """All layers where they are few, else `MOST_DRAWN` from the first to the last."""
    if len(layers) <= MOST_DRAWN:
        return list(layers)
    last = len(layers) - 1
    return [layers[round(i * last / (MOST_DRAWN - 1))] for i in range(MOST_DRAWN)]


def _notes(
    layout: Layout, layers: Sequence[int], draw: Sequence[int], count: int, config: ModelConfig
) -> tuple[str, ...]:
    notes = []
    if layout.frames == 0:
        notes.append(
            "The model was shown token ids drawn uniformly at random, which are no text. A plain sequence has "
            "no frames and no class token, so quantities of those are gaps."
        )
    elif layout.frames == 1:
        notes.append("The model sees one frame: frame lags, frame matrix and class row by frame are gaps.")
    if layout.frames and config.tubelet_size > 1:
        notes.append(
            f"Frames are counted as the model sees them: a token spans {config.tubelet_size} frames of the clip."
        )
    if layout.frames and not layout.class_positions:
        notes.append("The model has no class token: its row is a gap.")
    if len(layout.class_positions) > 1:
        notes.append("The class row is the mean over the class tokens.")
    if count == 1:
        notes.append("One clip was shown: there are no intervals over clips.")
    if config.mixer == "attention":
        notes.append(
            "Self-attention has no scan: predicted half-lives are gaps. Where it looks both ways, its whole rows stand "
            "first, then each side alone (j<=i, j>=i), whose rows are divided by their sums over that side."
        )
    elif config.directions == "forward":
        notes.append("The model scans forward only: there is no backward direction.")
    if config.residual == "elemental":
        notes.append(
            "The residual \"elemental\" is this toolkit's reading of the paper's text, not a released form."
        )
    if len(draw) < len(layers):
        notes.append(f"Heatmaps were drawn for layers {', '.join(map(str, draw))}; --layers chooses others.")
    return tuple(notes)
