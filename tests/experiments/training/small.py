"""A run small enough to be trained many times, and ways to start, stop and compare it."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest
import torch
from safetensors.torch import load_file

import vmp
from analysis.terminal import run_app
from experiments.train import TrainConfig, app, train
from experiments.training.state import TrainingState

TINY = {
    "num_frames": 2,
    "tubelet_size": 1,
    "image_size": 16,
    "patch_size": 8,
    "d_model": 16,
    "depth": 2,
    "d_state": 4,
}
CONFIG = TrainConfig(
    fields={**TINY, "drop_path": 0.2},
    variant="paper",
    steps=14,
    batch_size=4,
    warmup_steps=3,
    save_every=5,
    log_every=2,
    workers=0,
)
# A script is no module: the working directory is put on its path by hand.
ENVIRONMENT = {
    **os.environ,
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(pathlib.Path(vmp.__file__).parents[1]),
}
# Without --multi_gpu, accelerate starts a single process on a machine that has no mpirun.
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]


# Processes of their own, forked from one that has loaded torch and has neither threads nor a GPU in use.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload([__name__])


def run_in_a_process(body: Callable[..., None], *arguments: object) -> tuple[int | None, str]:
    """Call `body` in a process that leads a group of its own; its exit code, and what all of the group wrote to stderr.

    The end of what is written is the end of every process of the group.
    """
    reader, writer = _FORKED.Pipe(duplex=False)
    process = _FORKED.Process(target=_alone, args=(writer, body, arguments))
    process.start()
    writer.close()
    try:
        with os.fdopen(os.dup(reader.fileno())) as errors:
            written = errors.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode, written


def _alone(writer: Connection, body: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.setsid()
    # Workers are this process's own children, as in a command.
    multiprocessing.set_start_method("fork", force=True)
    os.dup2(writer.fileno(), sys.stderr.fileno())
    torch.set_num_threads(1)
    body(*arguments)


def train_and_be_killed(config: TrainConfig, out: pathlib.Path, step: int) -> None:
    interrupt(pytest.MonkeyPatch(), step, "kill")
    train(config, out)


def train_by_command(arguments: list[str], terminated_at: int | None = None) -> None:
    if terminated_at is not None:
        interrupt(pytest.MonkeyPatch(), terminated_at, "terminate")
    sys.exit(run_app(app, arguments))


def metrics(out: pathlib.Path) -> list[dict[str, float]]:
    """The lines of metrics without the time they took."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def same_bits(first: pathlib.Path, second: pathlib.Path) -> bool:
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, how: str) -> None:
    """Let training be interrupted right after a step: by a signal, or by dying without a word.

    "kill" and "terminate" end the process, and its whole group.
    """
    update = TrainingState.update

    def update_and_interrupt(run, *batch):
        update(run, *batch)
        if run.step == step:
            match how:
                case "signal":
                    signal.raise_signal(signal.SIGINT)
                case "death":
                    raise MemoryError
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "terminate":
                    os.killpg(0, signal.SIGTERM)

    monkeypatch.setattr(TrainingState, "update", update_and_interrupt)
