"""A run from its first step, or its last checkpoint, to its weights."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from rich.progress import TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from analysis.terminal import Stopped, progress_bar
from experiments.data.clip import ClipDataset
from experiments.data.draws import VideoDraws, collate
from experiments.runs import RunFolder
from experiments.training.batches import SameClips, StepBatches, batches_of, leave_signals_to_the_parent
from experiments.training.config import FREE, TrainConfig
from experiments.training.start import make_model
from experiments.training.state import TrainingState
from experiments.training.stopping import StopSignal

WEIGHTS = "weights.safetensors"


def train(
    config: TrainConfig, out: pathlib.Path, progress: bool = False, clips: ClipDataset | None = None
) -> pathlib.Path:
    """Train, or go on training, and return the path of the final weights.

    Args:
        config: the run.
        out: its folder. A run that is unfinished there goes on from its last checkpoint; for a finished one, nothing
            is done.
        progress: whether to show a bar on the terminal.
        clips: what to learn from; if None, the task's own clips, made as they are needed.

    Raises:
        ValueError: if a model, task or list is not there, the folder holds another run, a batch does not divide among
            the processes or leaves nothing to mix, a clip cannot be read, or a loss or gradient is not finite.
        Stopped: if interrupted or terminated, once the state is saved.
    """
    # Precision is the configuration's: no launcher's flag or environment changes it.
    accelerator = Accelerator(mixed_precision="no")
    rank, world = accelerator.process_index, accelerator.num_processes
    if config.batch_size % (world * config.repeats * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} does not divide among {world} processes with {config.repeats} repeats in "
            f"{config.accumulate} parts"
        )
    if (config.mixup or config.cutmix) and config.batch_size == world:
        raise ValueError(
            f"mixup and cutmix mix the clips of a process, and batch_size {config.batch_size} leaves each of {world} "
            "a single one; it must be larger"
        )
    torch.manual_seed(config.seed)
    model, dataset = make_model(config, clips)
    with accelerator.main_process_first():
        folder = RunFolder(out, config.model_dump(mode="json"), FREE, owner=rank == 0)
    weights = out / WEIGHTS
    if weights.exists():
        return weights
    run = TrainingState(config, accelerator, model, folder, videos=len(dataset) if config.of_videos else 0)
    loader = DataLoader(
        dataset if isinstance(dataset, VideoDraws) else SameClips(dataset),
        batch_sampler=StepBatches(config, len(dataset), run.step, rank, world),
        collate_fn=collate,
        num_workers=config.workers,
        worker_init_fn=leave_signals_to_the_parent,
    )
    with (
        _progress_bar(run, progress and rank == 0) as show,
        StopSignal() as stop,
        contextlib.closing(batches_of(loader)) as batches,
    ):
        for videos, labels, bad in batches:
            if config.of_videos:
                run.note_bad(bad)
            run.update(videos, labels)
            show()
            stopping = run.over_processes(stop.number)
            if run.step < config.steps and (stopping or run.step % config.save_every == 0):
                run.save()
                if stopping:
                    raise Stopped(
                        stopping, f"stopped after step {run.step}; the same command goes on from there"
                    )
    run.finish(weights)
    return weights


@contextlib.contextmanager
def _progress_bar(run: TrainingState, visible: bool) -> Iterator[Callable[[], None]]:
    config, loss = run.config, TextColumn("loss {task.fields[loss]:.3f}{task.fields[bad]}")
    with progress_bar(loss, TimeRemainingColumn(), visible=visible) as bar:
        name = " ".join(filter(None, (config.model, config.variant, config.task)))
        task = bar.add_task(name, total=config.steps, completed=run.step, loss=math.nan, bad="")

        def show() -> None:
            bad = f", {len(run.bad.found)} bad videos" if run.bad.found else ""
            bar.update(task, completed=run.step, loss=run.loss, bad=bad)

        yield show
