"""One contradiction probe from a request to a result: load, show, measure, beside a control; write."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from analysis.capture import family_of
from analysis.contradiction.example import Example, find_example, save_example
from analysis.contradiction.figures import write_figures
from analysis.contradiction.measure import measure
from analysis.contradiction.probe import Probed, probe
from analysis.contradiction.result import ContradictionResult, Side
from analysis.inputs import DistinctFrames, Sample
from analysis.pretrained import is_folder
from analysis.request import Request, RequestError, Step, checkpoint_info, layout_record, name_of
from analysis.results import CheckpointInfo, Layout, replacing, save, write_csv
from analysis.subject import Subject, subject_of
from analysis.unfinished import Unfinished
from vmp.config import ModelConfig, attention_control
from vmp.model import build_model

MEDIATORS = 16

WRITTEN = ("result.json", "contradiction.csv", "control.csv", "example.npz", "figures")
"""What `write` puts into its folder."""


@dataclass(frozen=True)
class Asked:
    """What is asked of this probe beyond a request.

    Attributes:
        mediators: tokens replaced, one at a time, in each layer and clip.
        control: a checkpoint of self-attention; None for fresh weights of the same size.
        with_control: whether there is a control at all.
    """

    mediators: int = MEDIATORS
    control: Path | None = None
    with_control: bool = True


@dataclass(frozen=True)
class _Control:
    """The control's model and what to call it; ``weights`` tells runs with different ones apart."""

    model: nn.Module
    config: ModelConfig
    label: str
    checkpoint: CheckpointInfo | None
    weights: str


def run(
    request: Request,
    asked: Asked,
    command: str,
    step: Step | None = None,
    keep: Unfinished | None = None,
    *,
    with_example: bool = True,
) -> tuple[ContradictionResult, Example | None]:
    """Probe one checkpoint, and a self-attention control on the same clips; with one relation worked out in frames.

    Args:
        command: the command line, for the result's provenance.
        step: called after each layer, direction, scope and clip of either model.
        keep: where the values of finished clips wait, so that the same request goes on after a kill. The caller
            discards them.

    Raises:
        RequestError: a request or a checkpoint that will not do. InputError: a clip that cannot be read. Both with a
            message for the user.
    """
    subject = subject_of(request)
    result = run_on(subject, asked, command, step, keep)
    if not with_example:
        return result, None
    first = next(iter(subject.samples()[2]))
    return result, find_example(result, subject.model, first, subject.config.tubelet_size, request.seed)


def run_on(
    subject: Subject,
    asked: Asked,
    command: str,
    step: Step | None = None,
    keep: Unfinished | None = None,
) -> ContradictionResult:
    """The measures of `run`, without the worked example, for a checkpoint that is read."""
    request, config = subject.request, subject.config
    layers, scopes = subject.layers, subject.scopes
    control = _control(subject, asked)
    if control is not None and layers[-1] >= control.config.depth:
        raise RequestError(
            f"--control {asked.control}: has layers 0 to {control.config.depth - 1}; layer {layers[-1]} is probed"
        )
    source, count, samples = subject.samples()
    shown = DistinctFrames(samples)
    if keep is not None:
        against = None if control is None else control.weights
        keep.begin({**subject.depends(), "mediators": asked.mediators, "control": against})
    total = count * len(layers) * len(scopes)
    total *= _directions(subject.model, config) + (
        0 if control is None else _directions(control.model, control.config)
    )

    def probed_of(model: nn.Module, first: int, samples: Iterable[Sample]) -> Probed:
        return probe(
            model,
            samples,
            layers=layers,
            scopes=scopes,
            mediators=asked.mediators,
            seed=request.seed,
            progress=None if step is None else lambda done: step(done, total),
            unfinished=keep,
            first=first,
        )

    probed = probed_of(subject.model, 0, shown)
    sides = [_side(name_of(request.checkpoint), None, probed, request)]
    if control is not None:
        other = probed_of(control.model, count, subject.samples()[2])
        sides.append(_side(control.label, control.checkpoint, other, request))
    layout = layout_record(probed.layout)
    return ContradictionResult(
        provenance=subject.provenance(command, source, probed),
        layout=layout,
        layers=layers,
        scopes=scopes,
        mediators=asked.mediators,
        resamples=request.bootstrap,
        notes=(*_notes(layout, probed, config, control), *shown.notes()),
        probed=sides[0],
        control=sides[1] if len(sides) > 1 else None,
    )


