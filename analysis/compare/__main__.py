"""`python -m analysis.compare`: several checkpoints and the same clips in, a comparison out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

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
from analysis.compare.faithful import SEEDS
from analysis.compare.result import CompareResult
from analysis.compare.run import WRITTEN, run, write
from analysis.compare.table import gap_lines, tables
from analysis.inputs import InputError
from analysis.request import Request
from analysis.results import to_json
from analysis.unfinished import Unfinished

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Invocation:
    """What a command line asks for: a request a checkpoint, and where the result goes."""

    requests: tuple[Request, ...]
    seeds: int
    out: Path | None
    as_json: bool


def parse(
    request_for: RequestFor,
    checkpoints: Annotated[
        list[Path],
        typer.Option(
            "--ckpt", help="Weights, in any format the toolkit knows. Repeat it.", show_default=False
        ),
    ],
    random_orders: Annotated[int, typer.Option(min=1, help="Random orders a clip, for deletion.")] = SEEDS,
    out: OutOption = None,
    json: JsonOption = False,
) -> Invocation:
    """Decay, contradiction and faithfulness of several models on the same clips, in the scope contribution."""
    return Invocation(tuple(request_for(path) for path in checkpoints), random_orders, out, json)


app.command(context_settings={"help_option_names": ["-h", "--help"]})(with_request_options(parse, {"scope"}))


def execute(asked: Invocation, command: str) -> None:
    """Compare, write and print."""
    waiting: list[Unfinished] = []

    def keep(name: str) -> Unfinished:
        assert asked.out is not None  # Nothing waits where nothing is written.
        out = asked.out.resolve()
        waiting.append(Unfinished(out.with_name(f"{out.name}.unfinished-{name}")))
        return waiting[-1]

    def discard() -> None:
        for unfinished in waiting:
            unfinished.discard()

    with session(asked.out, WRITTEN) as at:
        try:
            result = run(
                asked.requests,
                command,
                seeds=asked.seeds,
                step=at.step,
                keep=None if asked.out is None else keep,
            )
        except InputError:
            discard()
            raise
        if asked.out is not None:
            write(result, asked.out, at.drawn)
        discard()
    if asked.as_json:
        sys.stdout.write(to_json(result))
    else:
        show(_heading(result), tables(result), gap_lines(result))
    if asked.out is not None:
        say_written(asked.out, WRITTEN)


def _heading(result: CompareResult) -> list[str]:
    shown = result.models[0].decay.provenance.input
    return [
        *(f"{m.name}: {m.decay.provenance.checkpoint.recognised}" for m in result.models),
        f"{shown.count} x {shown.source}, seed {shown.seed}, the same for all; {result.resamples} bootstrap resamples",
        *(f"Note: {note}" for note in result.notes),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 after a one-line error, 130 when interrupted."""
    return run_command(app, "analysis.compare", arguments, execute)


if __name__ == "__main__":
    sys.exit(main())
