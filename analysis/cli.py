"""The one command-line app: `vmp decay` and `python -m analysis.decay` are both it.

Commands of this package are below or in the modules of `OWN`. A package adds its own through the entry-point group
"vmp.commands", whose entries are typer apps with one command each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from rich.table import Table

from analysis.command import (
    HELP,
    USER_ERRORS,
    CheckpointOption,
    JsonOption,
    OutOption,
    RequestFor,
    new_app,
    run_app,
    say_written,
    session,
    show,
    with_request_options,
)
from analysis.compare import compare as comparison
from analysis.contradiction import Contradiction
from analysis.contradiction.control import control_request, untrained_control
from analysis.contradiction.example import example_figure, find_example, save_example
from analysis.decay import Decay
from analysis.engine import Entry, run
from analysis.files import replacing
from analysis.measure import Measure, find_measure, measure_names
from analysis.relevance import Relevance
from analysis.request import Opened, RequestError, name_of, open_request
from analysis.result import WRITTEN, Result, with_notes
from analysis.tables import gap_lines, heading, tables
from vmp.commands import main as vmp_main

GROUP = "vmp.commands"
OWN: Mapping[str, str] = {"theory": "analysis.theory.command:app"}
FIGURES, EXAMPLE = "figures", "example.npz"

_probes = new_app()


@_probes.command("decay", **HELP)
@with_request_options
def decay(
    request_for: RequestFor,
    context: typer.Context,
    checkpoint: CheckpointOption,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """How fast what each layer carries from token to token falls with distance."""
    _probe(open_request(request_for(checkpoint)), [Decay()], context.obj, out, json)


@_probes.command("probe", **HELP)
@with_request_options
def probe(
    request_for: RequestFor,
    context: typer.Context,
    checkpoint: CheckpointOption,
    measure: Annotated[
        list[str] | None, typer.Option(help="Such as decay, or a measure that a package adds. Repeatable.")
    ] = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Any measures of one checkpoint, by name; decay and contradiction where none is named."""
    names = measure or ["decay", "contradiction"]
    unknown = [name for name in names if name not in measure_names()]
    if unknown:
        raise RequestError(f"--measure {unknown[0]!r}: there are {', '.join(measure_names())}")
    opened = open_request(request_for(checkpoint))
    _probe(opened, [find_measure(name)() for name in dict.fromkeys(names)], context.obj, out, json)


