"""`python -m experiments.report --grid DIR --out report`: a finished grid as one page."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TimeElapsedColumn

from analysis.files import check_replaceable
from analysis.terminal import command_line, progress_bar, run_app
from experiments.report.saved import read_grid
from experiments.report.write import WRITTEN, write_report

app = typer.Typer(add_completion=False)


@app.command()
def report(
    grid: Annotated[Path, typer.Option(help="Folder that `python -m experiments.grid` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the report; an earlier one is replaced.")] = Path(
        "report"
    ),
) -> None:
    """Write a grid's report: index.html, which needs no other file, with tables and figures beside it."""
    with progress_bar(TimeElapsedColumn()) as bar:
        task = bar.add_task("reading tables", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        check_replaceable(out, WRITTEN)
        write_report(read_grid(grid), out, command_line("experiments.report"), progress)
    typer.echo(f"report written; open {out / 'index.html'}")


if __name__ == "__main__":
    sys.exit(run_app(app))
