"""`python -m analysis.contradiction`: a checkpoint and clips in, a contradiction report beside a control out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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
from analysis.contradiction.run import MEDIATORS, WRITTEN, Asked, run, write
from analysis.contradiction.table import gap_lines, tables
from analysis.request import Request
from analysis.results import to_json
from analysis.tables import heading

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Invocation:
    """What a command line asks for: a request, what is this probe's own, and where the result goes."""

    request: Request
    asked: Asked
    out: Path | None
    as_json: bool


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
@with_request_options
def parse(
    request_for: RequestFor,
    checkpoint: CheckpointOption,
    control: Annotated[
        Path | None,
        typer.Option(help="Self-attention checkpoint to compare with; else fresh weights of the same size."),
    ] = None,
    no_control: Annotated[bool, typer.Option("--no-control", help="Compare with nothing.")] = False,
    mediators: Annotated[
        int, typer.Option(min=1, help="Tokens replaced, one at a time, in each layer and clip.")
    ] = MEDIATORS,
    out: OutOption = None,
    json: JsonOption = False,
) -> Invocation:
    """How far the relation of two tokens depends on the tokens between them, and on how unlike they are."""
    if control is not None and no_control:
        raise typer.BadParameter("--control and --no-control were both given")
    return Invocation(request_for(checkpoint), Asked(mediators, control, not no_control), out, json)


def execute(invoked: Invocation, command: str) -> None:
    """Probe, write and print."""
    with session(invoked.out, WRITTEN) as at:
        # The example is for a figure: where nothing is written, none is worked out.
        shown = invoked.out is not None
        result, example = run(invoked.request, invoked.asked, command, at.step, at.keep, with_example=shown)
        if invoked.out is not None:
            write(result, example, invoked.out, at.drawn)
    if invoked.as_json:
        sys.stdout.write(to_json(result))
    else:
        lines = heading(result.provenance, result.resamples, result.notes)
        show(lines, tables(result), gap_lines(result))
    if invoked.out is not None:
        say_written(invoked.out, WRITTEN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 after a one-line error, 130 when interrupted."""
    return run_command(app, "analysis.contradiction", arguments, execute)


if __name__ == "__main__":
    sys.exit(main())
