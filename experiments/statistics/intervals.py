"""Intervals in which the seed is the unit, and the correction for the number of tests."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from analysis.intervals import LEVEL


@final
@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        value: the mean; NaN if there are no values.
        low, high: the ends of its 95 % interval; NaN if there is none.
        sd: the standard deviation within strata, whose variances are averaged; NaN if a stratum has one value.
        n: the number of values.
        df: the degrees of freedom of the interval.
        p_value: the two-sided p-value of the mean being 0; NaN if there is no interval.
        note: why there is no interval.
    """

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    sd: float = np.nan
    n: int = 0
    df: float = 0
    p_value: float = np.nan
    note: str = ""


def seed_interval(
    values: Float[np.ndarray, " n"] | Sequence[float], strata: Sequence[Hashable] | None = None
) -> Estimate:
    """The mean over strata of each stratum's mean over seeds, with Student's interval.

    A stratum is a base of the comparison (task, frames, ...), taken as given; within it the seeds are the sample. With
    v_g = s_g^2 / n_g the standard error is sqrt(sum_g v_g) / G and the degrees of freedom are (sum_g v_g)^2 /
    sum_g v_g^2 / (n_g - 1), so that strata may differ in variance; with one stratum it is Student's interval of a mean.

    With 3 seeds and one stratum the interval is mean +- 2.48 sd: t with 2 degrees of freedom is 4.30, as a standard
    deviation of 3 values may well be half of what it should be. A narrower interval would not include the truth 95
    times of 100. If all seeds are equal, no interval is given: their spread says nothing of what another seed would
    give.

    Args:
        values: one for each seed (and stratum). NaN is left out.
        strata: the stratum of each value; None for one stratum.

    Source: Student, Biometrika 6, 1908; Welch, Biometrika 34, 1947; Satterthwaite, Biometrics Bulletin 2, 1946.
    """
    numbers = np.asarray(values, dtype=float)
    keys = [0] * len(numbers) if strata is None else list(strata)
    groups: dict[Hashable, list[float]] = {}
    for key, number in zip(keys, numbers, strict=True):
        if not np.isnan(number):
            groups.setdefault(key, []).append(float(number))
    count = sum(map(len, groups.values()))
    if not groups:
        return Estimate(note="no values")
    # Summed in an order of its own: no bit depends on the order of a table's rows.
    samples = sorted((np.sort(group) for group in groups.values()), key=lambda sample: tuple(sample))
    mean = float(np.mean([sample.mean() for sample in samples]))
    if any(len(sample) < 2 for sample in samples):
        note = "one seed: no interval" if count == len(samples) else "a base with one seed: no interval"
        return Estimate(mean, n=count, note=note)
    # Equal values may differ from their mean by rounding.
    variances = np.array([sample.var(ddof=1) if np.ptp(sample) > 0 else 0.0 for sample in samples])
    sd = float(np.sqrt(variances.mean()))
    squared = variances / [len(sample) for sample in samples]
    if not squared.any():
        return Estimate(mean, sd=sd, n=count, note="all seeds equal: no interval")
    df = float(squared.sum() ** 2 / (squared**2 / [len(sample) - 1 for sample in samples]).sum())
    error = float(np.sqrt(squared.sum()) / len(samples))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, df))
    return Estimate(mean, mean - reach, mean + reach, sd, count, df, p_value)


def holm(p_values: pd.Series) -> pd.Series:
    """Holm's adjusted p-values; NaN stays NaN and is no part of the family."""
    adjusted = p_values.to_numpy(float, copy=True)
    order = np.argsort(adjusted)[: p_values.count()]  # NaN comes last.
    raised = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return pd.Series(adjusted, p_values.index, name=p_values.name)
