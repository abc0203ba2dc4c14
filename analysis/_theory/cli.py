"""The command line of `python -m analysis.theory`."""

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.table import Table

from analysis._theory.figures import figure_makers
from analysis._theory.result import Finding, TheoryResult
from analysis._theory.run import CHANNELS, NO_CHECKPOINT, STEPS, default_clips, run
from analysis.cli import (
    JsonOption,
    OutOption,
    RequestFor,
    run_command,
    say_written,
    session,
    show,
    with_request_options,
)
from analysis.figures import draw_all
from analysis.request import Request
from analysis.results import replacing, save, to_json
from analysis.theory import CLAIMS

WRITTEN = ("result.json", "theory.csv", "figures")
COLUMNS = (
    *("claim", "dropped", "layer", "direction", "form", "needed", "verdict", "deviation", "in_float32"),
    *("tolerance", "margin", "scans", "note"),
)
CLIPS = 2
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Invocation:
    """What a command line asks for."""

    request: Request | None
    seed: int
    cases: int
    steps: int
    channels: int
    out: Path | None
    as_json: bool


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
@partial(with_request_options, without=("scope", "clips"))
def parse(
    request_for: RequestFor,
    checkpoint: Annotated[
        Path | None, typer.Option("--ckpt", help="Weights whose scans are checked too, in any known format.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Random scans for each claim, and each assumption.")] = 20,
    clips: Annotated[
        int | None, typer.Option(min=1, help=f"How many clips; {CLIPS}, or one a video.")
    ] = None,
    steps: Annotated[int, typer.Option(min=6, help="First steps of each captured scan to read.")] = STEPS,
    channels: Annotated[int, typer.Option(min=1, help="Channels of each captured scan to read.")] = CHANNELS,
    out: OutOption = None,
    json: JsonOption = False,
) -> Invocation:
    """Check every claim of docs/math.md: on random scans, with its assumptions met and with each dropped, and on a
    checkpoint's own. Exit code 1 where one fails."""
    asked = request_for(checkpoint or Path())
    if checkpoint is None:
        overrides = tuple(pair for pair in asked.overrides if pair[1] is not None)
        if clips is not None or replace(asked, seed=0, overrides=overrides) != NO_CHECKPOINT:
            raise typer.BadParameter("options of clips and weights were given without --ckpt, the checkpoint")
        return Invocation(None, asked.seed, cases, steps, channels, out, json)
    request = default_clips(replace(asked, clips=clips), CLIPS)
    return Invocation(request, asked.seed, cases, steps, channels, out, json)


def execute(asked: Invocation, command: str) -> TheoryResult:
    """Check, write and print."""
    with session(asked.out, WRITTEN) as at, _one_thread():
        result = run(
            asked.request, command, seed=asked.seed, cases=asked.cases, steps=asked.steps,
            channels=asked.channels, step=at.step,
        )  # fmt: skip
        if asked.out is not None:
            with replacing(asked.out, WRITTEN) as new:
                save(result, new / "result.json")
                _write_csv(result, new / "theory.csv")
                draw_all(figure_makers(result), new / "figures", at.drawn)
    if asked.as_json:
        sys.stdout.write(to_json(result))
    else:
        show(list(_heading(result)), _tables(result))
        show([_conclusion(result)], iter(()))
    if asked.out is not None:
        say_written(asked.out, WRITTEN)
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads wait for each other at every operation of scans as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 where a claim fails, 2 after a one-line error."""
    results: list[TheoryResult] = []

    def keep(asked: Any, command: str) -> None:
        results.append(execute(asked, command))

    code = run_command(app, "analysis.theory", arguments, keep, resumes=False)
    return code or int(not all(result.passed for result in results))


def _write_csv(result: TheoryResult, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([getattr(finding, column) for column in COLUMNS] for finding in result.findings)


def _heading(result: TheoryResult) -> Iterator[str]:
    yield (
        f"Random scans: {result.cases} a claim and assumption, seed {result.seed}. Deviations are relative, in "
        "float64 and beside it in float32; a claim holds at 1e-10 or less in float64."
    )
    if result.provenance is not None:
        source, shown = result.provenance, result.provenance.input
        yield f"{source.checkpoint.path}: {source.checkpoint.recognised}"
        yield (
            f"{shown.count} x {shown.source}, seed {shown.seed}, {shown.length} tokens each; float64 on "
            f"{source.device}; of each scan its first {min(result.steps, shown.length)} steps, "
            f"{result.channels} channels"
        )


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )  # fmt: skip
    for name in columns:
        width = 27 if name == "put to them" else None
        table.add_column(name, justify="right" if name in _NUMBERS else "left", min_width=width)
    return table


_NUMBERS = {"deviation", "float32", "margin", "scans"}


def _tables(result: TheoryResult) -> Iterator[Table]:
    made = [finding for finding in result.findings if finding.layer is None]
    met = _table("Random scans, assumptions met", "claim", "deviation", "float32", "margin", "verdict")
    for finding in made:
        if not finding.dropped:
            met.add_row(finding.claim, *_numbers(finding), _verdict(finding))
    yield met
    dropped = _table(
        "Random scans, one assumption dropped: least deviation over the scans",
        *("claim", "without", "deviation", "float32", "margin", "verdict"),
    )
    for finding in made:
        if finding.dropped:
            dropped.add_row(finding.claim, finding.dropped, *_numbers(finding), _verdict(finding))
    yield dropped
    if result.provenance is not None:
        yield _captured([finding for finding in result.findings if finding.layer is not None])


def _captured(findings: Sequence[Finding]) -> Table:
    """A row for each claim and form, with the worst of its layers and directions."""
    table = _table(
        "The checkpoint's scans: the worst of its layers and directions",
        *("claim", "put to them", "scans", "deviation", "float32", "margin", "at", "verdict"),
    )
    groups: defaultdict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.claim, finding.form, finding.note].append(finding)
    for (claim, form, note), group in groups.items():
        worst = max(group, key=lambda finding: finding.deviation or 0)
        where = f"{worst.layer} {worst.direction[:4]}." if worst.deviation else ""
        scans = str(sum(finding.scans for finding in group))
        table.add_row(claim, form or note, scans, *_numbers(worst), where, _verdict(worst))
    return table


def _numbers(finding: Finding) -> tuple[str, str, str]:
    if finding.deviation is None or finding.in_float32 is None or finding.margin is None:
        return "-", "-", "-"
    margin = "exact" if finding.deviation == 0 else f"{finding.margin:.0e}"
    return f"{finding.deviation:.1e}", f"{finding.in_float32:.1e}", margin


def _verdict(finding: Finding) -> str:
    if finding.verdict == "not applicable":
        return "n/a"
    if finding.passed:
        return f"{finding.verdict}, as it must" if finding.needed == "fails" else finding.verdict
    return f"{finding.verdict.upper()}; it has to {'fail' if finding.needed == 'fails' else 'hold'}"


def _conclusion(result: TheoryResult) -> str:
    wrong = list(dict.fromkeys(finding.claim for finding in result.findings if not finding.passed))
    if wrong:
        return f"NOT AS CLAIMED: {', '.join(wrong)}"
    return f"All {len(CLAIMS)} claims hold where they should and fail where they should."
