"""`python -m experiments.bench scan|reduce|model|report`."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from analysis.results import ResultError
from experiments.bench import gpu
from experiments.bench import model as whole
from experiments.bench import reduce as reduction
from experiments.bench import scan as scan_cpu
from experiments.bench.gpu import GpuScanBench
from experiments.bench.report import write_report
from experiments.bench.results import Recorder, new_run
from experiments.bench.scan import ScanBench
from experiments.bench.steps import Step, run_steps
from experiments.bench.timing import wall

HERE = Path(__file__).parent
RESULTS = HERE / "results"
"""Where the JSON of every subcommand and device is kept."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)

Quick = Annotated[bool, typer.Option("--quick", help="Small sizes, in seconds: shows that it runs, no more.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep the groups that an earlier run has saved.")]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="Threads on the CPU.")]
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="Of the inputs.")]
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
    _run("scan", _scan, device, threads, seed, quick, resume, results)


@app.command()
def reduce(
    device: Device = "cpu",
    threads: Threads = 2,
    seed: Seed = 0,
    quick: Quick = False,
    resume: Resume = False,
    results: Results = RESULTS,
) -> None:
    """One pass over the implicit attention: time, memory and growth; rows and columns."""
    _run("reduce", _reduce, device, threads, seed, quick, resume, results)


@app.command()
def model(
    threads: Threads = 2,
    seed: Seed = 0,
    quick: Quick = False,
    resume: Resume = False,
    results: Results = RESULTS,
) -> None:
    """A whole model with and without its scan, and a training step, by part; on the CPU."""
    _run("model", _model, "cpu", threads, seed, quick, resume, results)


Make = Callable[[str, bool, int], tuple[list[Step], dict[str, str]]]
"""From device, quick and seed to the steps, and what each subject stands for."""


def _run(
    subcommand: str,
    make: Make,
    device: str,
    threads: int,
    seed: int,
    quick: bool,
    resume: bool,
    results: Path,
) -> None:
    torch.set_num_threads(threads)
    console = Console(stderr=True, soft_wrap=True)
    with _one_line_errors(console):
        _check_device(device)
        steps, names = make(device, quick, seed)
        command = shlex.join(["python", "-m", "experiments.bench", *sys.argv[1:]])
        recorder = Recorder(results, new_run(subcommand, device, quick, seed, command, names), resume)
        run_steps(steps, recorder, console)
    typer.echo(recorder.path)


def _scan(device: str, quick: bool, seed: int) -> tuple[list[Step], dict[str, str]]:
    bench = (
        ScanBench(scan_cpu.QUICK if quick else scan_cpu.ScanSizes(), seed)
        if device == "cpu"
        else GpuScanBench(gpu.QUICK if quick else gpu.GpuSizes(), seed)
    )
    return bench.steps(), {subject.name: subject.says for subject in bench.subjects}


def _reduce(device: str, quick: bool, seed: int) -> tuple[list[Step], dict[str, str]]:
    sizes = reduction.QUICK if quick else reduction.ReduceSizes()
    clock = wall if device == "cpu" else gpu.events
    bench = reduction.ReduceBench(sizes, seed, device, clock)
    return bench.steps(), {name: says for name, says in reduction.SAYS.items() if name in bench.subjects}


def _model(device: str, quick: bool, seed: int) -> tuple[list[Step], dict[str, str]]:
    bench = whole.ModelBench(whole.QUICK if quick else whole.ModelSizes(), seed)
    return bench.steps(), whole.SAYS


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


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise ResultError(f"--device {device}: it must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ResultError("--device cuda: torch finds no CUDA device on this machine")


@contextlib.contextmanager
def _one_line_errors(console: Console) -> Iterator[None]:
    try:
        yield
    except ResultError as error:
        console.print("error: " + " ".join(str(error).split()), markup=False, highlight=False)
        raise typer.Exit(2) from None
    except torch.OutOfMemoryError as error:
        said = str(error).splitlines()[0]
        console.print(
            f"error: the device has too little memory for this: {said}", markup=False, highlight=False
        )
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
