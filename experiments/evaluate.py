"""Accuracy of a checkpoint on held-out clips: `python -m experiments.evaluate --ckpt FILE --task photo-pan`.

Videos of a list are shown in several views, over which the probabilities of the classes are averaged:

    python -m experiments.evaluate --ckpt FILE --task kinetics400 --test-list val.csv --root videos --clips 4 --crops 3
      --out predictions.csv

Two such tables go into McNemar's test: `python -m experiments.statistics ONE.csv OTHER.csv`. With `--out`, the finished
part of an evaluation is kept beside it every few seconds, and the same command goes on from it.
"""

import contextlib
import hashlib
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, final

import numpy as np
import torch
import typer
from jaxtyping import Float
from rich.progress import TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import vmp
from analysis.request import parse_device
from analysis.terminal import Stopped, progress_bar, run_app
from experiments.data.clip import ClipDataset
from experiments.data.draws import BadVideos
from experiments.data.lists import DATASETS, read_dataset
from experiments.data.tasks import TASKS, task_dataset
from experiments.data.views import VideoViews
from experiments.predictions import Evaluation, write_predictions
from experiments.runs import RunFolder
from experiments.training.batches import batches_of, leave_signals_to_the_parent
from vmp.checkpoint import read_checkpoint

__all__ = ["Evaluation", "app", "evaluate", "write_predictions"]

SAVE_SECONDS = 20.0
"""How much of an evaluation a kill can cost."""

app = typer.Typer(add_completion=False)


class ShownClip(NamedTuple):
    """The views of clip number `clip`, or what is wrong with it."""

    clip: int
    views: Float[Tensor, "V 3 T H W"] | None
    problem: str | None


@final
class _AllViews(Dataset[ShownClip]):
    def __init__(self, clips: ClipDataset | VideoViews) -> None:
        self.clips = clips

    def __getitem__(self, index: int) -> ShownClip:
        if isinstance(self.clips, ClipDataset):
            return ShownClip(index, self.clips[index][0][None], None)
        try:
            return ShownClip(index, self.clips.views(index), None)
        except ValueError as error:
            return ShownClip(index, None, str(error))


