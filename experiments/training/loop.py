"""A run from its first step, or its last checkpoint, to its weights."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

import vmp
from experiments.data.clip import ClipDataset
from experiments.data.tasks import task_dataset
from experiments.runs import RunFolder
from experiments.training.batches import StepBatches, batches_of, leave_signals_to_the_parent
from experiments.training.config import TrainConfig
from experiments.training.run import Run
from experiments.training.stopping import Stopped, StopSignal
from vmp.config import named_config

WEIGHTS = "weights.safetensors"


def train(
    config: TrainConfig, out: pathlib.Path, progress: bool = False, clips: ClipDataset | None = None
) -> pathlib.Path:
    """Train, or go on training, and return the path of the final weights.

    Args:
        config: the run.
        out: its folder. Where it holds this run unfinished, the run goes on from its last checkpoint; where it
            holds this run finished, nothing is done.
        progress: show a bar on the terminal.
        clips: what to learn from; None for the task's own clips, made as they are needed.

    Raises:
        ValueError: for a model, task or list that is not there, a folder that holds another run, a batch that
            does not divide among the processes, a clip that cannot be read, or a loss that is not finite.
        Stopped: if interrupted or terminated, once the state is saved.
    """
    accelerator = Accelerator()
    rank, world = accelerator.process_index, accelerator.num_processes
    if config.batch_size % world:
        raise ValueError(f"batch_size {config.batch_size} does not divide among {world} processes")
    torch.manual_seed(config.seed)
    model, dataset = make_model(config, clips)
    with accelerator.main_process_first():
        free = ("save_every", "log_every", "workers")
        folder = RunFolder(out, config.model_dump(mode="json"), free, owner=rank == 0)
    weights = out / WEIGHTS
    if weights.exists():
        return weights
    run = Run(config, accelerator, model, folder)
    loader = DataLoader(
        dataset,
        batch_sampler=StepBatches(config, len(dataset), run.step, rank, world),
        num_workers=config.workers,
        worker_init_fn=leave_signals_to_the_parent,
    )
    with (
        _progress_bar(config, run.step, progress and rank == 0) as show,
        StopSignal() as stop,
        contextlib.closing(batches_of(loader)) as batches,
    ):
        for videos, labels in batches:
            run.update(videos, labels)
            show(run.step, run.loss)
            stopping = run.over_processes(stop.number)
            if run.step < config.steps and (stopping or run.step % config.save_every == 0):
                run.save()
                if stopping:
                    raise Stopped(stopping, run.step)
    run.finish(weights)
    return weights


def make_model(config: TrainConfig, clips: ClipDataset | None = None) -> tuple[vmp.VideoModel, ClipDataset]:
    """The model, with fresh weights from torch's global generator, and the clips that it is to learn from.

    A task that makes its clips makes steps * batch_size of them, so none is seen twice. Raises ValueError, as
    `vmp.create_model` and `task_dataset` do, and for `fields` that name the model or contradict the task.
    """
    for name, place in (("name", "model"), ("variant", "variant")):
        if name in config.fields:
            raise ValueError(f"fields: {name} cannot be among them; give it as {place}")
    shape = named_config(config.model, config.variant, **config.fields)
    dataset = clips or task_dataset(
        config.task,
        "train",
        num_frames=shape.num_frames,
        image_size=shape.image_size,
        seed=config.seed,
        size=config.steps * config.batch_size,
        listing=config.train_list,
        root=config.root,
    )
    fields = {"num_classes": len(dataset.classes), **config.fields}
    if fields["num_classes"] != len(dataset.classes):
        raise ValueError(
            f"fields: num_classes is {fields['num_classes']}, but the task {config.task} has {len(dataset.classes)} "
            "classes; leave it out"
        )
    return vmp.create_model(config.model, config.variant, **fields), dataset


@contextlib.contextmanager
def _progress_bar(config: TrainConfig, done: int, visible: bool) -> Iterator[Callable[[int, float], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as bar:
        name = " ".join(filter(None, (config.model, config.variant, config.task)))
        task = bar.add_task(name, total=config.steps, completed=done, loss=math.nan)
        yield lambda step, loss: bar.update(task, completed=step, loss=loss)
