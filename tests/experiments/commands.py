"""Commands run in this process, as a console script runs them."""

import contextlib
import io
from typing import NamedTuple

import typer

from analysis.terminal import run_app


class Ran(NamedTuple):
    """What a command left: its exit code and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def run_command(app: typer.Typer, *arguments: object) -> Ran:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = run_app(app, [str(argument) for argument in arguments])
    return Ran(code, out.getvalue(), errors.getvalue())


def assert_refused(ran: Ran, message: str) -> None:
    """The command said what was wrong in one line, and ended with exit code 2."""
    assert ran.exit_code == 2, ran
    assert ran.stderr.startswith("error: ")
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1
