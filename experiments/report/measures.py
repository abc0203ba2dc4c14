"""What a claim is judged by: one number of each cell, from the grid's tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.tables import number
from experiments.report.numbers import points
from experiments.statistics import cell_accuracy_by, cell_probes

SIMILAR = ("similar to one", "similar to both")
"""Kinds of mediators that are like what is to be compared."""

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Measure:
    """A number of each cell.

    Attributes:
        label: what it is, in words.
        by_cell: its values by cell, after training or before; a cell that has none is absent or NaN.
        shown: how a value is written, and unit what it is in.
        probed: whether it is there before training too.
    """

    label: str
    unit: str
    by_cell: Callable[[Tables, bool], pd.Series]
    shown: Callable[[float], str]
    probed: bool = False


def _accuracy(tables: Tables, trained: bool) -> pd.Series:
    return tables["cells"].set_index("cell")["accuracy"]


def slopes(predictions: pd.DataFrame) -> pd.Series:
    """By cell, the slope of the least-squares line of right (1) or wrong (0) on the frames between cue and read-out:
    accuracy gained by a frame. NaN where all clips are at one distance."""
    known = predictions.dropna(subset="read_distance")
    table = pd.DataFrame(
        {
            "cell": known["cell"],
            "x": known["read_distance"].astype(float),
            "y": known["correct"].astype(float),
        }
    )
    centred = table[["x", "y"]] - table.groupby("cell")[["x", "y"]].transform("mean")
    sums = (
        pd.DataFrame({"xy": centred["x"] * centred["y"], "xx": centred["x"] ** 2})
        .groupby(table["cell"])
        .sum()
    )
    return (sums["xy"] / sums["xx"].where(sums["xx"] > 0)).rename("slope")


def mediator_costs(predictions: pd.DataFrame) -> pd.Series:
    """By cell, accuracy with similar mediators (SIMILAR, each kind counting once) less that with neutral ones."""
    by_kind = cell_accuracy_by(predictions, ["mediator"])
    wide = by_kind.pivot(index="cell", columns="mediator", values="accuracy").reindex(
        columns=["neutral", *SIMILAR]
    )
    return wide[list(SIMILAR)].mean(axis=1) - wide["neutral"]


def _probe(quantity: str, scope: str) -> Callable[[Tables, bool], pd.Series]:
    """The mean over layers and directions; of self-attention, over the sides that a scan could carry where the quantity
    has sides, and of whole rows where it has not."""

    def by_cell(tables: Tables, trained: bool) -> pd.Series:
        numbers = cell_probes(tables["probes"], trained)
        chosen = numbers[
            (numbers["quantity"] == quantity) & (numbers["scope"] == scope) & (numbers["direction"] == "mean")
        ]
        return chosen.set_index("cell")["value"].replace([np.inf, -np.inf], np.nan)

    return by_cell


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("accuracy", "points", _accuracy, points),
    "distance": Measure(
        "what a further frame between cue and read-out adds to the accuracy of recall",
        "points a frame",
        lambda tables, trained: slopes(tables["predictions"]),
        points,
    ),
    "mediators": Measure(
        "accuracy of relation with similar mediators less that with neutral ones",
        "points",
        lambda tables, trained: mediator_costs(tables["predictions"]),
        points,
    ),
    "decay": Measure(
        "decay index (tokens, scope contribution, mean over layers and directions)",
        "",
        _probe("decay_index_tokens", "contribution"),
        number,
        probed=True,
    ),
    "mass": Measure(
        "contradictory mass (scope contribution, mean over layers and directions)",
        "",
        _probe("contradictory_mass", "contribution"),
        number,
        probed=True,
    ),
    "mediation": Measure(
        "mediator sensitivity (scope ssm, mean over layers and directions)",
        "nats",
        _probe("mediator_sensitivity", "ssm"),
        number,
        probed=True,
    ),
}