def _side(label: str, checkpoint: CheckpointInfo | None, probed: Probed, request: Request) -> Side:
    measurements, curves = measure(
        probed.values, probed.layout.length, probed.margin, request.bootstrap, request.seed
    )
    return Side(label, checkpoint, measurements, curves, probed.values)


def _directions(model: nn.Module, config: ModelConfig) -> int:
    both = config.mixer == "mamba" and config.directions == "both"
    return 2 if both else len(family_of(model).sites(model, 0))


def _control(subject: Subject, asked: Asked) -> _Control | None:
    """The control, or None where none is wanted, or none given for a checkpoint that is self-attention itself."""
    config, seed = subject.config, subject.request.seed
    if asked.control is not None:
        return _control_of_file(asked.control, subject)
    if not asked.with_control or config.mixer == "attention":
        return None
    same_size = attention_control(config)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = build_model(same_size).to(subject.request.device).eval()
    label = f"self-attention, untrained, seed {seed}"
    return _Control(model, same_size, label, None, label)


def _control_of_file(path: Path, subject: Subject) -> _Control:
    config = subject.config
    fixed = config.kind == "language" or is_folder(path)
    shape = () if fixed else (("num_frames", config.num_frames), ("image_size", config.image_size))
    read = subject_of(Request(path, device=subject.request.device, overrides=shape))
    if read.config.mixer != "attention":
        raise RequestError(f"--control {path}: its mixers are scans; a self-attention checkpoint is needed")
    if read.config.kind != config.kind:
        raise RequestError(f"--control {path}: is a {read.config.kind} model; {config.kind} is needed")
    theirs, wanted = ((c.num_frames, c.image_size) for c in (read.config, config))
    if config.kind != "language" and theirs != wanted:
        raise RequestError(
            f"--control {path}: takes {theirs[0]} frames of {theirs[1]} pixels; {wanted[0]} of {wanted[1]} are shown"
        )
    info, label = checkpoint_info(path, read.loaded), f"self-attention, {path.name}"
    return _Control(read.model, read.config, label, info, read.loaded.weights_sha256)


def write(
    result: ContradictionResult,
    example: Example | None,
    directory: Path,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write JSON, CSV, the worked example and figures to a folder, which appears whole or not at all.

    Raises ResultError where the folder cannot be written or holds files of others.
    """
    with replacing(directory, WRITTEN) as new:
        save(result, new / "result.json")
        write_csv(new / "contradiction.csv", result.probed.measurements, result.probed.curves)
        if result.control is not None:
            write_csv(new / "control.csv", result.control.measurements, result.control.curves)
        if example is not None:
            save_example(example, new / "example.npz")
        write_figures(result, example, new / "figures", progress)


def _notes(layout: Layout, probed: Probed, config: ModelConfig, control: _Control | None) -> tuple[str, ...]:
    notes = []
    if layout.frames == 0:
        notes.append("The model was shown token ids drawn uniformly at random, which are no text.")
    if config.mixer == "mamba" and config.directions == "forward":
        notes.append("The model scans forward only: there is no backward direction.")
    if config.mixer == "attention":
        notes.append(
            "The checkpoint is self-attention itself, so that it has no control unless --control names one."
        )
    if control is not None and control.checkpoint is None:
        notes.append(
            f"The control is {control.label}: fresh weights, as many as the checkpoint's mixers have, that show what "
            "the form of self-attention gives, not what training makes of it; --control takes a trained one."
        )
    if config.mask_backward:
        notes.append(
            "The backward mask makes alpha_jj 0, so its transitivity residual is 1 by structure; figures and the "
            "column before the mask show that of the same scan without it."
        )
    if len(probed.names) == 1:
        notes.append("One clip was shown: there are no intervals over clips.")
    if config.residual == "elemental":
        notes.append(
            "The residual \"elemental\" is this toolkit's reading of the paper's text, not a released form."
        )
    return tuple(notes)
