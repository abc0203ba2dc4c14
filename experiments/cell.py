"""One cell of a grid: a small model trained on a task, judged on held-out clips, and probed before and after.

A finished cell's folder holds weights.safetensors, the cell's rows of each table of `experiments.grid_tables`,
rows.npz, which is what `experiments.probing.attention_rows` gives, and cell.json, which is written last. A cell that
was stopped or killed goes on from its last checkpoint and ends with the same bits.
"""

import fcntl
import hashlib
import json
import pathlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self, final

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from pydantic import BaseModel, ConfigDict, Field, model_validator
from threadpoolctl import threadpool_limits

import vmp
from analysis.files import write_atomically, write_text
from experiments.data.clip import ClipDataset
from experiments.data.tasks import TASKS, held_clips, task_dataset
from experiments.evaluate import evaluate
from experiments.grid_tables import write_rows
from experiments.probing import attention_rows, probe_rows
from experiments.runs import METRICS
from experiments.statistics.bases import sees_frames
from experiments.training.config import TrainConfig
from experiments.training.loop import train
from experiments.training.start import make_model
from vmp.checkpoint import read_checkpoint
from vmp.config import ModelConfig, matched_config

CELL = "cell.json"
FAILED = "failed.txt"
ROWS = "rows.npz"
CELL_VARIANTS = (
    "mamba",
    "videomamba",
    "mask",
    "residual_initial",
    "residual_elemental",
    "paper",
    "attention",
)
"""The models of math.md section 6 in their order."""

HELD_BYTES = 2**30
"""Clips of a split that take at most this much are made once and held in memory; others are made when needed."""

TEST_SEED = 1000
"""Added to a cell's seed for its held-out clips. Each seed is judged on its own clips, and all variants on the same."""

_BETAS = (0.9, 0.95)
"""AdamW's betas in every cell: a run of a thousand steps is short for the thousand that 0.999 averages over."""

_SHAPE = ("image_size", "patch_size", "tubelet_size", "d_model", "depth", "d_state", "class_token")
_TRAINING = (
    *("task", "variant", "steps", "batch_size", "learning_rate", "warmup_steps", "weight_decay", "seed"),
)

Count = Annotated[int, Field(ge=1)]


@final
class CellConfig(BaseModel):
    """All that fixes a cell's numbers on a given machine.

    Attributes:
        task: one of `experiments.data.tasks.TASKS`.
        frames, image_size: of a clip: T, and H = W in pixels.
        patch_size, tubelet_size, d_model, depth, d_state, class_token: as `vmp.ModelConfig` has them.
        variant: one of CELL_VARIANTS.
        steps, batch_size, learning_rate, warmup_steps, weight_decay: as `TrainConfig` has them.
        train_clips: the clips to learn from, gone through in epochs.
        test_clips: the held-out clips to judge on.
        probe_clips: how many of the held-out clips, drawn at random, are probed; intervals of probes are over these.
        seed: of weights, clips and their order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str
    frames: Count
    image_size: Count
    patch_size: Count
    tubelet_size: Count
    d_model: Count
    depth: Count
    d_state: Count
    variant: Literal[CELL_VARIANTS]  # type: ignore[valid-type]
    class_token: Literal["first", "none"]
    steps: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    train_clips: Count
    test_clips: Count
    probe_clips: Count
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}; it must be one of {', '.join(TASKS)}")
        self.training()
        task_dataset(self.task, "train", self.frames, self.image_size, self.seed, self.train_clips)
        if self.probe_clips > self.test_clips:
            raise ValueError(
                f"probe_clips is {self.probe_clips}; there are only {self.test_clips} test_clips"
            )
        return self

    @property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the configuration's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def model(self) -> ModelConfig:
        """The model's configuration, without its head; it has as many parameters as VideoMamba, within 2 %.

        Raises:
            ValueError: if the fields do not fit together.
        """
        shape = {name: getattr(self, name) for name in _SHAPE}
        return matched_config("vmp_micro", self.variant, num_frames=self.frames, **shape)

    def training(self) -> TrainConfig:
        """The run that `experiments.train.train` is given."""
        unset = ("name", "variant", "num_classes")
        shape = {name: value for name, value in self.model().to_dict().items() if name not in unset}
        return TrainConfig(
            model="vmp_micro",
            fields={name: value for name, value in shape.items() if value is not None},
            betas=_BETAS,
            **{name: getattr(self, name) for name in _TRAINING},
            save_every=max(10, self.steps // 8),
            log_every=max(1, self.steps // 50),
            workers=0 if self._held(self.train_clips) else 2,
        )

    def clips(self, split: Literal["train", "held-out"]) -> ClipDataset:
        """The cell's clips to learn from, or to be judged on."""
        seed, size = (
            (self.seed, self.train_clips) if split == "train" else (TEST_SEED + self.seed, self.test_clips)
        )
        make = held_clips if self._held(size) else task_dataset
        return make(self.task, split, self.frames, self.image_size, seed, size)

    def probed(self) -> list[int]:
        """The indices of the held-out clips that are probed, which are the same for all variants of a seed.

        They are drawn at random, as clips in a row may share what accuracy is broken down by, such as the cue's frame.
        """
        return np.random.default_rng(self.seed).permutation(self.test_clips)[: self.probe_clips].tolist()

    def _held(self, size: int) -> bool:
        return size * self.frames * self.image_size**2 * 3 <= HELD_BYTES


