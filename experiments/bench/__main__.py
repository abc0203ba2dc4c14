"""`python -m experiments.bench scan|reduce|model|report`."""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from analysis.results import ResultError
from experiments.bench.report import write_report
from experiments.bench.results import Recorder, new_run
from experiments.bench.scan import QUICK, ScanBench, ScanSizes
from experiments.bench.steps import Step, run_steps

HERE = Path(__file__).parent
RESULTS = HERE / "results"
"""Where the JSON of every subcommand and device is kept."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)

Quick = Annotated[bool, typer.Option("--quick", help="Small sizes, in seconds: shows that it runs, no more.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep the groups that an earlier run has saved.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads on the CPU.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the inputs.")]
Results = Annotated[Path, typer.Option(help="Folder of the JSON files.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


@app.command()
def scan(
    device: Device = "cpu",
    threads: Threads = 2,
    seed: Seed = 0,
    quick: Quick = False,
    resume: Resume = False,
    results: Results = RESULTS,
) -> None:
    """The selective scan: time, growth and memory of every backend and peer."""
    _run("scan", device, threads, seed, quick, resume, results)


def _run(
    subcommand: str, device: str, threads: int, seed: int, quick: bool, resume: bool, results: Path
) -> None:
    torch.set_num_threads(threads)
    console = Console(stderr=True, soft_wrap=True)
    with _one_line_errors(console):
        steps, names = _steps(subcommand, device, quick, seed)
        command = shlex.join(["python", "-m", "experiments.bench", *sys.argv[1:]])
        recorder = Recorder(results, new_run(subcommand, device, quick, seed, command, names), resume)
        run_steps(steps, recorder, console)
    typer.echo(recorder.path)


def _steps(subcommand: str, device: str, quick: bool, seed: int) -> tuple[list[Step], dict[str, str]]:
    if device not in ("cpu", "cuda"):
        raise ResultError(f"--device {device}: it must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ResultError("--device cuda: torch finds no CUDA device on this machine")
    bench = ScanBench(QUICK if quick else ScanSizes(), seed)
    return bench.steps(), {subject.name: subject.says for subject in bench.subjects}


@app.command()
def report(
    results: Results = RESULTS,
    out: Annotated[Path, typer.Option(help="The report.")] = HERE / "RESULTS.md",
    figures: Annotated[Path, typer.Option(help="Folder of the plot.")] = HERE / "figures",
) -> None:
    """RESULTS.md and the plot, from the saved JSON alone."""
    console = Console(stderr=True, soft_wrap=True)
    with _one_line_errors(console):
        write_report(results, out, figures)
    typer.echo(out)


@contextlib.contextmanager
def _one_line_errors(console: Console) -> Iterator[None]:
    try:
        yield
    except ResultError as error:
        console.print("error: " + " ".join(str(error).split()), markup=False, highlight=False)
        raise typer.Exit(2) from None
    except OSError as error:
        said = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        console.print(f"error: {said}", markup=False, highlight=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("interrupted; the same command with --resume goes on from here")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
