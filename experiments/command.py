"""What the commands share: errors in one line, exit codes, and progress bars."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

_USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]
# Click's UsageError, from the click that this typer stands on: of late its own copy.


@final
class Stopped(Exception):
    """Work was asked to stop, and can go on by the same command.

    Attributes:
        signal: the number of the signal that asked.
    """

    def __init__(self, signal: int, said: str) -> None:
        super().__init__(said)
        self.signal = signal


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        app: the command.
        arguments: what follows its name; those of the process if None.

    Returns:
        The exit code: that of the command, 2 after an error in one line, 128 and the signal's number after `Stopped`,
        and 130 after an interruption.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=given, standalone_mode=False)
    except _USAGE_ERROR as error:
        return _fail(error.format_message())
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    except ValueError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    if code == 130:
        print("interrupted", file=sys.stderr)
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
