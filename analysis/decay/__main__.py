"""`python -m analysis.decay`: a checkpoint and clips in, a decay report out."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from analysis.decay.result import DecayResult
from analysis.decay.run import DEFAULT_CLIPS, DEFAULT_LENGTH, Request, RequestError, check_output, run, write
from analysis.decay.table import tables
from analysis.decay.unfinished import Unfinished
from analysis.inputs import DEFAULT_SOURCE, InputError
from analysis.results import ResultError, to_json

USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]
"""Click's UsageError, from the click that this typer stands on: of late its own copy."""

WIDTH = 100
"""Columns of the table where standard output is no terminal."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Invocation:
    """What a command line asks for: a request, and where its result goes."""

    request: Request
    out: Path | None
    as_json: bool


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def parse(
    checkpoint: Annotated[Path, typer.Option("--ckpt", help="Weights, in any format the toolkit knows.")],
    video: Annotated[
        list[Path] | None, typer.Option(help="Video file or folder of frames; one clip each. Repeatable.")
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="More video files, after --video.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help=f"Clip source instead of --video; {DEFAULT_SOURCE} where neither is given."),
    ] = None,
    clips: Annotated[
        int | None, typer.Option(min=1, help=f"How many clips; {DEFAULT_CLIPS}, or one a video.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Such as 0,3,-1 or 0-5 or all.")] = "all",
    scope: Annotated[
        list[str] | None, typer.Option(help="ssm (default), mixer, contribution, or all. Repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda:0.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the clips and the bootstrap.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for JSON, CSV and figures; an earlier one is replaced.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result's JSON and nothing else.")] = False,
    variant: Annotated[str | None, typer.Option(help="Read the weights as this variant.")] = None,
    family: Annotated[str | None, typer.Option(help="Read the weights as this family, such as vim.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames a clip; the checkpoint's own.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels a side; the checkpoint's own.")] = None,
    length: Annotated[
        int | None,
        typer.Option(min=1, help=f"Tokens a sequence, for language models only; {DEFAULT_LENGTH}."),
    ] = None,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Accept weights with NaN or infinity.")
    ] = False,
    allow_missing: Annotated[
        list[str] | None, typer.Option(help="A weight, or prefix ending in a dot, that may be missing.")
    ] = None,
    allow_unexpected: Annotated[
        list[str] | None, typer.Option(help="A weight, or prefix ending in a dot, to leave unread.")
    ] = None,
    container: Annotated[
        str | None, typer.Option(help="Entry of a training save to read, such as model_ema.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples behind each interval.")] = 1000,
) -> Invocation:
    """How fast what each layer carries from token to token falls with distance."""
    if more and not video:
        raise typer.BadParameter(f"unexpected argument {str(more[0])!r}; video files come after --video")
    request = Request(
        checkpoint=checkpoint,
        video=(*(video or ()), *(more or ())),
        data=data,
        clips=clips,
        layers=layers,
        scopes=tuple(scope or ("ssm",)),
        device=device,
        seed=seed,
        bootstrap=bootstrap,
        length=length,
        overrides=(
            ("variant", variant),
            ("family", family),
            ("num_frames", frames),
            ("image_size", size),
            ("allow_nonfinite", allow_nonfinite or None),
            ("allow_missing", tuple(allow_missing or ()) or None),
            ("allow_unexpected", tuple(allow_unexpected or ()) or None),
            ("container", container),
        ),
    )
    return Invocation(request, out, json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 after a one-line error, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed = app(args=given, standalone_mode=False)
        if not isinstance(parsed, Invocation):  # The exit code of --help.
            return parsed
        result = _run(parsed, shlex.join(["python", "-m", "analysis.decay", *given]))
    except USAGE_ERROR as error:
        return _fail(error.format_message())
    except (RequestError, InputError, ResultError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(
            ": ".join(str(part) for part in (error.filename, error.strerror or error) if part is not None)
        )
    except KeyboardInterrupt:
        print("interrupted; with --out, the same command goes on where this one stopped", file=sys.stderr)
        return 130
    if parsed.as_json:
        sys.stdout.write(to_json(result))
    else:
        _print(result, Console(width=None if sys.stdout.isatty() else WIDTH))
    if parsed.out is not None:
        print(
            f"written: {parsed.out}/result.json, decay.csv, lag_profiles.csv, heatmaps.npz, figures/",
            file=sys.stderr,
        )
    return 0


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _run(parsed: Invocation, command: str) -> DecayResult:
    """Probe and write, with a progress bar where standard error is a terminal."""
    keep = None
    if parsed.out is not None:
        check_output(parsed.out)
        out = parsed.out.resolve()
        keep = Unfinished(out.with_name(f"{out.name}.unfinished"))
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        probing = progress.add_task("reading weights", total=None)

        def step(done: str, total: int) -> None:
            progress.update(probing, description=done, total=total, advance=1)

        try:
            result, heatmaps = run(parsed.request, command, step, keep)
        except InputError:
            if keep is not None:
                keep.discard()
            raise
        if parsed.out is not None and keep is not None:
            drawing = progress.add_task("figures", total=None)

            def drawn(name: str) -> None:
                progress.update(drawing, description=name, advance=1)

            write(result, heatmaps, parsed.out, drawn)
            keep.discard()
    return result


def _print(result: DecayResult, console: Console) -> None:
    source = result.provenance
    shown = source.input
    said = [
        f"{source.checkpoint.path}: {source.checkpoint.recognised}",
        f"{shown.count} x {shown.source}, seed {shown.seed}, {shown.length} tokens each; {source.dtype} on "
        f"{source.device}, scan backend {source.backend}; {result.resamples} bootstrap resamples",
        *(f"Note: {note}" for note in result.notes),
    ]
    for line in said:
        console.print(line, markup=False, highlight=False)
    for table in tables(result):
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
