"""RESULTS.md and its figures, from the saved JSON alone: one table for each topic."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from analysis.files import write_text
from experiments.bench.figure import draw_growth
from experiments.bench.gpu.efficiency_figure import draw_efficiency, efficiency_points
from experiments.bench.gpu.runner import STEP
from experiments.bench.gpu.targets import target_table
from experiments.bench.results import BenchRun, Check, Row, find_runs
from experiments.bench.words import digits, in_unit, power
from experiments.markdown import markdown_table

TRIED = Path(__file__).with_name("tried.md")
INTRO = (
    "`python -m experiments.bench report` writes this page from the saved JSON files. Each figure is the median of "
    "repeated calls after a warm-up. The calls of one table took turns in one process; of a table by length, the calls "
    "of one column. A column headed x NAME is the figure divided by that of NAME in the same table. The spread is the "
    "distance between the quartiles. The power is the p of the fit time = c length^p.",
    "Nothing is timed that the correctness gate refuses. Its tables show, for each subject, the tensor that came "
    "nearest to its bound, or that failed: the largest gap to the definition in float64 on the same numbers, over the "
    "largest entry of the tensor, in eps of its dtype. The definition is `vmp.scan.spec`; for `reduce` it is the "
    "dense matrix, and for `model` the model with the specification's scan.",
)
TITLES = {
    "scan": "Selective scan",
    "reduce": "Implicit attention",
    "model": "Whole model",
    "gpu": "Scan, matrix and models",
}
SERIES = re.compile(r"(growth|memory|reduce) (L|frames)=(\d+)$")
"""Groups that are one point of a series, which is shown as one table."""
COMPARED = ("s", "bytes", "clips/s")
"""Units of figures whose ratio is shown."""
LONGEST = 160
"""Characters of a problem or a note; the JSON holds all of them."""


def write_report(results: Path, out: Path, figures: Path, tried: Path = TRIED) -> None:
    """Write the report of every run saved in a folder.

    Args:
        results: the folder of the runs.
        out: the page.
        figures: folder of the figures.
        tried: a page that is copied into the report, where it exists.

    Raises:
        ResultError: There is no such folder, or one of its files is not a run.
    """
    runs = find_runs(results)
    gpu = runs.get(("gpu", "cuda"))
    figures.mkdir(parents=True, exist_ok=True)
    drawn = {"scan": draw_growth(runs.values(), figures)}
    if gpu and efficiency_points(gpu, "throughput"):
        drawn["gpu"] = draw_efficiency(gpu, figures)
    parts = ["# Timings", *INTRO]
    for run in runs.values():
        parts += _run(run)
        if path := drawn.get(run.subcommand):
            parts.append(f"![{path.stem}]({os.path.relpath(path, out.parent)})")
    parts += ["## Targets of the GPU", "" if gpu else "`make gpu` has not been run.", target_table(gpu)]
    if tried.exists():
        parts.append(tried.read_text(encoding="utf-8").strip())
    write_text(out, "\n\n".join(filter(None, parts)) + "\n")


def _run(run: BenchRun) -> Iterator[str]:
    machine = run.machine
    yield f"## {TITLES.get(run.subcommand, run.subcommand)}, {run.device.upper()}"
    if run.quick:
        yield "This is a quick run, whose sizes are too small for its figures to mean anything."
    yield (
        f"`{run.command}`, {run.date}, seed {run.seed}. {f'{machine.gpu}; ' if machine.gpu else ''}{machine.cpu}, "
        f"{machine.cores} cores, {machine.threads} threads, {machine.vector} bit vectors, {machine.memory_gb:g} GB, "
        f"{machine.system}. {', '.join(f'{name} {version}' for name, version in run.versions.items())}."
    )
    shown = {row.subject for row in run.rows if row.samples or row.problem.startswith("FAILED")}
    absent = {row.subject: row.problem for row in run.rows if row.subject not in shown}
    topics: dict[str, list[Row]] = {}
    for row in run.rows:
        if row.subject == STEP:
            topics.setdefault("steps", []).append(replace(row, group="steps", subject=row.group))
        elif row.subject in shown:
            topics.setdefault(_topic(row), []).append(row)
    for topic, rows in topics.items():
        inputs = {str(row.case["inputs"]) for row in rows if "inputs" in row.case}
        yield f"### {topic}" + (f", {inputs.pop()}" if len(inputs) == 1 else "")
        yield _series(rows) if SERIES.match(rows[0].group) else _group(rows)
        yield _remarks(rows)
    yield from _checks(run)
    yield "### Names"
    named = [f"- {name}: {says}" for name, says in run.subjects.items() if name not in absent]
    yield "\n".join([*named, *(f"- {name}: {_short(said)}" for name, said in absent.items())])


def _topic(row: Row) -> str:
    """The table that a row stands in."""
    if not (point := SERIES.match(row.group)):
        return row.group
    what = {"growth": "Time", "memory": "Peak memory above the inputs", "reduce": "Time"}[point[1]]
    return f"{what} by {point[2]}" + ("" if row.quantity in ("time", "memory") else f", {row.quantity}")


def _group(rows: Sequence[Row]) -> str:
    """A line for each subject; for each quantity its median, its ratio to the first subject's, and its spread."""
    quantities = {row.quantity: row.unit for row in rows}
    subjects = list(dict.fromkeys(row.subject for row in rows))
    cells = {(row.subject, row.quantity): row for row in rows if row.samples}
    head, columns = ["subject"], [subjects]
    for quantity, unit in quantities.items():
        found = [cells.get((subject, quantity)) for subject in subjects]
        head.append(quantity)
        columns.append([in_unit(row.median, unit) if row else "-" for row in found])
        if unit in COMPARED and len(subjects) > 1 and (first := found[0]) and first.median:
            head.append(f"x {first.subject}")
            columns.append([f"{digits(row.median / first.median)}" if row else "-" for row in found])
        if any(row and len(row.samples) > 1 for row in found):
            head.append("spread")
            columns.append(
                [in_unit(row.spread, unit) if row and len(row.samples) > 1 else "-" for row in found]
            )
    return markdown_table(head, zip(*columns, strict=True))