@_probes.command("contradiction", **HELP)
@with_request_options
def contradiction(
    request_for: RequestFor,
    context: typer.Context,
    checkpoint: CheckpointOption,
    control: Annotated[
        Path | None,
        typer.Option(help="Self-attention checkpoint to compare with; else fresh weights of the same size."),
    ] = None,
    no_control: Annotated[bool, typer.Option("--no-control", help="Compare with nothing.")] = False,
    mediators: Annotated[
        int, typer.Option(min=1, help="Tokens replaced, one at a time, in each layer and clip.")
    ] = Contradiction.mediators,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """How far the relation of two tokens depends on the tokens between them, and on how unlike they are."""
    if control is not None and no_control:
        raise typer.BadParameter("--control and --no-control were both given")
    opened = open_request(request_for(checkpoint))
    others = [] if no_control else _control(opened, control)

    def example(result: Result, folder: Path) -> Mapping[str, Callable[[], Figure]]:
        found = find_example(result, opened.model, next(opened.samples()), seed=opened.request.seed)
        if found is None:
            return {}
        save_example(found, folder / EXAMPLE)
        return {"example": partial(example_figure, found)}

    _probe(opened, [Contradiction(mediators)], context.obj, out, json, others=others, extra=example)


def compare(
    request_for: RequestFor,
    context: typer.Context,
    checkpoints: Annotated[
        list[Path],
        typer.Option(
            "--ckpt", help="Weights, in any format the toolkit knows. Repeat it.", show_default=False
        ),
    ],
    random_orders: Annotated[
        int, typer.Option(min=1, help="Random orders a clip, for deletion.")
    ] = Relevance.random_orders,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Decay, contradiction and faithfulness of several models on the same clips, in the scope contribution."""
    if len(checkpoints) < 2:
        raise RequestError(f"{len(checkpoints)} checkpoint given; a comparison needs two: repeat --ckpt")
    # All are read before any is probed, so that one that will not do is told at once.
    opened = [
        _comparable(open_request(replace(request_for(path), scopes=(comparison.SCOPE,))))
        for path in checkpoints
    ]
    names = comparison.model_names(checkpoints)
    measures = [Decay(draw=()), Contradiction(), Relevance(random_orders)]
    with session(out, _written()) as at:
        result = run(
            [one.entry(name) for name, one in zip(names, opened, strict=True)],
            measures,
            source=opened[0].source,
            command=context.obj,
            layers=None,
            scopes=(comparison.SCOPE,),
            resamples=opened[0].request.bootstrap,
            seed=opened[0].request.seed,
            resume=at.keep,
            progress=at.step,
        )
        result = with_notes(result, comparison.notes(result))
        if out is not None:
            _write(result, out, lambda _: comparison.figures(result), at.drawn)
    _show(result, comparison.tables(result), out, json)


_probes.command("compare", **HELP)(with_request_options(compare, {"scope", "layers"}))


def _comparable(opened: Opened) -> Opened:
    if opened.config.kind == "language":
        raise RequestError(
            f"{opened.request.checkpoint}: is a language model; models are compared on clips, and it takes none"
        )
    return opened


def _probe(
    opened: Opened,
    measures: Sequence[Measure],
    command: str,
    out: Path | None,
    json: bool,
    *,
    others: Sequence[Entry] = (),
    extra: Callable[[Result, Path], Mapping[str, Callable[[], Figure]]] = lambda result, folder: {},
) -> None:
    """Probe, write and print.

    Args:
        others: models beside the checkpoint's, shown the same clips.
        extra: writes further files into the folder and returns further figures.
    """
    request = opened.request
    with session(out, _written()) as at:
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
        if out is not None:

            def figures(folder: Path) -> dict[str, Callable[[], Figure]]:
                made = {
                    name: draw
                    for measure in measures
                    for name, draw in measure.figures(result, result.model).items()
                }
                return {**made, **extra(result, folder)}

            _write(result, out, figures, at.drawn)
    _show(result, tables(result), out, json)


def _written() -> tuple[str, ...]:
    """Names of what a command puts into its folder."""
    return (*WRITTEN, EXAMPLE, FIGURES)


def _write(
    result: Result,
    out: Path,
    figures: Callable[[Path], Mapping[str, Callable[[], Figure]]],
    drawn: Callable[[str], None],
) -> None:
    from analysis.draw import write_figures

    with replacing(out, _written()) as new:
        result.write_into(new)
        write_figures(figures(new), new / FIGURES, drawn)


def _show(result: Result, shown: Iterable[Table], out: Path | None, json: bool) -> None:
    if json:
        sys.stdout.write(result.to_json())
    else:
        show(heading(result), shown, gap_lines(result))
    if out is not None:
        say_written(out, _written())


def _control(opened: Opened, path: Path | None) -> list[Entry]:
    """The self-attention that contradiction stands beside; none for a checkpoint that is self-attention itself."""
    request = opened.request
    entry = opened.entry("")
    if path is None:
        if opened.config.mixer == "attention":
            return []
        label, model = untrained_control(opened.config, torch.device(request.device), request.seed)
        return [Entry(label, model, opened.samples, entry.count, entry.shown)]
    other = control_request(opened, path)
    return [replace(other.entry(f"self-attention, {path.name}"), samples=opened.samples, shown=entry.shown)]


def _pass_on(command: str, help_text: str) -> typer.Typer:
    """A command of `python -m vmp`, which takes its own options."""
    app = new_app()

    def passed(context: typer.Context) -> int:
        return vmp_main([command, *context.args])

    passed.__doc__ = help_text
    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(command, context_settings=settings)(passed)
    return app


_VMP = {
    "inspect": "Say what a checkpoint is, and whether its weights are whole.",
    "sizes": "Count the parameters of the named models.",
}


def command_names() -> tuple[str, ...]:
    """Names of all commands."""
    own = [str(info.name) for info in _probes.registered_commands]
    return tuple(dict.fromkeys([*own, *OWN, *_VMP, *sorted(entry_points(group=GROUP).names)]))


def app_of(names: Sequence[str]) -> typer.Typer:
    """The app with these commands alone, so that one command does not load what another needs."""
    app = new_app()
    app.callback()(lambda: None)
    for name in names:
        for info in _load(name).registered_commands:
            if info.name in (name, None):
                settings = {**(info.context_settings or {})}
                app.command(name, context_settings=settings, help=info.help)(info.callback)  # type: ignore[arg-type]
    return app


def _load(name: str) -> typer.Typer:
    if name in _VMP:
        return _pass_on(name, _VMP[name])
    if any(info.name == name for info in _probes.registered_commands):
        return _probes
    if name in OWN:
        module, _, attribute = OWN[name].partition(":")
        return getattr(import_module(module), attribute)
    return next(iter(entry_points(group=GROUP, name=name))).load()


def main(arguments: Sequence[str] | None = None, program: str = "vmp") -> int:
    """Run a command line.

    Args:
        arguments: a command's name and its options; those of the process where None.
        program: what the user typed: "vmp", or "python -m analysis.decay" with the command's name left out.

    Returns:
        The exit code: that of the command, 2 after an error in one line, 130 after an interruption.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else ""
    if name not in command_names():
        return run_app(app_of(command_names()), given or ["--help"], program)
    own = name in (*_VMP, *OWN) or _load(name) is _probes
    app = new_app()
    for info in app_of([name]).registered_commands:
        app.registered_commands.append(info)
    title = program if program != "vmp" else f"vmp {name}"
    # Commands of other packages raise plain ValueErrors for their users.
    return run_app(app, given[1:], title, errors=USER_ERRORS if own else (ValueError, *USER_ERRORS))
