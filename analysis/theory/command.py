"""The command `python -m analysis.theory`, and the tables that it prints."""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, no_type_check

import torch
import typer
from rich import box
from rich.table import Table

from analysis import command as shared
from analysis.draw import write_figures
from analysis.files import replacing
from analysis.request import Request
from analysis.terminal import HELP, new_app
from analysis.theory.claims import CLAIMS
from analysis.theory.figures import figure_makers
from analysis.theory.run import CHANNELS, STEPS, Finding, TheoryResult, run

WRITTEN = ("result.json", "theory.csv", "figures")
CLIPS = 2
app = new_app()


@app.command("theory", **HELP)
@partial(shared.with_request_options, without=("scope", "clips"))
@no_type_check  # Typer passes the context of the click that it stands on, which is no `typer.Context`.
def theory(
    request_for: shared.RequestFor,
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Option("--ckpt", help="Weights whose scans are checked too, in any known format.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Random scans for each claim, and each assumption.")] = 20,
    clips: Annotated[
        int | None, typer.Option(min=1, help=f"How many clips; {CLIPS}, or one a video.")
    ] = None,
    steps: Annotated[int, typer.Option(min=6, help="First steps of each captured scan to read.")] = STEPS,
    channels: Annotated[int, typer.Option(min=1, help="Channels of each captured scan to read.")] = CHANNELS,
    out: shared.OutOption = None,
    json: shared.JsonOption = False,
) -> int:
    """Check every claim of docs/math.md: on random scans, with its assumptions met and with each dropped, and on a
    checkpoint's own. Exit code 1 where one fails."""
    asked = request_for(checkpoint or Path())
    if checkpoint is None:
        overrides = tuple(pair for pair in asked.overrides if pair[1] is not None)
        if clips is not None or replace(asked, seed=0, overrides=overrides) != Request(Path()):
            raise typer.BadParameter("options of clips and weights were given without --ckpt, the checkpoint")
    request = replace(asked, clips=clips or len(asked.video) or CLIPS) if checkpoint else None
    with shared.session(out, WRITTEN) as at, _one_thread():
        result = run(
            request,
            context.obj,
            seed=asked.seed,
            cases=cases,
            steps=steps,
            channels=channels,
            step=at.step,
        )
        if out is not None:
            with replacing(out, WRITTEN) as new:
                result.save(new)
                write_figures(figure_makers(result), new / "figures", at.drawn)
    if json:
        sys.stdout.write(result.to_json())
    else:
        shared.show(list(result.heading()), _tables(result), [_conclusion(result)])
    if out is not None:
        shared.say_written(out, WRITTEN)
    return int(not result.passed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: on scans as small as these, threads wait for each other at every operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _tables(result: TheoryResult) -> Iterator[Table]:
    made = [finding for finding in result.findings if finding.layer is None]
    met = _table("Random scans, assumptions met", "claim")
    dropped = _table(
        "Random scans, one assumption dropped: least deviation over the scans", "claim", "without"
    )
    for finding in made:
        table, named = (dropped, [finding.dropped]) if finding.dropped else (met, [])
        table.add_row(finding.claim, *named, *_numbers(finding), _verdict(finding))
    yield from (met, dropped)
    if result.provenance.models:
        yield _captured([finding for finding in result.findings if finding.layer is not None])


def _captured(findings: Sequence[Finding]) -> Table:
    """Make a row for each claim and form, with the worst of its layers and directions."""
    title = "The checkpoint's scans: the worst of its layers and directions"
    table = _table(title, "claim", "put to them", "scans", at=True)
    groups: defaultdict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.claim, finding.form or finding.note].append(finding)
    for (claim, put), group in groups.items():
        worst = max(group, key=lambda finding: finding.deviation or 0)
        where = f"{worst.layer} {worst.direction[:4]}." if worst.deviation else ""
        scans = str(sum(finding.scans for finding in group))
        table.add_row(claim, put, scans, *_numbers(worst), where, _verdict(worst))
    return table


def _table(title: str, *named: str, at: bool = False) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    numbers = ("deviation", "float32", "margin")
    for name in (*named, *numbers, *(("at",) if at else ()), "verdict"):
        right = name in (*numbers, "scans")
        width = 27 if name == "put to them" else None
        table.add_column(name, justify="right" if right else "left", min_width=width)
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