_ONE_AT_A_TIME = threading.Lock()
# Torch's generator and accelerate's state are the process's, and some backends run several tasks in one.


def run_cell(config: CellConfig, folder: pathlib.Path) -> None:
    """Do the stages of a cell that are not yet done in `folder`.

    Raises:
        ValueError: as `experiments.train.train`; if the loss is not finite or the folder is of another cell.
        Stopped: if interrupted while it trains.
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _ONE_AT_A_TIME, _locked(folder), _one_thread():
        if not (folder / CELL).exists():
            for leftover in (*folder.glob(".*.tmp"), *folder.glob(".*.partial"), *folder.glob(FAILED)):
                leftover.unlink()
            _Cell(config, folder).run()


@final
class _Cell:
    """The stages of a cell, timed."""

    def __init__(self, config: CellConfig, folder: pathlib.Path) -> None:
        self.config, self.folder = config, folder
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        config, folder = self.config, self.folder
        with self._timed("clips"):
            learned, held_out = config.clips("train"), config.clips("held-out")
        weights = train(config.training(), folder, clips=learned)
        metrics = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
        self.seconds["train"] = metrics[-1]["seconds"]
        loaded = read_checkpoint(weights)
        assert isinstance(loaded.model, vmp.VideoModel)
        device = PartialState().device  # where it was trained
        model = loaded.model.to(device)
        with self._timed("judge"):
            evaluation = evaluate(model, held_out)
        with self._timed("probe"):
            torch.manual_seed(config.seed)
            start = make_model(config.training(), learned)[0].to(device).eval()
            shown = [held_out.clip(index) for index in config.probed()]
            before, after = probe_rows(start, shown, False), probe_rows(model, shown, True)
        judged = evaluation.table()
        with self._timed("rows"):
            arrays = attention_rows(model, shown)
            viewed = config.probed()[: len(arrays["names"])]
            arrays["frames"] = np.stack([held_out.frames(index) for index in viewed])
            arrays["predictions"] = np.array(judged["prediction"].iloc[viewed].to_list())
        write_atomically(folder / ROWS, lambda temporary: _save_arrays(temporary, arrays))
        self._write("predictions", _predictions(judged, held_out, config))
        self._write("training", metrics)
        self._write("probes", [*before.probes, *after.probes])
        self._write("profiles", [*before.profiles, *after.profiles])
        self._write("times", [{"stage": stage, "seconds": spent} for stage, spent in self.seconds.items()])
        cell = {
            **config.model_dump(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "chance": 1 / len(held_out.classes),
            "blind": held_out.blind,
            "n_test": len(held_out),
            "accuracy": evaluation.accuracy,
            "weights_sha256": loaded.weights_sha256,
        }
        self._write("cells", [cell])
        write_text(folder / CELL, json.dumps({"cell": config.id, **cell}, indent=2) + "\n")

    def _write(self, table: str, rows: list[dict[str, Any]]) -> None:
        write_rows(self.folder, table, self.config.id, rows)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - began


def _predictions(judged: pd.DataFrame, clips: ClipDataset, config: CellConfig) -> list[dict[str, Any]]:
    """The table of predictions with each clip's conditions, and how the read-out reaches its cue."""
    rows = []
    for index, row in enumerate(judged.to_dict("records")):
        conditions = clips.conditions(index)
        cue = conditions.get("cue_frame")
        reading = {} if cue is None else _reading(config, int(cue))
        rows.append({**{str(name): value for name, value in row.items()}, **conditions, **reading})
    return rows


def _save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # by its name the file would be given another ending
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _reading(config: CellConfig, cue_frame: int) -> dict[str, Any]:
    """How a cue reaches the read-out: by which scan, and over how many frames of the clip.

    The class token stands before the first frame, so that only the backward scan brings it anything. Without one every
    token is read out, and the distance is that from the cue to the sequence's end, as far as a forward scan carries it.
    """
    if config.class_token == "none":
        return {"read_direction": "pooled", "read_distance": config.frames - 1 - cue_frame}
    if not sees_frames(config.variant, config.class_token):
        return {"read_direction": "none", "read_distance": None}
    return {"read_direction": "backward", "read_distance": cue_frame + 1}


@contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Wait until no other process works in the folder: a worker may outlive the grid that started it by a moment."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    # Cells are what runs side by side; and sums over threads would depend on how many there are.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
