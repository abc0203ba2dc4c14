"""Trains one model on one task: `python -m experiments.train --task photo-pan --steps 1000 --out runs/one`.

A run can be stopped or killed at any step and continued by the same command, and ends with the same bits as
if it had not been. That rests on one rule: the learning rate, the clips of a batch and the random draws of a
step are functions of the configuration and the step, so that weights, optimiser moments and the step's number
are all there is to save.

`accelerate launch --num_processes N -m experiments.train ...` spreads each batch over N GPUs. Over N processes on a
CPU it does so with ACCELERATE_USE_CPU=true in the environment and --multi_gpu among the flags; --cpu asks for mpirun.

A run's folder holds config.json, metrics.jsonl, checkpoint.pt until the run is finished, and then
weights.safetensors.
"""

import contextlib
import json
import math
import pathlib
import signal
import sys
import time
import types
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Annotated, Any, Literal, Self, final

import numpy as np
import torch
import torch.nn.functional as F
import typer
from accelerate import Accelerator, PartialState
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import vmp
from experiments.data.clip import ClipDataset
from experiments.data.tasks import task_dataset
from experiments.runs import RunFolder
from vmp.config import named_config

WEIGHTS = "weights.safetensors"

Beta = Annotated[float, Field(ge=0, lt=1)]


@final
class TrainConfig(BaseModel):
    """All that fixes a run's weights on a given machine.

    task             as `experiments.data.tasks.task_dataset` takes it
    model, variant   as `vmp.create_model` takes them; variant None for the model's own
    fields           further fields of `vmp.ModelConfig`: num_frames, image_size, drop_path, ...
                     (num_classes follows from the task)
    steps            updates of the weights
    batch_size       clips in an update, over all processes
    learning_rate    the highest, reached after `warmup_steps`; then a cosine down to `final_rate` times it
    weight_decay     of AdamW; rates A, skips D, biases, norms, positions and class tokens are exempt
    betas            of AdamW
    clip_norm        the largest norm of a gradient; longer ones are scaled to it
    label_smoothing  of the cross-entropy
    seed             of the initial weights, the clips, their order, and stochastic depth
    train_list, root of the task "video": the list of files, and the folder its paths start from
    save_every       steps between checkpoints, which is what a kill can cost
    log_every        steps between lines of metrics
    workers          processes that make clips, for each process that trains

    The last three may change when a run is continued.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["photo-pan", "digits-direction", "digits-digit", "video"] = "photo-pan"
    model: str = "vmp_micro"
    variant: str | None = None
    fields: dict[str, bool | int | float | str] = {}
    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    final_rate: float = Field(default=0.01, ge=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    clip_norm: float = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    train_list: str | None = None
    root: str = ""
    save_every: int = Field(default=100, ge=1)
    log_every: int = Field(default=10, ge=1)
    workers: int = Field(default=1, ge=0)

    @classmethod
    def read(cls, path: pathlib.Path | None, changes: Mapping[str, Any] | None = None) -> Self:
        """The configuration of a JSON file (or the defaults), with those `changes` that are not None.

        Raises ValueError, in one line, for a file that cannot be read and a field or value there cannot be.
        """
        try:
            data = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict):
                raise ValueError("it must hold an object {...} of fields")
            return cls(
                **{**data, **{name: value for name, value in (changes or {}).items() if value is not None}}
            )
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ValueError("the configuration is wrong: " + "; ".join(problems)) from error
        except OSError as error:
            raise ValueError(f"{path}: the configuration cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path}: not a configuration in JSON: {error}") from error

    def rate(self, step: int) -> float:
        """The learning rate of step 0, ..., steps - 1: linear warm-up, then a cosine (arXiv 1608.03983)."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * cosine)


@final
class StepBatches(Sampler[list[int]]):
    """The clips of each step from `start` on, for one process of several.

    The order runs through the dataset in epochs, each shuffled by (seed, epoch) alone; step s takes the
    places s * batch_size to (s + 1) * batch_size of it, of which process r of w takes every w-th, from the
    r-th on.
    """

    def __init__(self, config: TrainConfig, size: int, start: int, rank: int = 0, world: int = 1) -> None:
        self.config, self.size, self.start, self.rank, self.world = config, size, start, rank, world

    def __len__(self) -> int:
        return self.config.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        shuffled: dict[int, list[int]] = {}
        for step in range(self.start, self.config.steps):
            first = step * self.config.batch_size
            batch = []
            for place in range(first + self.rank, first + self.config.batch_size, self.world):
                epoch, position = divmod(place, self.size)
                if epoch not in shuffled:
                    shuffled = {epoch - 1: shuffled.get(epoch - 1, []), epoch: self._shuffle(epoch)}
                batch.append(shuffled[epoch][position])
            yield batch

    def _shuffle(self, epoch: int) -> list[int]:
        return np.random.default_rng([self.config.seed, epoch]).permutation(self.size).tolist()


