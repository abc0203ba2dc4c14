"""RESULTS.md and the plot, from the saved JSON alone."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.bench.gpu.efficiency_figure import draw_efficiency, efficiency_points
from experiments.bench.plot import save_plot
from experiments.bench.results import Run, find_runs
from experiments.bench.tables import checks, figures, table
from experiments.bench.targets import TARGETS
from experiments.bench.verdicts import Saved, Target
from experiments.runs import write_text

TRIED = Path(__file__).with_name("tried.md")
MARKS = {True: "met", False: "**not met**", None: "-"}


def write_report(results: Path, out: Path, plots: Path, tried: Path = TRIED) -> None:
    """Write the report of every run saved in ``results``. Raises ResultError for a folder or file that is none."""
    runs = find_runs(results)
    plots.mkdir(parents=True, exist_ok=True)
    growth = save_plot(runs.values(), plots)
    gpu = runs.get(("gpu", "cuda"))
    efficiency = draw_efficiency(gpu, plots) if gpu and efficiency_points(gpu, "throughput") else None
    parts = [
        "# Timings",
        "Written by `python -m experiments.bench report`: every figure comes from the saved JSON files. "
        "Figures are medians of repeated calls after a warm-up; things that are compared took turns in one process, "
        "and ratios are of medians of one run. Spread is the distance between quartiles. Nothing is timed that the "
        "correctness gate below refuses.",
        "## Targets",
        *_targets(Saved(runs), TARGETS),
        *(
            f"## {title}\n\n![{title}]({os.path.relpath(path, out.parent)})"
            for title, path in (
                ("Time against L", growth),
                ("Throughput and memory against frames", efficiency),
            )
            if path
        ),
        *([tried.read_text(encoding="utf-8").strip()] if tried.exists() else []),
        "## Runs",
        *(_run(run) for run in runs.values()),
        "## All figures",
        *(part for run in runs.values() for part in figures(run)),
        "## Correctness gate",
        "Largest gap to the definition in float64 on the same numbers, over the largest entry of the tensor, in eps of "
        "its dtype. Gradients are named by the tensor they belong to. The definition is `vmp.scan.spec`, for `reduce` "
        "the dense matrix, for `model` the model with the specification's scan.",
        *(part for run in runs.values() for part in checks(run)),
    ]
    write_text(out, "\n\n".join(parts) + "\n")


def _targets(saved: Saved, targets: Sequence[Target]) -> Iterable[str]:
    for section in dict.fromkeys(target.section for target in targets):
        yield f"### {section}"
        rows = []
        for target in targets:
            if target.section == section:
                figure, met = target.verdict(saved)
                rows.append((target.what, target.wanted, figure, MARKS[met]))
        yield table(("what", "target", "figure", "met or not"), rows)


def _run(run: Run) -> str:
    m = run.machine
    where = f"{m.cpu}, {m.cores} cores, {m.threads} threads, {m.vector} bit vectors, {m.memory_gb:g} GB, {m.system}"
    lines = [
        f"### {run.subcommand}, {run.device}"
        + (" (quick: small sizes, no figures of the targets)" if run.quick else ""),
        f"`{run.command}`, {run.date}, seed {run.seed}.",
        f"{m.gpu}; {where}." if m.gpu else f"{where}.",
        ", ".join(f"{name} {version}" for name, version in run.versions.items()) + ".",
        "\n".join(f"- {name}: {says}" for name, says in run.subjects.items()),
    ]
    return "\n\n".join(lines)
