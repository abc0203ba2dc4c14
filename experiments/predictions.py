"""What a model said of labelled clips, and the accuracies that follow."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from analysis.files import write_atomically
from experiments.runs import writing


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model said of every clip of a dataset of labelled clips.

    Attributes:
        names: the names of the clips.
        labels: their classes, 0, 1, ...
        logits: the log of the probabilities that the model gives the classes, up to a constant for each clip; for
            several views, of their mean probabilities.
        classes: what the classes are called.
        left_out: the clips that could not be read, by name, and why; they are in none of the above.
    """

    names: tuple[str, ...]
    labels: Int[np.ndarray, " clips"]
    logits: Float[np.ndarray, "clips classes"]
    classes: tuple[str, ...]
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def predictions(self) -> Int[np.ndarray, " clips"]:
        """The class of the largest logit."""
        return self.logits.argmax(1)

    def within(self, best: int) -> Bool[np.ndarray, " clips"]:
        """Whether fewer than `best` classes have a larger logit than the label, or one as large and come before it."""
        of_label = np.take_along_axis(self.logits, self.labels[:, None], 1)
        before = np.arange(len(self.classes)) < self.labels[:, None]
        return ((self.logits > of_label) | (before & (self.logits == of_label))).sum(1) < best

    @property
    def accuracy(self) -> float:
        """Top-1: the fraction of clips whose label has the largest logit."""
        return float((self.predictions == self.labels).mean())

    @property
    def top5(self) -> float:
        """The fraction of clips whose label is among the five largest logits."""
        return float(self.within(5).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy, the clips taken as independent."""
        return wilson(int((self.predictions == self.labels).sum()), len(self.labels))

    @property
    def top5_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `top5`."""
        return wilson(int(self.within(5).sum()), len(self.labels))

    @property
    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """Clips by label (row) and prediction (column)."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts

    def table(self) -> pd.DataFrame:
        """One row for each clip.

        Returns:
            Columns: clip, label, prediction, correct, top5 (whether the label is among the first five), probability
            (that given to the prediction).
        """
        shifted = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return pd.DataFrame(
            {
                "clip": self.names,
                "label": [self.classes[label] for label in self.labels],
                "prediction": [self.classes[prediction] for prediction in self.predictions],
                "correct": self.predictions == self.labels,
                "top5": self.within(5),
                "probability": shifted.max(1) / shifted.sum(1),
            }
        )

    def class_table(self) -> pd.DataFrame:
        """One row for each class: its clips, those told right, the accuracy and Wilson's interval."""
        rows, confusion = [], self.confusion
        for label in np.unique(self.labels):
            clips, correct = int(confusion[label].sum()), int(confusion[label, label])
            low, high = wilson(correct, clips)
            rows.append((self.classes[label], clips, correct, correct / clips, low, high))
        return pd.DataFrame(rows, columns=["class", "clips", "correct", "accuracy", "low", "high"])


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a probability after `hits` in `trials` (Wilson, JASA 22, 1927)."""
    from scipy import stats  # Importing it takes a second, and only this interval needs it.

    low, high = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def write_predictions(table: pd.DataFrame, path: pathlib.Path) -> None:
    """Write a table atomically, as parquet if the name ends in .parquet and as CSV otherwise.

    Raises:
        ValueError: if it cannot be written there.
    """
    write = table.to_parquet if path.suffix == ".parquet" else table.to_csv
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: write(temporary, index=False))
