"""Accuracy of each variant, over all test clips and by what a clip shows, with the seed as the unit."""

import numbers
from collections.abc import Mapping

import pandas as pd
from scipy import stats

from experiments.statistics.intervals import Estimate, seed_interval
from experiments.statistics.multiple import holm
from experiments.statistics.tables import base_fields, ordered

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

    Columns: those of `base_fields`; variant; mean; low, high (Student's 95 % interval over seeds, cut to [0, 1]; NaN
    where there is none); sd over seeds; n seeds; chance; note (why a number is not there).
    """
    keys = [*base_fields(cells), "variant"]
    rows = [
        {**dict(zip(keys, key, strict=True)), **_numbers(group["accuracy"], group["chance"].iloc[0])}
        for key, group in cells.groupby(keys, dropna=False)
    ]
    return ordered(pd.DataFrame(rows, columns=[*keys, *_NUMBERS]), keys)


def accuracy_by_condition(cells: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over seeds by what a clip shows: recall by distance to the read-out and direction of reading,
    relation by kind of mediator and by gap, direction by source. A seed counts once, whatever its number of clips.

    Columns: those of `accuracy`, and condition (a key of CONDITIONS); read_direction ("" but for distances); level
    (as text); at (the level as a number, NaN where it is none); clips, over all seeds. Tasks without a condition have
    no rows.
    """
    base = base_fields(cells)
    found = [_by(name, cells, predictions, base) for name in CONDITIONS]
    keys = [*base, "variant", "condition", "read_direction", "at", "level"]
    columns = [*keys, *_NUMBERS, "clips"]
    parts = [part for part in found if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    table["read_direction"] = table["read_direction"].fillna("")
    return ordered(table[columns], keys)


def left_chance(cells: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """Whether the trained models of each variant and base, their test clips taken together, tell more than a guess
    that is blind to what the task asks (`ClipDataset.blind`): in recall, one that does not heed the mark.

    Columns: those of `base_fields`; variant; p_value (one-sided, binomial); p_holm, over the table; left.
    """
    keys = [*base_fields(cells), "variant"]
    rows = []
    for key, group in cells.groupby(keys, dropna=False):
        hits = int((group["accuracy"] * group["n_test"]).round().sum())
        test = stats.binomtest(hits, int(group["n_test"].sum()), group["blind"].iloc[0], "greater")
        rows.append({**dict(zip(keys, key, strict=True)), "p_value": float(test.pvalue)})
    table = pd.DataFrame(rows, columns=[*keys, "p_value"])
    table["p_holm"] = holm(table["p_value"])
    table["left"] = table["p_holm"] < level
    return ordered(table, keys)


def cell_accuracy_by(predictions: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Each cell's accuracy at each level of these columns: cell, the columns, accuracy, clips. Clips that have no
    level are left out."""
    known = predictions.dropna(subset=columns)
    groups = known.groupby(["cell", *columns], observed=True)["correct"]
    return groups.agg(accuracy="mean", clips="size").reset_index()


def _by(name: str, cells: pd.DataFrame, predictions: pd.DataFrame, base: list[str]) -> pd.DataFrame:
    columns = list(CONDITIONS[name])
    levels = cell_accuracy_by(predictions, columns).merge(
        cells[["cell", *base, "variant", "chance"]], on="cell", validate="many_to_one"
    )
    keys = [*base, "variant", *columns]
    rows = []
    for key, group in levels.groupby(keys, dropna=False):
        fields = dict(zip(keys, key, strict=True))
        level = fields.pop(columns[-1])
        rows.append(
            {
                "read_direction": "",
                **fields,
                "condition": name,
                "level": str(level),
                "at": float(level) if isinstance(level, numbers.Real) else float("nan"),
                **_numbers(group["accuracy"], group["chance"].iloc[0]),
                "clips": int(group["clips"].sum()),
            }
        )
    return pd.DataFrame(rows)


def _numbers(values: pd.Series, chance: float) -> dict[str, object]:
    found: Estimate = seed_interval(values.to_numpy(dtype=float))
    ends = {name: min(max(getattr(found, name), 0.0), 1.0) for name in ("low", "high")}
    known = found.low == found.low
    return {
        "mean": found.value,
        **(ends if known else {"low": found.low, "high": found.high}),
        "sd": found.sd,
        "n": found.n,
        "chance": chance,
        "note": found.note,
    }
