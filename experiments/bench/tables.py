"""Tables of a run: its figures, and its checks."""

import re
from collections.abc import Callable, Iterable, Sequence

from experiments.bench.results import Row, Run
from experiments.bench.verdicts import amount, seconds

SHOW: dict[str, Callable[[float], str]] = {"s": seconds, "bytes": amount}
SERIES = re.compile(r"(growth|memory) L=(\d+)$")
"""Groups that are one length of a series, which is shown as one table."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def figures(run: Run) -> Iterable[str]:
    """Every row of a run: series by length first, then each group."""
    yield f"### Figures of {run.subcommand}, {run.device}"
    for group in dict.fromkeys(row.group for row in run.rows if not SERIES.match(row.group)):
        rows = [row for row in run.rows if row.group == group]
        inputs = {str(row.case["inputs"]) for row in rows if "inputs" in row.case}
        yield f"**{group}**" + (f", {inputs.pop()}" if len(inputs) == 1 else "")
        if any(row.quantity == "resources" and not row.problem for row in rows):
            names = list(dict.fromkeys(name for row in rows for name in row.case))
            yield table(names, ([str(row.case.get(name, "")) for name in names] for row in rows))
        else:
            head = ("subject", "quantity", "median", "least", "spread", "repeats", "note")
            yield table(head, map(_figure, rows))
    for kind, title in (("growth", "Median time by L"), ("memory", "Peak memory above the inputs by L")):
        rows = [row for row in run.rows if row.group.startswith(f"{kind} L=")]
        for quantity in dict.fromkeys(row.quantity for row in rows):
            yield f"**{title}, {quantity}**"
            yield from _series([row for row in rows if row.quantity == quantity])


def _figure(row: Row) -> tuple[str, ...]:
    show = SHOW.get(row.unit, lambda value: f"{value:.4g} {row.unit}")
    if not row.samples:
        return (row.subject, row.quantity, "-", "-", "-", "0", row.problem or row.note)
    spread = show(row.spread) if len(row.samples) > 1 else "-"
    return (
        *(row.subject, row.quantity, show(row.median), show(min(row.samples)), spread),
        *(str(len(row.samples)), row.note),
    )


def _series(rows: Sequence[Row]) -> Iterable[str]:
    """A line for each subject, a column for each length, and why cells are empty."""
    lengths = sorted({_length(row) for row in rows})
    cells = {(row.subject, _length(row)): row for row in rows}
    lines = []
    reasons: dict[tuple[str, str], list[int]] = {}
    for subject in dict.fromkeys(row.subject for row in rows):
        line = [subject]
        for length in lengths:
            row = cells.get((subject, length))
            line.append(SHOW[row.unit](row.median) if row and row.samples else "-")
            if row and row.problem:
                reasons.setdefault((subject, row.problem), []).append(length)
        lines.append(line)
    yield table(["subject", *(f"{length:,}" for length in lengths)], lines)
    if reasons:
        yield "\n".join(
            f"- {subject}, L = {', '.join(f'{length:,}' for length in where)}: {problem}"
            for (subject, problem), where in reasons.items()
        )


def _length(row: Row) -> int:
    match = SERIES.match(row.group)
    assert match is not None, row.group
    return int(match[2])


def checks(run: Run) -> Iterable[str]:
    """Every check of a run, a column for each tensor."""
    if not run.checks:
        return
    yield f"### Checks of {run.subcommand}, {run.device}"
    tensors = list(dict.fromkeys(check.tensor for check in run.checks))
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for check in run.checks:
        shown = f"{check.deviation:.2g}" if check.passed else f"**FAILED: {check.deviation:.3g}**"
        key = (check.group, check.subject, check.inputs)
        lines.setdefault(key, {})[check.tensor] = f"{shown} of {check.allowed:g}"
    rows = [[*key, *(cells.get(tensor, "") for tensor in tensors)] for key, cells in lines.items()]
    yield table(["group", "subject", "inputs", *tensors], rows)