def _series(rows: Sequence[Row]) -> str:
    """A line for each subject, a column for each length, and the power of the length that fits."""
    points = sorted({_point(row) for row in rows})
    lines = []
    for subject in dict.fromkeys(row.subject for row in rows):
        found = {_point(row): row for row in rows if row.subject == subject and row.samples}
        medians = [in_unit(found[at].median, found[at].unit) if at in found else "-" for at in points]
        values = [row.median for row in found.values()]
        fits = len(found) > 1 and min(values) > 0
        lines.append([subject, *medians, f"{power(found, values):.2f}" if fits else "-"])
    return markdown_table(["subject", *(f"{at:,}" for at in points), "power"], lines)


def _point(row: Row) -> int:
    match = SERIES.match(row.group)
    assert match is not None, row.group
    return int(match[3])


def _remarks(rows: Iterable[Row]) -> str:
    """What is to be known of figures, and why there are none; what is said of several is said once."""
    said: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        where = f"{_point(row):,}" if SERIES.match(row.group) else row.quantity
        for text in filter(None, (row.problem, row.note)):
            said.setdefault(_short(text), {}).setdefault(row.subject, []).append(where)
    return "\n".join(f"- {_places(places)}: {text}" for text, places in said.items())


def _places(places: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{subject} ({', '.join(dict.fromkeys(at))})" for subject, at in places.items())


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3].rstrip() + "..."


def _checks(run: BenchRun) -> Iterator[str]:
    """The worst check of each subject."""
    if not run.checks:
        return
    yield "### Correctness gate"
    found: dict[tuple[str, str, str], list[Check]] = {}
    for check in run.checks:
        found.setdefault((check.group, check.subject, check.inputs), []).append(check)
    lines = []
    for names, checks in found.items():
        worst = max(checks, key=lambda check: (not check.passed, check.deviation / (check.allowed or 1)))
        shown = f"{worst.deviation:.3g}" if worst.passed else f"**FAILED: {worst.deviation:.3g}**"
        lines.append([*names, worst.tensor, shown, f"{worst.allowed:g}"])
    yield markdown_table(["group", "subject", "inputs", "tensor", "gap", "allowed"], lines)
