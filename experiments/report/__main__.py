"""`python -m experiments.report --grid DIR --out report`: a finished grid, as one page."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from analysis.results import ResultError, check_replaceable
from experiments.report.saved import read_grid
from experiments.report.write import WRITTEN, write_report


def main(
    grid: Annotated[Path, typer.Option(help="Folder that `python -m experiments.grid` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the report; an earlier one is replaced.")] = Path(
        "report"
    ),
) -> None:
    """Write a grid's report: index.html, which needs no other file, with tables and figures beside it."""
    errors = Console(stderr=True, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("reading tables", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        try:
            check_replaceable(out, WRITTEN)
            saved = read_grid(grid)
            command = shlex.join(["python", "-m", "experiments.report", *sys.argv[1:]])
            write_report(saved, out, command, progress)
        except ResultError as error:
            _stop(errors, str(error))
        except OSError as error:
            _stop(errors, ": ".join(str(part) for part in (error.filename or out, error.strerror or error)))
    typer.echo(f"report written; open {out / 'index.html'}")


def _stop(errors: Console, message: str) -> None:
    errors.print("error: " + " ".join(message.split()), markup=False, highlight=False)
    raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
