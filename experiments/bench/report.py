"""RESULTS.md and its figures, from the saved JSON alone: one table for each topic."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

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
_short = partial(shorten, width=LONGEST, placeholder="...")


class Cell(NamedTuple):
    """A row's place in a table: in the column of its quantity, or of its length in a series."""

    subject: str
    column: str | int
    row: Row


def write_report(results: Path, out: Path, figures: Path, tried: Path = TRIED) -> None:
    """Write the page `out` about every run saved in a folder, with figures, and with the page `tried` if there is one.

    Raises ResultError if there is no such folder, or one of its files is not a run.
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
    topics: dict[str, list[Cell]] = {}
    for row in run.rows:
        if row.subject in shown | {STEP}:
            topic, cell = _placed(row)
            topics.setdefault(topic, []).append(cell)
    for topic, cells in topics.items():
        inputs = {str(row.case["inputs"]) for _, _, row in cells if "inputs" in row.case}
        yield f"### {topic}" + (f", {inputs.pop()}" if len(inputs) == 1 else "")
        yield _table(cells)
        yield _remarks(cells)
    if run.checks:
        yield "### Correctness gate"
        yield _gate(run.checks)
    yield "### Names"
    named = {name: says for name, says in run.subjects.items() if name not in absent}
    named |= {name: _short(problem) for name, problem in absent.items()}
    yield "\n".join(f"- {name}: {says}" for name, says in named.items())


def _placed(row: Row) -> tuple[str, Cell]:
    """The table that a row stands in, and its place there: a point of a series stands under its length."""
    if row.subject == STEP:
        return "steps", Cell(row.group, row.quantity, row)
    if not (point := SERIES.match(row.group)):
        return row.group, Cell(row.subject, row.quantity, row)
    what = {"growth": "Time", "memory": "Peak memory above the inputs", "reduce": "Time"}[point[1]]
    of = "" if row.quantity in ("time", "memory") else f", {row.quantity}"
    return f"{what} by {point[2]}{of}", Cell(row.subject, int(point[3]), row)


def _table(cells: Sequence[Cell]) -> str:
    """A line for each subject: the median, ratio to the first subject and spread of each quantity; or a series."""
    found = {(cell.subject, cell.column): cell.row for cell in cells if cell.row.samples}
    subjects = list(dict.fromkeys(cell.subject for cell in cells))
    columns, table = list(dict.fromkeys(cell.column for cell in cells)), [("subject", subjects)]
    for column in sorted(columns, key=lambda column: column if isinstance(column, int) else 0):
        rows = [found.get((subject, column)) for subject in subjects]
        table.append((_head(column), [in_unit(row.median, row.unit) if row else "-" for row in rows]))
        if isinstance(column, int):
            continue
        if len(subjects) > 1 and (first := rows[0]) and first.unit in COMPARED and first.median:
            ratios = [digits(row.median / first.median) if row else "-" for row in rows]
            table.append((f"x {subjects[0]}", ratios))
        repeated = [row if row and len(row.samples) > 1 else None for row in rows]
        if any(repeated):
            table.append(("spread", [in_unit(row.spread, row.unit) if row else "-" for row in repeated]))
    if isinstance(cells[0].column, int):
        table.append(("power", [_power(subject, found) for subject in subjects]))
    head, words = zip(*table, strict=True)
    return markdown_table(head, zip(*words, strict=True))


def _head(column: str | int) -> str:
    return f"{column:,}" if isinstance(column, int) else column


def _power(subject: str, found: Mapping[tuple[str, Any], Row]) -> str:
    medians = {length: row.median for (name, length), row in found.items() if name == subject}
    fits = len(medians) > 1 and min(medians.values()) > 0
    return f"{power(medians, medians.values()):.2f}" if fits else "-"


def _remarks(cells: Iterable[Cell]) -> str:
    """What is to be known of figures, and why there are none; what is said of several is said once."""
    said: dict[str, dict[str, dict[str, None]]] = {}
    for subject, column, row in cells:
        for text in filter(None, (row.problem, row.note)):
            said.setdefault(_short(text), {}).setdefault(subject, {})[_head(column)] = None
    lines = []
    for text, places in said.items():
        subjects = "; ".join(f"{subject} ({', '.join(columns)})" for subject, columns in places.items())
        lines.append(f"- {subjects}: {text}")
    return "\n".join(lines)


def _gate(checks: Iterable[Check]) -> str:
    """The worst check of each subject."""
    worst: dict[tuple[str, str, str], Check] = {}
    for check in checks:
        names = (check.group, check.subject, check.inputs)
        worst[names] = max(worst.get(names, check), check, key=_share)
    lines = []
    for names, check in worst.items():
        shown = f"{check.deviation:.3g}" if check.passed else f"**FAILED: {check.deviation:.3g}**"
        lines.append([*names, check.tensor, shown, f"{check.allowed:g}"])
    return markdown_table(["group", "subject", "inputs", "tensor", "gap", "allowed"], lines)


def _share(check: Check) -> tuple[bool, float]:
    """What is failed first, then how much of what is allowed it takes."""
    return not check.passed, check.deviation / (check.allowed or 1)
