"""McNemar's test of two sets of predictions on the same clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pandas as pd
from jaxtyping import Bool
from statsmodels.stats import contingency_tables

EXACT_UP_TO = 25
"""Discordant pairs up to which the binomial distribution is used, and above it chi-square with its correction."""


@final
@dataclass(frozen=True)
class McNemar:
    """How two models' hits and misses fall together.

    Attributes:
        both, only_one, only_other, neither: the clips told right by both, by the first alone, by the second alone, and
            by none.
        statistic: the smaller discordant count if exact, else chi-square.
        p_value: the two-sided p-value of either model being as likely to be the one that is right.
        exact: whether it is from the binomial distribution.
    """

    both: int
    only_one: int
    only_other: int
    neither: int
    statistic: float
    p_value: float
    exact: bool

    @property
    def clips(self) -> int:
        return self.both + self.only_one + self.only_other + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the first less that of the second."""
        return (self.only_one - self.only_other) / self.clips


def mcnemar_counts(one: Bool[np.ndarray, " n"], other: Bool[np.ndarray, " n"]) -> McNemar:
    """McNemar's test of hits (True) and misses on the same clips in the same order.

    It asks whether two given sets of predictions err equally often, from the clips on which one alone is right. Clips
    pooled over seeds are not independent given the variants: those of one seed share its two trained models, and seeds
    may share clips. So the test speaks of these trained models and not of what training again would give; the interval
    over seeds speaks of that.

    Source: McNemar, Psychometrika 12, 1947; Edwards, Psychometrika 13, 1948, for the correction.
    """
    pairs = ((one, other), (one, ~other), (~one, other), (~one, ~other))
    both, only_one, only_other, neither = (int((mine & yours).sum()) for mine, yours in pairs)
    exact = only_one + only_other <= EXACT_UP_TO
    table = [[both, only_one], [only_other, neither]]
    found = contingency_tables.mcnemar(table, exact=exact, correction=True)
    return McNemar(both, only_one, only_other, neither, float(found.statistic), float(found.pvalue), exact)


def mcnemar(one: pd.DataFrame | str | Path, other: pd.DataFrame | str | Path) -> McNemar:
    """McNemar's test of two tables of predictions, or of two files that `experiments.evaluate` wrote (CSV or parquet).

    Args:
        one, other: tables with columns clip, label and correct; their rows may be in any order.

    Raises:
        ValueError: if a file cannot be read, a column is absent, a clip is there twice, or clips or labels differ.
    """
    names = [
        str(t) if isinstance(t, str | Path) else f"the {k} table"
        for k, t in (("first", one), ("second", other))
    ]
    first, second = (_read(table, name) for table, name in zip((one, other), names, strict=True))
    for mine, yours, (name, partner) in ((first, second, names), (second, first, names[::-1])):
        absent = mine.index.difference(yours.index)
        if len(absent):
            raise ValueError(
                f"clips differ: {len(absent)} of {name} are not in {partner}, as {absent[0]!r}; McNemar's test needs "
                "predictions of the same clips"
            )
    second = second.loc[first.index]
    if len(first) == 0:
        raise ValueError(f"{names[0]}: there are no clips")
    differing = first.index[first["label"] != second["label"]]
    if len(differing):
        clip = differing[0]
        raise ValueError(
            f"labels differ on {len(differing)} clips: {clip!r} is {first['label'][clip]!r} in {names[0]} and "
            f"{second['label'][clip]!r} in {names[1]}"
        )
    return mcnemar_counts(first["correct"].to_numpy(dtype=bool), second["correct"].to_numpy(dtype=bool))


def _read(source: pd.DataFrame | str | Path, name: str) -> pd.DataFrame:
    """The columns label and correct by clip, clips in order."""
    table = source if isinstance(source, pd.DataFrame) else _load(Path(source))
    for column in ("clip", "label", "correct"):
        if column not in table.columns:
            raise ValueError(
                f"{name}: there is no column {column!r}; predictions have clip, label and correct"
            )
    if not table["correct"].isin([True, False]).all():
        raise ValueError(f"{name}: column 'correct' holds what is neither True nor False")
    twice = table["clip"][table["clip"].duplicated()]
    if len(twice):
        raise ValueError(f"{name}: clip {twice.iloc[0]!r} is there twice")
    found = table[["clip", "label", "correct"]].astype({"clip": str, "label": str, "correct": bool})
    return found.set_index("clip").sort_index()


def _load(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype={"clip": str, "label": str}, keep_default_na=False)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # Of pandas and pyarrow: not such a file.
        raise ValueError(f"{path}: not a table of predictions: {str(error).splitlines()[0]}") from error
