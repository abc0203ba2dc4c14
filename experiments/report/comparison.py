"""Two checkpoints probed on the same clips."""

import multiprocessing
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from analysis.decay.heatmaps import Heatmap
from analysis.decay.paired import paired_differences
from analysis.decay.result import DecayResult
from analysis.decay.run import run
from analysis.inputs import DEFAULT_SOURCE
from analysis.request import Request, RequestError
from analysis.results import Measurement
from experiments.report.card import Card, read_card
from vmp.checkpoint import read_checkpoint, save_checkpoint
from vmp.model import build_model

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


@dataclass(frozen=True)
class Comparison:
    """Two models probed on the same clips.

    Attributes:
        results, heatmaps, cards: by the model's name; the first less the second is the difference.
        differences: paired over clips.
        untrained: the same differences between fresh models of the two configurations, as a control.
        command: that makes the report again.
    """

    results: Mapping[str, DecayResult]
    heatmaps: Mapping[str, tuple[Heatmap, ...]]
    cards: Mapping[str, Card | None]
    differences: tuple[Measurement, ...]
    untrained: tuple[Measurement, ...]
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
    """Probe two checkpoints, and fresh models of their configurations, on held-out clips of photo-pan.

    Every scope is probed. Fresh weights are drawn from ``seed``.

    Raises analysis.request.RequestError or analysis.inputs.InputError with a message for the user.
    """
    with TemporaryDirectory() as folder:
        paths = {
            **checkpoints,
            **{f"{name}, untrained": _fresh(path, seed, Path(folder)) for name, path in checkpoints.items()},
        }
        requests = {
            name: Request(
                path, data=DEFAULT_SOURCE, clips=clips, scopes=("all",), seed=seed, bootstrap=resamples
            )
            for name, path in paths.items()
        }
        probed = _probe_all(requests, progress)
    one, other, fresh, control = (result for result, _ in probed.values())
    return Comparison(
        results=dict(zip(checkpoints, (one, other), strict=True)),
        heatmaps={name: probed[name][1] for name in checkpoints},
        cards={
            name: read_card(path, probed[name][0].provenance.checkpoint.weights_sha256)
            for name, path in checkpoints.items()
        },
        differences=paired_differences(one, other, resamples, seed),
        untrained=paired_differences(fresh, control, resamples, seed),
        command=command,
    )


def _fresh(path: Path, seed: int, folder: Path) -> Path:
    """A file with fresh weights of a checkpoint's configuration. Raises RequestError as `run` does."""
    try:
        config = read_checkpoint(path).config
    except ValueError as error:
        raise RequestError(str(error)) from error
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = build_model(config)
    save_checkpoint(model, folder / path.name)
    return folder / path.name


Probed = tuple[DecayResult, tuple[Heatmap, ...]]


def _probe_all(requests: Mapping[str, Request], progress: Progress | None) -> dict[str, Probed]:
    """Run the requests two at a time, each in a process of one thread."""
    context = multiprocessing.get_context("spawn")
    steps = context.SimpleQueue()
    with context.Pool(WORKERS, _begin_worker, (steps,)) as pool:
        jobs = {name: pool.apply_async(_probe, (name, request)) for name, request in requests.items()}
        done = each = 0
        while not all(job.ready() for job in jobs.values()) or not steps.empty():
            for job in jobs.values():
                if job.ready():
                    job.get()  # Raises what the worker raised, without waiting for the others.
            if steps.empty():
                time.sleep(POLL)
                continue
            name, what, each = steps.get()
            done += 1
            if progress is not None:
                progress(f"probing {name}: {what}", done, each * len(jobs))
        return {name: job.get() for name, job in jobs.items()}


WORKERS = 2
POLL = 0.1
"""Seconds between looks at what the workers have done."""


def _begin_worker(steps: SimpleQueue) -> None:
    global _steps
    _steps = steps
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends its workers.


def _probe(name: str, request: Request) -> Probed:
    flags = ["--ckpt", request.checkpoint, "--data", request.data, "--clips", request.clips, "--scope", "all"]
    flags += ["--seed", request.seed, "--bootstrap", request.bootstrap]
    command = shlex.join(["python", "-m", "analysis.decay", *map(str, flags)])
    return run(request, command, lambda what, total: _steps.put((name, what, total)))


_steps: SimpleQueue
