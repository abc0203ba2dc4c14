"""Accuracy of each variant, over all test clips and by what a clip shows, with the seed as the unit."""

import numbers
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from experiments.statistics.bases import base_fields, groups, ordered
from experiments.statistics.intervals import holm, seed_interval

CONDITIONS: Mapping[str, tuple[str, ...]] = {
    "read_distance": ("read_direction", "read_distance"),
    "mediator": ("mediator",),
    "gap": ("gap",),
    "source": ("source",),
}
"""Each breakdown of the accuracy, and the columns of the predictions that it goes by."""

_NUMBERS = ("mean", "low", "high", "sd", "n", "chance", "note")


def accuracy(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over seeds of every variant in every base.

    Returns:
        Columns: those of `base_fields`; variant; mean; low, high (Student's 95 % interval over seeds, cut to [0, 1];
        NaN where there is none); sd over seeds; n seeds; chance; note (why a number is not there).
    """
    keys = [*base_fields(cells), "variant"]
    rows = [{**key, **_over_seeds(group)} for key, group in groups(cells, keys)]
    return ordered(pd.DataFrame(rows, columns=[*keys, *_NUMBERS]), keys)


def accuracy_by_condition(cells: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over seeds by what a clip shows; a seed counts once, whatever its number of clips.

    Recall is broken down by the distance to the read-out and the direction of reading, relation by the kind of
    mediator and by the gap, and direction by the source.

    Returns:
        Columns: those of `accuracy`, and condition (a key of CONDITIONS); read_direction (empty but for distances);
        level (as text); at (the level as a number, NaN where it is none); clips, over all seeds. Tasks without a
        condition have no rows.
    """
    base = base_fields(cells)
    rows = [row for name in CONDITIONS for row in _by_condition(name, cells, predictions, base)]
    keys = [*base, "variant", "condition", "read_direction", "at", "level"]
    table = pd.DataFrame(rows, columns=[*keys, *_NUMBERS, "clips"])
    table["read_direction"] = table["read_direction"].fillna("")
    return ordered(table, keys)


def left_chance(cells: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """Whether the trained models of each variant and base, with their test clips pooled, do better than guessing.

    The guess is blind to what the task asks (`ClipDataset.blind`): in recall, it does not heed the mark.

    Returns:
        Columns: those of `base_fields`; variant; p_value (one-sided, binomial); p_holm, over the table; left.
    """
    keys = [*base_fields(cells), "variant"]
    rows = []
    for key, group in groups(cells, keys):
        hits = int((group["accuracy"] * group["n_test"]).round().sum())
        test = stats.binomtest(hits, int(group["n_test"].sum()), group["blind"].iloc[0], "greater")
        rows.append({**key, "p_value": float(test.pvalue)})
    table = pd.DataFrame(rows, columns=[*keys, "p_value"])
    table["p_holm"] = holm(table["p_value"])
    table["left"] = table["p_holm"] < level
    return ordered(table, keys)


def cell_accuracy_by(predictions: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Each cell's accuracy at each level of these columns; clips that have no level are left out.

    Returns:
        Columns: cell, the columns, accuracy, clips.
    """
    known = predictions.dropna(subset=columns)
    hits = known.groupby(["cell", *columns], observed=True)["correct"]
    return hits.agg(accuracy="mean", clips="size").reset_index()


def _by_condition(
    name: str, cells: pd.DataFrame, predictions: pd.DataFrame, base: list[str]
) -> list[dict[str, object]]:
    columns = list(CONDITIONS[name])
    levels = cell_accuracy_by(predictions, columns).merge(
        cells[["cell", *base, "variant", "chance"]], on="cell", validate="many_to_one"
    )
    rows = []
    for key, group in groups(levels, [*base, "variant", *columns]):
        level = key.pop(columns[-1])
        about = {
            "condition": name,
            "level": str(level),
            "at": float(level) if isinstance(level, numbers.Real) else float("nan"),
            "clips": int(group["clips"].sum()),
        }
        rows.append({"read_direction": "", **key, **about, **_over_seeds(group)})
    return rows


def _over_seeds(cells: pd.DataFrame) -> dict[str, object]:
    found = seed_interval(cells["accuracy"].to_numpy(dtype=float))
    low, high = np.clip([found.low, found.high], 0.0, 1.0).tolist()
    values = (found.value, low, high, found.sd, found.n, cells["chance"].iloc[0], found.note)
    return dict(zip(_NUMBERS, values, strict=True))
