"""Several checkpoints from a request to a result: the same clips through decay, contradiction and deletion."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.compare.faithful import SEEDS, faithfulness
from analysis.compare.figures import write_figures
from analysis.compare.result import CompareResult, Faithfulness, ModelResult
from analysis.contradiction import run as contradiction
from analysis.decay import run as decay
from analysis.request import Request, RequestError, Step, name_of
from analysis.results import COLUMNS, measurement_rows, replacing, save
from analysis.subject import Subject, subject_of
from analysis.unfinished import Unfinished

SCOPE = "contribution"
"""The scope in which scans and self-attention are comparable: both are norms in the units of the layer's output."""

WRITTEN = ("result.json", "compare.csv", "figures")
"""What `write` puts into its folder."""


def run(
    requests: Sequence[Request],
    command: str,
    *,
    seeds: int = SEEDS,
    step: Step | None = None,
    keep: Callable[[str], Unfinished] | None = None,
) -> CompareResult:
    """Compare checkpoints, a request each, all but the checkpoint alike.

    Args:
        command: the command line, for the results' provenance.
        seeds: random orders a clip, for the deletion curves.
        step: called as work goes on.
        keep: gives, by name, where the finished clips of one probe of one model wait. The caller discards them.

    Raises:
        RequestError: fewer than two checkpoints, or one that cannot be compared. InputError: a clip that cannot be
            read. Both with a message for the user.
    """
    if len(requests) < 2:
        raise RequestError(f"{len(requests)} checkpoint given; a comparison needs two: repeat --ckpt")
    # All are read before any is probed, so that one that will not do is told at once.
    subjects = [_comparable(replace(request, scopes=(SCOPE,))) for request in requests]
    names = model_names([request.checkpoint for request in requests])
    models = []
    for index, (name, subject) in enumerate(zip(names, subjects, strict=True)):

        def kept(probe: str, index: int = index) -> Unfinished | None:
            return None if keep is None else keep(f"{index}-{probe}")

        def said(what: str, total: int, name: str = name) -> None:
            if step is not None:
                step(f"{name}: {what}", total * 2 * len(subjects))

        decayed, _ = decay.run_on(subject, command, said, kept("decay"))
        asked = contradiction.Asked(with_control=False)
        contradicted = contradiction.run_on(subject, asked, command, said, kept("contradiction"))
        faithful = _faithfulness(subject, seeds, said, kept("deletion"))
        models.append(ModelResult(name, decayed, contradicted, faithful))
    shown = {model.decay.provenance.input.names for model in models}
    if len(shown) > 1:
        raise RequestError(f"the models saw different clips: {' and '.join(map(str, shown))}")
    return CompareResult(
        command=command,
        clips=models[0].decay.provenance.input.names,
        resamples=requests[0].bootstrap,
        notes=_notes(models),
        models=tuple(models),
    )


def _comparable(request: Request) -> Subject:
    """A checkpoint that can be shown clips. Raises RequestError otherwise."""
    subject = subject_of(request)
    if subject.config.kind == "language":
        raise RequestError(
            f"{request.checkpoint}: is a language model; models are compared on clips, and it takes none"
        )
    return subject


def model_names(paths: Sequence[Path]) -> list[str]:
    """Names to tell checkpoints by: their files' without the words all begin with, numbered where some are equal."""
    words = [name_of(path).split("_") for path in paths]
    while len({split[0] for split in words}) == 1 and min(map(len, words)) > 1:
        words = [split[1:] for split in words]
    stems = ["_".join(split) for split in words]
    repeated = {stem for stem, times in Counter(stems).items() if times > 1}
    return [f"{stem} ({index})" if stem in repeated else stem for index, stem in enumerate(stems, 1)]


def _faithfulness(subject: Subject, seeds: int, step: Step, keep: Unfinished | None) -> Faithfulness:
    nothing = np.zeros(0)
    if not subject.config.num_classes:
        why = "no head, and so no prediction that deletion could change"
        return Faithfulness(seeds, nothing, nothing, (), (), (), why)
    request = subject.request
    _, count, samples = subject.samples()
    if keep is not None:
        keep.begin({**subject.depends(), "deletion seeds": seeds})
    return faithfulness(
        subject.model,
        samples,
        seeds=seeds,
        seed=request.seed,
        resamples=request.bootstrap,
        progress=lambda what: step(what, count),
        unfinished=keep,
    )


def write(result: CompareResult, directory: Path, progress: Callable[[str], None] | None = None) -> None:
    """Write JSON, CSV and figures to a folder, which appears whole or not at all.

    Raises ResultError where the folder cannot be written or holds files of others.
    """
    with replacing(directory, WRITTEN) as new:
        save(result, new / "result.json")
        with (new / "compare.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("model", *COLUMNS))
            for model in result.models:
                for part in (model.decay, model.contradiction.probed, model.faithfulness):
                    writer.writerows((model.name, *row) for row in measurement_rows(part.measurements))
        write_figures(result, new / "figures", progress)


def _notes(models: Sequence[ModelResult]) -> tuple[str, ...]:
    notes = []
    inputs = [model.decay.provenance.input for model in models]
    if len({(shown.frames, shown.size) for shown in inputs}) > 1:
        shapes = ", ".join(
            f"{model.name} {shown.frames} frames of {shown.size} pixels"
            for model, shown in zip(models, inputs, strict=True)
        )
        notes.append(f"Each model saw the same clips sampled to its own shape: {shapes}.")
    grids = [(layout.frames, layout.patches) for layout in (model.decay.layout for model in models)]
    if len(set(grids)) > 1:
        counts = ", ".join(
            f"{model.name} {patches} in each of {frames}"
            for model, (frames, patches) in zip(models, grids, strict=True)
        )
        notes.append(
            f"Tokens a frame, and frames as the model sees them, differ: {counts}. Lags, half-lives and contexts in "
            "tokens, and deletion areas of parts so different in size, compare within a model, not between these."
        )
    said: defaultdict[str, list[str]] = defaultdict(list)
    for model in models:
        # Those of the contradiction probe are of its own table and of the control that a comparison has no use for.
        for note in model.decay.notes:
            said[note].append(model.name)
    for note, names in said.items():
        notes.append(note if len(names) == len(models) else f"{', '.join(names)}: {note}")
    return tuple(notes)
