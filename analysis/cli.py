"""The one command-line app: `vmp decay` and `python -m analysis.decay` are both it.

Commands of this package are below or in the modules of `OWN`, which are imported only where their command runs. A
package adds its own through the entry-point group "vmp.commands", whose entries are typer apps with one command each.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated

import typer

from analysis.command import (
    USER_ERRORS,
    CheckpointOption,
    JsonOption,
    OutOption,
    RequestFor,
    probe_and_show,
    with_request_options,
)
from analysis.decay import Decay
from analysis.measure import find_measure, measure_names
from analysis.request import RequestError, open_request
from analysis.terminal import HELP, new_app, run_app
from vmp.commands import main as vmp_main

GROUP = "vmp.commands"
OWN: Mapping[str, str] = {
    "contradiction": "analysis.contradiction.command:app",
    "compare": "analysis.compare.command:app",
    "theory": "analysis.theory.command:app",
}

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
    probe_and_show(open_request(request_for(checkpoint)), [Decay()], context.obj, out, json)


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
    probe_and_show(opened, [find_measure(name)() for name in dict.fromkeys(names)], context.obj, out, json)


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
            if info.name in (name, None) and info.callback is not None:
                app.command(name, context_settings=info.context_settings, help=info.help)(info.callback)
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
    errors: tuple[type[Exception], ...] = USER_ERRORS if own else (ValueError, *USER_ERRORS)
    return run_app(
        app, given[1:], title, errors=errors, resumes="--out" if own and name not in ("theory", *_VMP) else ""
    )