def evaluate(
    model: vmp.VideoModel,
    dataset: ClipDataset | VideoViews,
    batch_size: int = 32,
    workers: int = 0,
    max_bad: float = 0.01,
    folder: RunFolder | None = None,
    show: Callable[[int], None] | None = None,
) -> Evaluation:
    """What `model` says of every clip of `dataset`, on the device of the model, in evaluation mode.

    Args:
        model: a model with as many classes as the dataset.
        dataset: clips, or videos in several views, over which probabilities are averaged, as VideoMamba's test does.
        batch_size: how many views the model is given at a time.
        workers: how many processes make clips.
        max_bad: the share of a list's videos that may be missing or damaged; they are left out, and named.
        folder: keeps the finished part; the evaluation goes on from what it holds.
        show: told how many clips are done.

    Raises:
        ValueError: if the model has another number of classes than the dataset, more videos than allowed cannot be
            read, or none can.
    """
    outputs = model.config.num_classes
    if outputs != len(dataset.classes):
        raise ValueError(
            f"the model tells {outputs} classes apart, and the clips are of {len(dataset.classes)}"
        )
    done = _Done(BadVideos(len(dataset), max_bad), outputs, folder)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    views = dataset.clips * dataset.crops if isinstance(dataset, VideoViews) else 1
    loader: DataLoader[Any] = DataLoader(
        _AllViews(dataset),
        max(1, batch_size // views),
        sampler=range(done.clips, len(dataset)),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=leave_signals_to_the_parent,
    )
    try:
        with torch.inference_mode(), contextlib.closing(batches_of(loader)) as batches:
            for batch in batches:
                given = [shown.views for shown in batch if shown.views is not None]
                parts = torch.cat(given).split(batch_size) if given else ()
                logits = [model(part.to(device)).cpu() for part in parts]
                done.add(batch, torch.cat(logits).double() if logits else None)
                if show is not None:
                    show(done.clips)
    finally:
        done.save()
        model.train(training)
    if not done.kept:
        raise ValueError(f"none of the {len(dataset)} videos can be read; the first: {done.bad.found[0]}")
    return Evaluation(
        names=tuple(dataset.name(index) for index in done.kept),
        labels=np.array([dataset.label(index) for index in done.kept]),
        logits=torch.cat(done.logits).numpy(),
        classes=dataset.classes,
        left_out={dataset.name(index): problem for index, problem in done.bad.found.items()},
    )


@final
class _Done:
    """The first `clips` clips: the logits of those that were `kept`, and what is wrong with the others."""

    def __init__(self, bad: BadVideos, classes: int, folder: RunFolder | None) -> None:
        self.bad, self.folder, self._saved = bad, folder, time.monotonic()
        state = (folder.load() if folder else None) or {"clips": 0, "kept": [], "bad": {}}
        self.clips: int = state["clips"]
        self.kept: list[int] = state["kept"]
        self.logits: list[Tensor] = [state.get("logits", torch.zeros(0, classes, dtype=torch.float64))]
        self.bad.note(state["bad"])

    def add(self, batch: list[ShownClip], logits: Float[Tensor, "views classes"] | None) -> None:
        self.bad.note({shown.clip: shown.problem for shown in batch if shown.problem is not None})
        kept = [shown.clip for shown in batch if shown.views is not None]
        if logits is not None:
            views = logits.reshape(len(kept), -1, logits.shape[1]).log_softmax(2)
            self.logits.append(views.logsumexp(1) - math.log(views.shape[1]))
        self.kept += kept
        self.clips += len(batch)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        self._saved = time.monotonic()
        if self.folder is not None and self.clips:
            self.logits = [torch.cat(self.logits)]
            state = {"clips": self.clips, "kept": self.kept, "bad": self.bad.found}
            self.folder.save({**state, "logits": self.logits[0]})


@app.command()
def main(
    ckpt: Annotated[pathlib.Path, typer.Option(help="Checkpoint of a video model with a head.")],
    task: Annotated[str, typer.Option(help=f"{', '.join(TASKS)}, {', '.join(DATASETS)}.")] = "photo-pan",
    count: Annotated[int, typer.Option(help="Number of clips, of tasks that make them.")] = 960,
    seed: Annotated[int, typer.Option(help="Of the clips, of tasks that make them.")] = 0,
    test_list: Annotated[
        str | None, typer.Option(help="Of videos: the list of the test split; test:FOLDER for hmdb51.")
    ] = None,
    root: Annotated[str, typer.Option(help="Of videos: where the list's paths start.")] = "",
    labels: Annotated[str | None, typer.Option(help="Of videos: the file of the classes' names.")] = None,
    clips: Annotated[int, typer.Option(help="Of videos: views over the time of each.")] = 1,
    crops: Annotated[int, typer.Option(help="Of videos: views along the long side of each frame.")] = 1,
    stride: Annotated[
        int | None, typer.Option(help="Of videos: take every such frame, not one of each of T segments.")
    ] = None,
    max_bad: Annotated[
        float, typer.Option(help="Of videos: the share that may be missing or damaged.")
    ] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Views that the model is given at a time.")] = 32,
    workers: Annotated[int, typer.Option(help="Processes that read clips.")] = 0,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda:0.")] = "cpu",
    out: Annotated[
        pathlib.Path | None, typer.Option(help="Table of predictions to write, .csv or .parquet.")
    ] = None,
    per_class: Annotated[
        pathlib.Path | None, typer.Option(help="Table of accuracies by class to write, .csv or .parquet.")
    ] = None,
) -> None:
    """Print a checkpoint's top-1 and top-5 accuracy on held-out clips, with 95 % intervals."""
    place = parse_device(device)
    loaded = read_checkpoint(ckpt)
    model = loaded.model
    if not isinstance(model, vmp.VideoModel):
        raise ValueError(f"{ckpt}: a {model.config.kind} model; a video model is needed")
    if batch_size < 1 or workers < 0:
        raise ValueError(
            f"batch_size {batch_size}, workers {workers}: at least one clip, and no fewer than 0"
        )
    frames, size = model.config.num_frames, model.config.image_size
    dataset: ClipDataset | VideoViews
    if task in DATASETS:
        if test_list is None:
            raise ValueError(f"task {task} needs --test-list, the list of its videos")
        listed = read_dataset(task, test_list, root, labels)
        dataset = VideoViews(listed.samples, listed.classes, frames, size, clips, crops, stride, root)
    elif (clips, crops, stride, test_list) != (1, 1, None, None):
        raise ValueError(
            f"--test-list, --clips, --crops and --stride are for lists of videos, not for {task}"
        )
    elif task not in TASKS:
        raise ValueError(f"task {task!r}: it must be one of {', '.join((*TASKS, *DATASETS))}")
    else:
        dataset = task_dataset(task, "held-out", frames, size, seed, count)
    request = _request(dataset, task, seed, loaded.weights_sha256)
    try:
        with _kept(out, request) as folder, progress_bar(TimeRemainingColumn()) as bar:
            shown = bar.add_task(f"evaluate {task}", total=len(dataset))

            def show(done: int) -> None:
                bar.update(shown, completed=done)

            evaluation = evaluate(model.to(place), dataset, batch_size, workers, max_bad, folder, show)
            for path, table in ((out, evaluation.table()), (per_class, evaluation.class_table())):
                if path is not None:
                    write_predictions(table, path)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from there" if out else ""
        raise Stopped(signal.SIGINT, f"stopped{goes_on}") from None
    for problem in evaluation.left_out.values():
        typer.echo(f"left out: {problem}", err=True)
    _report(evaluation, dataset)


def _report(evaluation: Evaluation, dataset: ClipDataset | VideoViews) -> None:
    clips, classes = len(evaluation.labels), len(evaluation.classes)
    seen = f"n = {clips} clips"
    if isinstance(dataset, VideoViews):
        seen = (
            f"n = {clips} of {len(dataset)} videos, {len(evaluation.left_out)} left out as missing or damaged; "
            f"{dataset.clips} x {dataset.crops} views of each"
        )
    one = ("top-1", evaluation.accuracy, evaluation.interval, f"{seen}, ", 1)
    five = ("top-5", evaluation.top5, evaluation.top5_interval, "", 5)
    for name, accuracy, (low, high), about, best in (one, five) if classes > 5 else (one,):
        typer.echo(
            f"{name} {100 * accuracy:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}; {about}"
            f"chance {100 * best / classes:.1f} %)"
        )


def _request(dataset: ClipDataset | VideoViews, task: str, seed: int, weights: str) -> dict[str, Any]:
    """Everything that the logits depend on, up to rounding."""
    clips = "".join(f"{dataset.name(index)} {dataset.label(index)}\n" for index in range(len(dataset)))
    request = {"task": task, "weights": weights, "clips": hashlib.sha256(clips.encode()).hexdigest()}
    if isinstance(dataset, VideoViews):
        return {**request, "views": [dataset.clips, dataset.crops], "stride": dataset.stride}
    return {**request, "seed": seed}


@contextlib.contextmanager
def _kept(out: pathlib.Path | None, request: dict[str, Any]) -> Iterator[RunFolder | None]:
    """A folder beside `out` for the finished part, which is deleted once the body has ended well."""
    if out is None:
        yield None
        return
    path = out.with_name(f"{out.name}.unfinished")
    folder = RunFolder(path, request)
    try:
        yield folder
        folder.remove()
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()  # where nothing was kept


if __name__ == "__main__":
    sys.exit(run_app(app))
