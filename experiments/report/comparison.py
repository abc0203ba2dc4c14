"""Two checkpoints probed on the same clips."""

import multiprocessing
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch

from analysis.decay.heatmaps import Heatmap
from analysis.decay.paired import paired_differences
from analysis.decay.result import DecayResult
from analysis.decay.run import Request, run
from analysis.inputs import DEFAULT_SOURCE
from analysis.results import Measurement
from experiments.report.card import Card, read_card

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


@dataclass(frozen=True)
class Comparison:
    """Two models probed on the same clips.

    Attributes:
        results, heatmaps, cards: by the model's name; the first less the second is the difference.
        differences: paired over clips.
        command: that makes the report again.
    """

    results: Mapping[str, DecayResult]
    heatmaps: Mapping[str, tuple[Heatmap, ...]]
    cards: Mapping[str, Card | None]
    differences: tuple[Measurement, ...]
    command: str


def compare(
    checkpoints: Mapping[str, Path],
    *,
    clips: int,
    seed: int,
    resamples: int = 1000,
    command: str,
    progress: Progress | None = None,
) -> Comparison:
    """Probe two checkpoints in every scope on held-out clips of photo-pan, each in a process of its own.

    Raises analysis.decay.run.RequestError or analysis.inputs.InputError with a message for the user.
    """
    requests = {
        name: Request(path, data=DEFAULT_SOURCE, clips=clips, scopes=("all",), seed=seed, bootstrap=resamples)
        for name, path in checkpoints.items()
    }
    context = multiprocessing.get_context("spawn")
    steps = context.SimpleQueue()
    with context.Pool(len(requests), _begin_worker, (steps,)) as pool:
        jobs = {name: pool.apply_async(_probe, (name, request)) for name, request in requests.items()}
        totals = dict.fromkeys(jobs, 0)
        done = 0
        while not (all(job.ready() for job in jobs.values()) and steps.empty()):
            if steps.empty():
                time.sleep(POLL)
                continue
            name, what, totals[name] = steps.get()
            done += 1
            if progress is not None:
                progress(f"probing {name}: {what}", done, max(totals.values()) * len(jobs))
        probed = {name: job.get() for name, job in jobs.items()}
    results = {name: result for name, (result, _) in probed.items()}
    one, other = results.values()
    return Comparison(
        results=results,
        heatmaps={name: heatmaps for name, (_, heatmaps) in probed.items()},
        cards={
            name: read_card(path, results[name].provenance.checkpoint.weights_sha256)
            for name, path in checkpoints.items()
        },
        differences=paired_differences(one, other, resamples, seed),
        command=command,
    )


POLL = 0.1
"""Seconds between looks at what the workers have done."""


def _begin_worker(steps: SimpleQueue) -> None:
    """One thread a process: two models at once keep two cores busy, and threads would only wait for each other."""
    global _steps
    _steps = steps
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends its workers.


def _probe(name: str, request: Request) -> tuple[DecayResult, tuple[Heatmap, ...]]:
    flags = ["--ckpt", request.checkpoint, "--data", request.data, "--clips", request.clips, "--scope", "all"]
    flags += ["--seed", request.seed, "--bootstrap", request.bootstrap]
    command = shlex.join(["python", "-m", "analysis.decay", *map(str, flags)])
    return run(request, command, lambda what, total: _steps.put((name, what, total)))


_steps: SimpleQueue
