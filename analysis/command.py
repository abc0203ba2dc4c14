"""What the commands share: their options, their errors in one line, progress, and resumption.

A command is a function in a typer app of its own. It takes a maker of requests for the options that all probes have,
and the context, whose `obj` is the command line as text:

    @app.command(**HELP)
    @with_request_options
    def decay(request_for: RequestFor, context: typer.Context, checkpoint: CheckpointOption) -> None:
        run(request_for(checkpoint), context.obj)
"""

import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.progress import TimeElapsedColumn

from analysis.capture import CaptureError
from analysis.engine import Entry, run
from analysis.engine import Progress as Step
from analysis.files import ResultError, check_replaceable, replacing
from analysis.inputs import DEFAULT_SOURCE, InputError
from analysis.measure import Column, Measure
from analysis.request import DEFAULT_CLIPS, DEFAULT_LENGTH, Opened, Request, RequestError, name_of
from analysis.result import PROVENANCE, WRITTEN, Result, with_notes
from analysis.tables import gap_lines, heading, tables
from analysis.terminal import progress_bar
from analysis.unfinished import Unfinished

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

USER_ERRORS: tuple[type[Exception], ...] = (RequestError, InputError, ResultError, CaptureError)
"""What a probe raises for the user, in one line; any other exception is a bug and keeps its traceback."""

FIGURES, EXAMPLE = "figures", "example.npz"
OUTPUTS = (*WRITTEN, EXAMPLE, FIGURES)
"""Names of what a probing command may put into its folder."""

WIDTH = 100
"""Columns of the tables where standard output is no terminal."""

RequestFor = Callable[[Path], Request]
"""Makes the request for one checkpoint, with all other options as on the command line."""

CheckpointOption = Annotated[
    Path, typer.Option("--ckpt", help="Weights, in any format the toolkit knows.", show_default=False)
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for JSON, CSV and figures; an earlier one is replaced.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result's JSON and nothing else.")]


def _request(
    checkpoint: Path,
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
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of all that is drawn: clips, samples, bootstrap.")
    ] = 0,
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
) -> Request:
    if more and not video:
        raise typer.BadParameter(f"unexpected argument {str(more[0])!r}; video files come after --video")
    return Request(
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


def with_request_options(command: Callable[..., T], without: Collection[str] = ()) -> Callable[..., T]:
    """Give a command every option of a `Request` but the checkpoint, after its own options.

    Args:
        command: its first parameter, `request_for`, gets a `RequestFor`; the others are options of its own.
        without: names of options that it does not take.
    """
    common = {
        name: parameter
        for name, parameter in inspect.signature(_request).parameters.items()
        if name not in ("checkpoint", *without)
    }
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    def inner(**given: Any) -> T:
        options = {name: given.pop(name) for name in common}
        return command(partial(_request, **options), **given)

    parameters = [*own, *common.values()]
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    inner.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    inner.__annotations__ = {p.name: p.annotation for p in keyword}
    inner.__doc__ = command.__doc__
    return inner


@dataclass(frozen=True)
class Session:
    """What a run reports to and goes on from.

    Attributes:
        step: takes what was just done, and how many steps there are in all.
        drawn: takes the name of each figure.
        keep: where finished clips wait; None where nothing is written.
    """

    step: Step
    drawn: Callable[[str], None]
    keep: Unfinished | None


@contextmanager
def session(out: Path | None, written: Collection[str]) -> Iterator[Session]:
    """A progress bar where standard error is a terminal, and what an interrupted run of the same request left.

    Finished clips are dropped at the end of the block, or where a clip cannot be read, and stay when it is
    interrupted.

    Args:
        out: the folder that the block writes; written: names of what it puts there.

    Raises:
        ResultError: before the block where `out` could not be written.
    """
    keep = None
    if out is not None:
        check_replaceable(out, written, PROVENANCE if PROVENANCE in written else None)
        resolved = out.resolve()
        keep = Unfinished(resolved.with_name(f"{resolved.name}.unfinished"))
    with progress_bar(TimeElapsedColumn()) as progress:
        probing = progress.add_task("reading weights", total=None)
        drawing = progress.add_task("figures", total=None, visible=False)

        def step(done: str, total: int) -> None:
            progress.update(probing, description=done, total=total, advance=1)

        def drawn(name: str) -> None:
            progress.update(drawing, description=name, advance=1, visible=True)

        try:
            yield Session(step, drawn, keep)
        except InputError:
            if keep is not None:
                keep.discard()
            raise
        if keep is not None:
            keep.discard()


def show(lines: Sequence[str], tables: Iterable[RenderableType], after: Sequence[str] = ()) -> None:
    """Print lines as they are, then tables, then lines again, to a terminal or to `WIDTH` columns."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for line in lines:
        console.print(line, markup=False, highlight=False)
    for table in tables:
        console.print(table)
    for line in after:
        console.print(line, markup=False, highlight=False)


def say_written(out: Path, written: Collection[str]) -> None:
    """Tell on standard error which of the files that a command may write are in its folder."""
    there = [f"{name}/" if (out / name).is_dir() else name for name in written if (out / name).exists()]
    print(f"written: {out}/{', '.join(there)}", file=sys.stderr)


def probe_and_show(
    opened: Opened,
    measures: Sequence[Measure],
    command: str,
    out: Path | None,
    json: bool,
    *,
    others: Sequence[Entry] = (),
    extra: Callable[[Result, Path], Mapping[str, Callable[[], "Figure"]]] = lambda result, folder: {},
    notes: Sequence[str] = (),
) -> None:
    """Probe, write and print.

    Args:
        others: models beside the checkpoint's, shown the same clips.
        extra: writes further files into the folder and returns further figures.
        notes: what the command has to say of the whole result.
    """
    request = opened.request
    with session(out, OUTPUTS) as at:
        result = run(
            [opened.entry(name_of(request.checkpoint)), *others],
            measures,
            source=opened.source,
            command=command,
            layers=opened.layers,
            scopes=opened.scopes,
            resamples=request.bootstrap,
            seed=request.seed,
            resume=at.keep,
            progress=at.step,
        )
        result = with_notes(result, notes)
        if out is not None:
            from analysis.draw import figures_of

            def figures(folder: Path) -> dict[str, Callable[[], "Figure"]]:
                made = {
                    name: draw
                    for measure in measures
                    for name, draw in figures_of(measure, result, result.model).items()
                }
                return {**made, **extra(result, folder)}

            write(result, out, figures, at.drawn)
    show_or_print(result, tables(result), out, json)


def write(
    result: Result,
    out: Path,
    figures: Callable[[Path], Mapping[str, Callable[[], "Figure"]]],
    drawn: Callable[[str], None],
) -> None:
    """Write a result and its figures into a folder, which appears whole or not at all.

    Args:
        figures: writes further files into the folder that it is given, and returns what there is to draw, by name.
        drawn: takes the name of each figure.
    """
    from analysis.draw import write_figures

    with replacing(out, OUTPUTS, PROVENANCE) as new:
        result.write_into(new)
        write_figures(figures(new), new / FIGURES, drawn)


def show_or_print(
    result: Result,
    shown: Iterable[RenderableType],
    out: Path | None,
    json: bool,
    columns: Sequence[Column] | None = None,
) -> None:
    """Print a result as JSON or as tables, and where it was written; `columns` as in `gap_lines`."""
    if json:
        sys.stdout.write(result.to_json())
    else:
        show(heading(result), shown, gap_lines(result, columns))
    if out is not None:
        say_written(out, OUTPUTS)
