"""`python -m experiments.report --out report`: the two committed checkpoints, probed side by side."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from analysis.inputs import InputError
from analysis.request import RequestError
from analysis.results import ResultError, check_replaceable
from experiments.report.comparison import compare
from experiments.report.write import WRITTEN, write_report

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
CLIPS = 24


def main(
    out: Annotated[Path, typer.Option(help="Folder of the report; an earlier one is replaced.")] = Path(
        "report"
    ),
    paper: Annotated[Path, typer.Option(help="Checkpoint of variant paper.")] = CHECKPOINTS
    / "vmp_micro_paper.safetensors",
    videomamba: Annotated[Path, typer.Option(help="Checkpoint of variant videomamba.")] = CHECKPOINTS
    / "vmp_micro_videomamba.safetensors",
    clips: Annotated[int, typer.Option(min=1, help="Held-out clips of photo-pan.")] = CLIPS,
    seed: Annotated[int, typer.Option(min=0, help="Of the clips and the bootstrap.")] = 0,
) -> None:
    """Probe both small checkpoints on the same held-out clips and write one HTML page with figures and tables."""
    errors = Console(stderr=True, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("reading weights", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        try:
            check_replaceable(out, WRITTEN)
            bar.console.print(f"probing two models on {clips} clips", highlight=False)
            comparison = compare(
                {"paper": _shown(paper), "videomamba": _shown(videomamba)},
                clips=clips,
                seed=seed,
                command=shlex.join(["python", "-m", "experiments.report", *sys.argv[1:]]),
                progress=progress,
            )
            bar.console.print("drawing figures", highlight=False)
            write_report(comparison, out, progress)
        except (RequestError, InputError, ResultError) as error:
            errors.print("error: " + " ".join(str(error).split()), markup=False, highlight=False)
            raise typer.Exit(2) from None
    typer.echo(f"report written; open {out / 'index.html'}")


def _shown(path: Path) -> Path:
    """From the working directory where it lies below it, so that a report names no machine's folders."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    typer.run(main)
