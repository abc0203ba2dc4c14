"""What every command of the toolkit shares with its terminal: an app, errors in one line, and progress bars."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]
"""Click's UsageError, from the click that this typer stands on: of late its own copy."""

HELP: dict[str, Any] = {"context_settings": {"help_option_names": ["-h", "--help"]}}
"""Arguments of every `app.command`."""


@final
class Stopped(Exception):
    """Work was asked to stop, and can go on by the same command.

    Attributes:
        signal: the number of the signal that asked.
    """

    def __init__(self, signal: int, said: str) -> None:
        super().__init__(said)
        self.signal = signal


def new_app() -> typer.Typer:
    """An app for one command."""
    return typer.Typer(add_completion=False, rich_markup_mode=None)


def run_app(
    app: typer.Typer,
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    *,
    errors: tuple[type[Exception], ...] = (ValueError,),
    resumes: str = "",
) -> int:
    """Run a command line.

    Args:
        app: its command returns an exit code, or None for 0. The context's `obj` is the command line as text.
        arguments: what follows the program's name; those of the process where None.
        program: what the user typed before them, for usage lines and provenance.
        errors: what the command raises for the user; any other exception is a bug and keeps its traceback.
        resumes: the option, such as `--out`, with which an interrupted command goes on when it is given again.

    Returns:
        The exit code: that of the command, 2 after an error in one line, 128 and the signal's number after `Stopped`,
        and 130 after an interruption.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    line = " ".join(filter(None, [program, shlex.join(given)]))
    try:
        code = app(args=given, prog_name=program, obj=line, standalone_mode=False)
    except USAGE_ERROR as error:
        return _fail(error.format_message())
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    except errors as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(
            ": ".join(str(part) for part in (error.filename, error.strerror or error) if part is not None)
        )
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        how = f"; with {resumes}, the same command goes on where this one stopped" if resumes else ""
        print(f"interrupted{how}", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def command_line(module: str) -> str:
    """The command line of this process, for provenance: of `vmp`, or of `python -m` and this module."""
    program = Path(sys.argv[0]).name
    return shlex.join([*([program] if program == "vmp" else ["python", "-m", module]), *sys.argv[1:]])


def progress_bar(
    *columns: ProgressColumn, console: Console | None = None, visible: bool | None = None
) -> Progress:
    """A bar on standard error with what is being done, how much of it is done, and further columns.

    Args:
        columns: what follows on the right.
        console: where it is shown instead.
        visible: whether it is shown; if None, only on a terminal.
    """
    console = console or Console(stderr=True)
    first = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = not (console.is_terminal if visible is None else visible)
    return Progress(*first, *columns, console=console, disable=hidden, transient=True)
