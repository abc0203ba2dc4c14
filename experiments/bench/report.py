"""RESULTS.md and the plot, from the saved JSON alone."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.bench.plot import save_plot
from experiments.bench.results import Row, Run, find_runs
from experiments.bench.targets import TARGETS, Saved, Target, amount, seconds
from experiments.runs import write_text

TRIED = Path(__file__).with_name("tried.md")
MARKS = {True: "met", False: "**not met**", None: "-"}


def write_report(results: Path, out: Path, figures: Path, tried: Path = TRIED) -> None:
    """Write the report of every run saved in ``results``. Raises ResultError for a folder or file that is none."""
    runs = find_runs(results)
    figures.mkdir(parents=True, exist_ok=True)
    plotted = save_plot(runs.values(), figures)
    parts = [
        "# Timings",
        "Written by `python -m experiments.bench report` from the JSON files in `results/`, and from nothing else. "
        "Figures are medians of repeated calls after a warm-up; things that are compared took turns in one process, "
        "and ratios are of medians of one run. Spread is the distance between quartiles. Nothing is timed that the "
        "correctness gate below refuses.",
        "## Machines",
        _machines(runs.values()),
        "## Targets",
        *_targets(Saved(runs), TARGETS),
        *(
            [f"## Time against L\n\n![Time against L]({plotted.parent.name}/{plotted.name})"]
            if plotted
            else []
        ),
        "## All figures",
        *(part for run in runs.values() for part in _figures(run)),
        "## Correctness gate",
        "Largest gap to `vmp.scan.spec` in float64 on the same numbers, over the largest entry of the tensor, in eps "
        "of its dtype; beside it what is allowed. Gradients are named by the tensor they belong to.",
        *(part for run in runs.values() for part in _checks(run)),
        *([tried.read_text(encoding="utf-8").strip()] if tried.exists() else []),
    ]
    write_text(out, "\n\n".join(parts) + "\n")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _machines(runs: Iterable[Run]) -> str:
    head = ("run", "command", "date (UTC)", "seed", "machine", "versions")
    rows = []
    for run in runs:
        m = run.machine
        where = f"{m.cpu}, {m.cores} cores, {m.threads} threads, {m.vector} bit vectors, {m.memory_gb:g} GB, {m.system}"
        versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
        quick = " (quick: small sizes, no figures of the targets)" if run.quick else ""
        rows.append(
            (f"{run.subcommand}, {run.device}{quick}", f"`{run.command}`", run.date, str(run.seed),
             f"{m.gpu}; {where}" if m.gpu else where, versions)
        )  # fmt: skip
    return table(head, rows)


def _targets(saved: Saved, targets: Sequence[Target]) -> Iterable[str]:
    for section in dict.fromkeys(target.section for target in targets):
        yield f"### {section}"
        rows = []
        for target in targets:
            if target.section == section:
                figure, met = target.verdict(saved)
                rows.append((target.what, target.wanted, figure, MARKS[met]))
        yield table(("what", "target", "figure", "met or not"), rows)


def _figures(run: Run) -> Iterable[str]:
    yield f"### {run.subcommand}, {run.device}"
    for group in dict.fromkeys(row.group for row in run.rows):
        rows = [row for row in run.rows if row.group == group]
        yield f"**{group}** {rows[0].case.get('inputs', '')}".strip()
        yield table(
            ("subject", "quantity", "median", "least", "spread", "repeats", "note"), map(_figure, rows)
        )


def _figure(row: Row) -> tuple[str, ...]:
    show = {"s": seconds, "bytes": amount}.get(row.unit, lambda value: f"{value:g} {row.unit}")
    if not row.samples:
        return (row.subject, row.quantity, "-", "-", "-", "0", row.problem or row.note)
    figures = (show(row.median), show(min(row.samples)), show(row.spread) if len(row.samples) > 1 else "-")
    return (row.subject, row.quantity, *figures, str(len(row.samples)), row.note)


def _checks(run: Run) -> Iterable[str]:
    if not run.checks:
        return
    yield f"### {run.subcommand}, {run.device}"
    tensors = list(dict.fromkeys(check.tensor for check in run.checks))
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for check in run.checks:
        shown = f"{check.deviation:.3g} of {check.allowed:g}" + ("" if check.passed else " FAILED")
        lines.setdefault((check.group, check.subject, check.inputs), {})[check.tensor] = shown
    rows = [[*key, *(cells.get(tensor, "") for tensor in tensors)] for key, cells in lines.items()]
    yield table(["group", "subject", "inputs", *tensors], rows)
