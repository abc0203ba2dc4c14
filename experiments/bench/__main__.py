"""`python -m experiments.bench scan|reduce|model|gpu|report`: timings against peers, behind a correctness gate."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from analysis.files import ResultError
from analysis.terminal import command_line, run_app
from experiments.bench.cases import run_cases
from experiments.bench.results import Recorder, new_run

HERE = Path(__file__).parent
RESULTS = HERE / "results"
"""Where the JSON of every subcommand and device is kept."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)

Resume = Annotated[bool, typer.Option("--resume", help="Keep the groups that an earlier run has saved.")]
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="Seed of the inputs.")]
Results = Annotated[Path, typer.Option(help="Folder of the JSON files.")]


def _on_the_cpu(name: str, says: str) -> None:
    """Add the subcommand whose module has that name: it has the table of `cases`, and their sizes."""

    def command(
        threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads on the CPU.")] = 2,
        seed: Seed = 0,
        quick: Annotated[
            bool, typer.Option("--quick", help="Small sizes, to see in seconds that it runs.")
        ] = False,
        resume: Resume = False,
        results: Results = RESULTS,
    ) -> None:
        torch.set_num_threads(threads)
        module = import_module(f"experiments.bench.{name}")
        cases = list(module.cases(module.QUICK if quick else module.SIZES, seed))
        subjects = {case.subject: case.says for case in cases if case.says}
        run = new_run(name, "cpu", quick, seed, command_line("experiments.bench"), subjects)
        recorder = Recorder(results, run, resume)
        run_cases(cases, recorder, Console(stderr=True, soft_wrap=True))
        typer.echo(recorder.path)

    app.command(name, help=says)(command)


_on_the_cpu("scan", "The selective scan on the CPU: time, growth and memory of every backend and peer.")
_on_the_cpu(
    "reduce", "One pass over the implicit attention on the CPU: time, memory and growth; rows and columns."
)
_on_the_cpu("model", "A whole model and a training step on the CPU, each beside the same without its scan.")


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
    """All that only a GPU can show, in steps under a time limit each; every figure is in gpu.json at once."""
    console = Console(stderr=True, soft_wrap=True)
    if rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it where it is first imported.
    elif not torch.cuda.is_available():
        raise ResultError("torch finds no CUDA device on this machine; --rehearse runs the steps on the CPU")
    from experiments.bench.gpu.plan import EXTRA, SAYS, gpu_steps
    from experiments.bench.gpu.runner import run_apart, show_plan
    from experiments.bench.gpu.scans import on_device

    device = "cpu" if rehearse else "cuda"
    known = {step.name: step for step in gpu_steps(rehearse, seed)}
    if unknown := [name for name in only or () if name not in known]:
        raise ResultError(f"--only {unknown[0]}: no step has this name; there are {', '.join(known)}")
    chosen = [known[name] for name in only or (name for name in known if name not in EXTRA)]
    says = {one.name: one.says for one in on_device(device)} | SAYS
    run = new_run("gpu", device, rehearse, seed, command_line("experiments.bench"), says)
    recorder = Recorder(results, run, resume or bool(only))
    if only:
        recorder.reopen(only)
    show_plan(chosen, within, console)
    complete = run_apart(chosen, device, recorder, within, console)
    typer.echo(recorder.path)
    if not complete:
        raise typer.Exit(1)


@app.command()
def report(
    results: Results = RESULTS,
    out: Annotated[Path, typer.Option(help="The report.")] = HERE / "RESULTS.md",
    figures: Annotated[Path, typer.Option(help="Folder of the figures.")] = HERE / "figures",
) -> None:
    """RESULTS.md and its figures, from the saved JSON alone."""
    from experiments.bench.report import write_report

    write_report(results, out, figures)
    typer.echo(out)


if __name__ == "__main__":
    sys.exit(run_app(app, errors=(ResultError, torch.OutOfMemoryError), resumes="--resume"))