@final
class StopSignal:
    """While entered, an interrupt or a request to terminate is noted in `number` rather than obeyed.

    A second one ends the process as usual, and so does the first where there is nobody to note it: signals
    can be caught in the main thread only.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:
            self._previous.clear()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.number = number
        for noted, handler in self._previous.items():
            signal.signal(noted, handler)


class Stopped(Exception):
    """A run was asked to stop, and has saved its state. `signal` says by what, `step` after how many steps."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped after step {step}; the same command goes on from there")
        self.signal, self.step = number, step


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
    run = _Run(config, accelerator, model, folder)
    loader = DataLoader(
        dataset,
        batch_sampler=StepBatches(config, len(dataset), run.step, rank, world),
        num_workers=config.workers,
        worker_init_fn=_leave_signals_to_the_parent,
    )
    with (
        _progress_bar(config, run.step, progress and rank == 0) as show,
        StopSignal() as stop,
        contextlib.closing(_batches(loader)) as batches,
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


@final
class _Run:
    """The moving parts of a run: weights, optimiser moments, the number of steps done, and the time they took.

    Made from the folder's checkpoint where there is one, and from the model's own weights otherwise.
    """

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, model: vmp.VideoModel, folder: RunFolder
    ) -> None:
        self.config, self.accelerator, self.folder, self.unwrapped = config, accelerator, folder, model
        optimizer = torch.optim.AdamW(_parameter_groups(model, config.weight_decay), betas=config.betas)
        saved = folder.load()
        if saved is not None:
            model.load_state_dict(saved["model"])
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if saved is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
        self.step = 0 if saved is None else saved["step"]
        self.loss = math.nan
        self._began = time.monotonic() - (0.0 if saved is None else saved["seconds"])
        if accelerator.is_main_process:
            folder.keep_metrics(self.step)
        accelerator.wait_for_everyone()

    def update(self, videos: Tensor, labels: Tensor) -> None:
        """One step of the optimiser on this process's share of a batch."""
        config, rank, device = self.config, self.accelerator.process_index, self.accelerator.device
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.step, rank]).generate_state(1)[0]))
        rate = config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        labels = labels.to(device)
        logits = self.model(videos.to(device))
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.loss = float(loss.detach())
        if not math.isfinite(self.loss):
            raise ValueError(
                f"the loss is {self.loss} at step {self.step}: try a learning_rate below {config.learning_rate:g}"
            )
        self.optimizer.step()
        self.step += 1
        if self.step % config.log_every == 0 or self.step == config.steps:
            hits = (logits.detach().argmax(1) == labels).float().mean()
            self._log(torch.stack([loss.detach(), hits]), rate, float(norm))

    def _log(self, means: Float[Tensor, "2"], rate: float, norm: float) -> None:
        loss, accuracy = self.accelerator.reduce(means, "mean").tolist()
        if self.accelerator.is_main_process:
            self.folder.log(
                step=self.step,
                loss=loss,
                accuracy=accuracy,
                learning_rate=rate,
                gradient_norm=norm,
                seconds=round(self._seconds(), 3),
            )

    def save(self) -> None:
        """Put what a later process needs to go on into the folder."""
        if self.accelerator.is_main_process:
            self.folder.save(
                {
                    "step": self.step,
                    "seconds": self._seconds(),
                    "model": self.unwrapped.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                }
            )

    def finish(self, weights: pathlib.Path) -> None:
        """Write the final weights, and drop the checkpoint that they replace."""
        if self.accelerator.is_main_process:
            vmp.save_checkpoint(self.unwrapped, weights)
            self.folder.discard_checkpoint()
        self.accelerator.wait_for_everyone()

    def over_processes(self, number: int) -> int:
        """The largest of a number that each process has, so that all of them decide alike."""
        if self.accelerator.num_processes == 1:
            return number
        return int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _parameter_groups(model: vmp.VideoModel, weight_decay: float) -> list[dict[str, Any]]:
    exempt = model.no_weight_decay()
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if name not in exempt], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name in exempt], "weight_decay": 0.0},
    ]


def _batches(loader: DataLoader[tuple[Tensor, int]]) -> Generator[tuple[Tensor, Tensor]]:
    """What `loader` yields, until closed: then its workers are gone, whatever happened to the loop over it."""
    iterator = iter(loader)
    try:
        yield from iterator
    except ValueError as error:
        if loader.num_workers == 0:
            raise
        # A worker's error comes with the worker's traceback before it, in its message.
        raise ValueError(str(error).splitlines()[-1].removeprefix("ValueError: ")) from error
    finally:
        # Left to the end of the process, workers would be asked to terminate, ignore it, and be waited for.
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()  # those that a clip still holds up


def _leave_signals_to_the_parent(worker: int) -> None:
    # A terminal interrupts, and a cluster terminates, every process of a run: workers must outlive the step in hand.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


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


def _parse_settings(settings: list[str]) -> dict[str, Any]:
    """`name=value` pairs, values read as JSON where they are JSON and as text otherwise."""
    parsed = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: it must have the form name=value")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
    return parsed


def main(
    out: Annotated[pathlib.Path, typer.Option(help="Folder of the run; a run in it goes on.")],
    config: Annotated[pathlib.Path | None, typer.Option(help="JSON file of TrainConfig's fields.")] = None,
    task: Annotated[
        str | None, typer.Option(help="photo-pan, digits-direction, digits-digit or video.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model, such as vmp_micro.")] = None,
    variant: Annotated[str | None, typer.Option(help="paper, videomamba, mask, ...")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates of the weights.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips in an update, over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, clips and their order.")] = None,
    train_list: Annotated[str | None, typer.Option(help="Task video: list of `path label` lines.")] = None,
    root: Annotated[str | None, typer.Option(help="Task video: folder that the list starts from.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any field, as name=value, in JSON.")
    ] = None,
) -> None:
    """Train a model, or go on with a run that was stopped or killed. Options go before the file's values."""
    console = Console(stderr=True, soft_wrap=True)
    try:
        flags = {
            "task": task,
            "model": model,
            "variant": variant,
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
            "train_list": train_list,
            "root": root,
            "save_every": save_every,
        }
        chosen = TrainConfig.read(config, {**flags, **_parse_settings(settings or [])})
        weights = train(chosen, out, progress=sys.stderr.isatty())
    except Stopped as stopped:
        console.print(str(stopped), markup=False, highlight=False)
        raise typer.Exit(128 + stopped.signal) from None
    except ValueError as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        raise typer.Exit(2) from None
    if PartialState().is_main_process:
        typer.echo(weights)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
