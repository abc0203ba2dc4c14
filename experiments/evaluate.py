"""Top-1 accuracy of a checkpoint on held-out clips: `python -m experiments.evaluate --ckpt FILE --task photo-pan`."""

import dataclasses
import pathlib
from typing import Annotated, final

import numpy as np
import pandas as pd
import torch
import typer
from jaxtyping import Float, Int
from rich.console import Console
from scipy import stats
from torch.utils.data import DataLoader

import vmp
from experiments.data.clip import ClipDataset
from experiments.data.tasks import task_dataset
from experiments.runs import write_atomically


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model said of every clip of a dataset of labelled clips.

    names       of the clips
    labels      their classes, 0, 1, ...
    logits      the model's output for each clip
    classes     what the classes are called
    """

    names: tuple[str, ...]
    labels: Int[np.ndarray, " clips"]
    logits: Float[np.ndarray, "clips classes"]
    classes: tuple[str, ...]

    @property
    def predictions(self) -> Int[np.ndarray, " clips"]:
        """The class of the largest logit."""
        return self.logits.argmax(1)

    @property
    def accuracy(self) -> float:
        """Top-1: the fraction of clips whose label has the largest logit."""
        return float((self.predictions == self.labels).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy (Wilson, JASA 22, 1927), the clips taken as independent."""
        hits, clips = int((self.predictions == self.labels).sum()), len(self.labels)
        low, high = stats.binomtest(hits, clips).proportion_ci(0.95, method="wilson")
        return float(low), float(high)

    @property
    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """Clips by label (row) and prediction (column)."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts

    def table(self) -> pd.DataFrame:
        """A row for each clip: name, label, prediction, and the probability given to the prediction."""
        shifted = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return pd.DataFrame(
            {
                "clip": self.names,
                "label": [self.classes[label] for label in self.labels],
                "prediction": [self.classes[prediction] for prediction in self.predictions],
                "correct": self.predictions == self.labels,
                "probability": shifted.max(1) / shifted.sum(1),
            }
        )


def evaluate(
    model: vmp.VideoModel, dataset: ClipDataset, batch_size: int = 32, workers: int = 0
) -> Evaluation:
    """What `model` says of every clip of `dataset`, on the device the model is on, in evaluation mode.

    Raises ValueError if the model has another number of classes than the dataset.
    """
    outputs = model.config.num_classes
    if outputs != len(dataset.classes):
        raise ValueError(
            f"the model tells {outputs} classes apart, and the clips are of {len(dataset.classes)}"
        )
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with torch.inference_mode():
        batches = DataLoader(dataset, batch_size, num_workers=workers)
        logits = torch.cat([model(videos.to(device)).cpu() for videos, _ in batches])
    model.train(training)
    clips = range(len(dataset))
    return Evaluation(
        names=tuple(dataset.name(index) for index in clips),
        labels=np.array([dataset.label(index) for index in clips]),
        logits=logits.double().numpy(),
        classes=dataset.classes,
    )


def write_table(table: pd.DataFrame, path: pathlib.Path) -> None:
    """Write a table as CSV, atomically. Raises ValueError for a place that cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: table.to_csv(temporary, index=False))
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}") from error


def main(
    ckpt: Annotated[pathlib.Path, typer.Option(help="Checkpoint of a video model with a head.")],
    task: Annotated[
        str,
        typer.Option(help="recall, relation, direction, photo-pan, digits-direction, digits-digit or video."),
    ] = "photo-pan",
    clips: Annotated[int, typer.Option(help="Number of clips, of tasks that make them.")] = 960,
    seed: Annotated[int, typer.Option(help="Of the clips, of tasks that make them.")] = 0,
    test_list: Annotated[
        pathlib.Path | None, typer.Option(help="Task video: list of `path label` lines.")
    ] = None,
    root: Annotated[
        pathlib.Path, typer.Option(help="Task video: where the list's paths start.")
    ] = pathlib.Path(),
    out: Annotated[pathlib.Path | None, typer.Option(help="Table of predictions to write, CSV.")] = None,
) -> None:
    """Print a checkpoint's top-1 accuracy on held-out clips, with its 95 % interval."""
    console = Console(stderr=True, soft_wrap=True)
    try:
        model = vmp.load_checkpoint(ckpt)
        if not isinstance(model, vmp.VideoModel):
            raise ValueError(f"{ckpt}: a {model.config.kind} model; a video model is needed")
        shape = model.config
        dataset = task_dataset(
            task, "held-out", shape.num_frames, shape.image_size, seed, clips, test_list, root
        )
        evaluation = evaluate(model, dataset)
        if out is not None:
            write_table(evaluation.table(), out)
    except ValueError as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        raise typer.Exit(2) from None
    low, high = evaluation.interval
    typer.echo(
        f"top-1 {100 * evaluation.accuracy:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}; "
        f"n = {len(evaluation.labels)} clips, chance {100 / len(evaluation.classes):.1f} %)"
    )


if __name__ == "__main__":
    typer.run(main)
