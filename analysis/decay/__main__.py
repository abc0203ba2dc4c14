"""`python -m analysis.decay`: a checkpoint and clips in, a decay report out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from analysis.cli import (
    CheckpointOption,
    JsonOption,
    OutOption,
    RequestFor,
    run_command,
    say_written,
    session,
    show,
    with_request_options,
)
from analysis.decay.run import WRITTEN, run, write
from analysis.decay.table import gap_lines, tables
from analysis.request import Request
from analysis.results import to_json
from analysis.tables import heading

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Invocation:
    """What a command line asks for: a request, and where its result goes."""

    request: Request
    out: Path | None
    as_json: bool


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
@with_request_options
def parse(
    request_for: RequestFor, checkpoint: CheckpointOption, out: OutOption = None, json: JsonOption = False
) -> Invocation:
    """How fast what each layer carries from token to token falls with distance."""
    return Invocation(request_for(checkpoint), out, json)


def execute(asked: Invocation, command: str) -> None:
    """Probe, write and print."""
    with session(asked.out, WRITTEN) as at:
        result, heatmaps = run(asked.request, command, at.step, at.keep)
        if asked.out is not None:
            write(result, heatmaps, asked.out, at.drawn)
    if asked.as_json:
        sys.stdout.write(to_json(result))
    else:
        lines = heading(result.provenance, result.resamples, result.notes)
        show(lines, tables(result), gap_lines(result))
    if asked.out is not None:
        say_written(asked.out, WRITTEN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 after a one-line error, 130 when interrupted."""
    return run_command(app, "analysis.decay", arguments, execute)


if __name__ == "__main__":
    sys.exit(main())
