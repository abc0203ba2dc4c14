"""A run small enough to be trained many times, and ways to start, stop and compare it."""

import json
import os
import pathlib
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file

import vmp
from experiments.train import TrainConfig
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


def metrics(out: pathlib.Path) -> list[dict[str, float]]:
    """The lines of metrics without the time they took."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def same_bits(first: pathlib.Path, second: pathlib.Path) -> bool:
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, how: str) -> None:
    """Let training be interrupted right after a step: by a signal, or by dying without a word."""
    update = TrainingState.update

    def update_and_interrupt(run, *batch):
        update(run, *batch)
        if run.step == step and how == "signal":
            signal.raise_signal(signal.SIGINT)
        if run.step == step and how == "death":
            raise MemoryError

    monkeypatch.setattr(TrainingState, "update", update_and_interrupt)
