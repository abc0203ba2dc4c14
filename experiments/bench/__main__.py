"""`python -m experiments.bench scan|reduce|model|gpu|report`."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from analysis.results import ResultError
from experiments.bench.results import Recorder, new_run
from experiments.bench.steps import Step, run_steps

HERE = Path(__file__).parent
RESULTS = HERE / "results"
"""Where the JSON of every subcommand and device is kept."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)

Quick = Annotated[bool, typer.Option("--quick", help="Small sizes, in seconds: shows that it runs, no more.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep the groups that an earlier run has saved.")]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="Threads on the CPU.")]
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="Of the inputs.")]
Results = Annotated[Path, typer.Option(help="Folder of the JSON files.")]


@app.command()
def scan(
    threads: Threads = 2,
    seed: Seed = 0,
    quick: Quick = False,
    resume: Resume = False,
    results: Results = RESULTS,
) -> None:
    """The selective scan on the CPU: time, growth and memory of every backend and peer."""
    from experiments.bench import scan as scans

    bench = scans.ScanBench(scans.QUICK if quick else scans.ScanSizes(), seed)
    says = {subject.name: subject.says for subject in bench.subjects}
    _run("scan", bench.steps(), says, threads, seed, quick, resume, results)


@app.command()
def reduce(
    threads: Threads = 2,
    seed: Seed = 0,
    quick: Quick = False,
    resume: Resume = False,
    results: Results = RESULTS,
) -> None:
    """One pass over the implicit attention on the CPU: time, memory and growth; rows and columns."""
    from experiments.bench import reduce as reduction

    bench = reduction.ReduceBench(reduction.QUICK if quick else reduction.ReduceSizes(), seed)
    _run("reduce", bench.steps(), reduction.SAYS, threads, seed, quick, resume, results)


@app.command()
def model(
    threads: Threads = 2,
    seed: Seed = 0,
    quick: Quick = False,
    resume: Resume = False,
    results: Results = RESULTS,
) -> None:
    """A whole model with and without its scan, and a training step, by part; on the CPU."""
    from experiments.bench import model as whole

    bench = whole.ModelBench(whole.QUICK if quick else whole.ModelSizes(), seed)
    _run("model", bench.steps(), whole.SAYS, threads, seed, quick, resume, results)


def _run(
    subcommand: str,
    steps: list[Step],
    says: dict[str, str],
    threads: int,
    seed: int,
    quick: bool,
    resume: bool,
    results: Path,
) -> None:
    torch.set_num_threads(threads)
    console = Console(stderr=True, soft_wrap=True)
    with _one_line_errors(console):
        recorder = Recorder(results, new_run(subcommand, "cpu", quick, seed, _command(), says), resume)
        run_steps(steps, recorder, console)
    typer.echo(recorder.path)


@app.command()
def gpu(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A step to run, and no other; may be given again.")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="On the CPU at toy sizes, kernels in Triton's interpreter.")
    ] = False,
    within: Annotated[float, typer.Option(min=1, help="Seconds for all steps together.")] = 470,
    seed: Seed = 0,
    resume: Resume = False,
    results: Results = RESULTS,
) -> None:
    """All that only a GPU can show, in steps under a time limit each; what is measured is in gpu.json at once."""
    console = Console(stderr=True, soft_wrap=True)
    with _one_line_errors(console):
        if rehearse:
            os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it where it is first imported.
        elif not torch.cuda.is_available():
            raise ResultError(
                "torch finds no CUDA device on this machine; --rehearse runs the steps on the CPU"
            )
        from experiments.bench.gpu.plan import EXTRA, SAYS, gpu_steps
        from experiments.bench.gpu.runner import run_steps as run_apart
        from experiments.bench.gpu.runner import show_plan
        from experiments.bench.peers import subjects

        device = "cpu" if rehearse else "cuda"
        known = {step.name: step for step in gpu_steps(rehearse, seed)}
        if unknown := [name for name in only or () if name not in known]:
            raise ResultError(f"--only {unknown[0]}: no step has this name; there are {', '.join(known)}")
        chosen = [known[name] for name in only or (name for name in known if name not in EXTRA)]
        says = {subject.name: subject.says for subject in subjects(device)} | SAYS
        run = new_run("gpu", device, rehearse, seed, _command(), says)
        recorder = Recorder(results, run, resume or bool(only))
        if only:
            recorder.reopen(only)
        show_plan(chosen, within, console)
        complete = run_apart(chosen, device, recorder, within, console)
    typer.echo(recorder.path)
    if not complete:
        raise typer.Exit(1)


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.bench", *sys.argv[1:]])


@app.command()
def report(
    results: Results = RESULTS,
    out: Annotated[Path, typer.Option(help="The report.")] = HERE / "RESULTS.md",
    figures: Annotated[Path, typer.Option(help="Folder of the plot.")] = HERE / "figures",
) -> None:
    """RESULTS.md and the plots, from the saved JSON alone."""
    from experiments.bench.report import write_report

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
