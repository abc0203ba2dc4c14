"""The numbers that statements are judged by: one number of each cell, computed from the grid's tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.tables import number
from experiments.report.words import signed_points
from experiments.statistics.accuracy import cell_accuracy_by
from experiments.statistics.association import cell_probes

SIMILAR = ("similar to one", "similar to both")
"""The kinds of mediators that resemble a digit of the pair."""

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Effect:
    """A number of each cell.

    Attributes:
        label: what it is, in words.
        unit: the unit in which `shown` writes it.
        by_cell: computes its values by cell, after training (True) or before it; a cell without a value is absent or
            NaN.
        shown: writes a value.
        probed: whether the number also exists before training.
    """

    label: str
    unit: str
    by_cell: Callable[[Tables, bool], pd.Series]
    shown: Callable[[float], str] = signed_points
    probed: bool = False


def slopes(predictions: pd.DataFrame) -> pd.Series:
    """The accuracy that each further frame between cue and read-out adds, by cell.

    It is the slope of the least-squares line of right (1) and wrong (0) on the distance in frames, and NaN where all
    clips are at one distance.
    """
    known = predictions.dropna(subset="read_distance")
    table = known[["read_distance", "correct"]].astype(float).set_axis(["x", "y"], axis=1)
    centred = table - table.groupby(known["cell"]).transform("mean")
    products = pd.DataFrame({"xy": centred["x"] * centred["y"], "xx": centred["x"] ** 2})
    sums = products.groupby(known["cell"]).sum()
    return (sums["xy"] / sums["xx"].where(sums["xx"] > 0)).rename("slope")


def mediator_costs(predictions: pd.DataFrame) -> pd.Series:
    """Accuracy with similar mediators (each kind of SIMILAR counts once) less that with neutral ones, by cell."""
    wide = cell_accuracy_by(predictions, ["mediator"]).pivot(
        index="cell", columns="mediator", values="accuracy"
    )
    wide = wide.reindex(columns=["neutral", *SIMILAR])
    return wide[list(SIMILAR)].mean(axis=1) - wide["neutral"]


def _probe(label: str, unit: str, quantity: str, scope: str) -> Effect:
    """The mean of a probe's quantity over layers and directions, as `statistics.association.cell_probes` takes it."""

    def by_cell(tables: Tables, trained: bool) -> pd.Series:
        numbers = cell_probes(tables["probes"], trained)
        asked = {"quantity": quantity, "scope": scope, "direction": "mean"}
        chosen = numbers[(numbers[list(asked)] == pd.Series(asked)).all(axis=1)]
        return chosen.set_index("cell")["value"].replace([np.inf, -np.inf], np.nan)

    return Effect(label, unit, by_cell, number, probed=True)


EFFECTS: Mapping[str, Effect] = {
    "accuracy": Effect(
        "accuracy", "points", lambda tables, trained: tables["cells"].set_index("cell")["accuracy"]
    ),
    "distance": Effect(
        "what a further frame between cue and read-out adds to the accuracy of recall",
        "points a frame",
        lambda tables, trained: slopes(tables["predictions"]),
    ),
    "mediators": Effect(
        "accuracy of relation with similar mediators less that with neutral ones",
        "points",
        lambda tables, trained: mediator_costs(tables["predictions"]),
    ),
    "decay": _probe(
        "decay index (tokens, scope contribution, mean over layers and directions)",
        "",
        "decay_index_tokens",
        "contribution",
    ),
    "mass": _probe(
        "contradictory mass (scope contribution, mean over layers and directions)",
        "",
        "contradictory_mass",
        "contribution",
    ),
    "mediation": _probe(
        "mediator sensitivity (scope ssm, mean over layers and directions)",
        "nats",
        "mediator_sensitivity",
        "ssm",
    ),
}
