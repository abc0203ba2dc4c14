"""Intervals in which the seed is the unit."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from scipy import stats

from analysis.bootstrap import LEVEL


@final
@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        value: the mean; NaN of no values.
        low, high: ends of its 95 % interval, or NaN where there is none: the note says why.
        sd: standard deviation within strata, their variances averaged; NaN where there is one value each.
        n: values.
        df: degrees of freedom of the interval.
        p_value: two-sided, of the mean being 0; NaN where there is no interval.
    """

    value: float
    low: float
    high: float
    sd: float
    n: int
    df: float
    p_value: float
    note: str = ""


def seed_interval(
    values: Float[np.ndarray, " n"] | Sequence[float], strata: Sequence[Hashable] | None = None
) -> Estimate:
    """The mean over strata of each stratum's mean over seeds, with Student's interval.

    A stratum is a base of the comparison (task, frames, ...), taken as given; within it the seeds are the sample. With
    v_g = s_g^2 / n_g the standard error is sqrt(sum_g v_g) / G and the degrees of freedom are (sum_g v_g)^2 /
    sum_g v_g^2 / (n_g - 1), so that strata may differ in variance; with one stratum it is Student's interval of a mean.

    With 3 seeds and one stratum the interval is mean +- 2.48 sd: t with 2 degrees of freedom is 4.30, as a standard
    deviation of 3 values may well be half of what it should be. A narrower one would not hold the truth 95 times of
    100. Of n seeds all equal no interval is given: their spread says nothing of what another seed would give.

    Args:
        values: one for each seed (and stratum). NaN is left out.
        strata: of each value; None for one stratum.

    Source: Student, Biometrika 6, 1908; Welch, Biometrika 34, 1947; Satterthwaite, Biometrics Bulletin 2, 1946.
    """
    numbers = np.asarray(values, dtype=float)
    keys = [0] * len(numbers) if strata is None else list(strata)
    groups: dict[Hashable, list[float]] = {}
    for key, number in zip(keys, numbers, strict=True):
        if not np.isnan(number):
            groups.setdefault(key, []).append(float(number))
    nothing = float("nan")
    count = sum(map(len, groups.values()))
    if not groups:
        return Estimate(nothing, nothing, nothing, nothing, 0, 0, nothing, "no values")
    # Summed in an order of its own: no bit depends on the order of a table's rows.
    samples = sorted((np.sort(group) for group in groups.values()), key=lambda sample: tuple(sample))
    mean = float(np.mean([sample.mean() for sample in samples]))
    if any(len(sample) < 2 for sample in samples):
        note = "one seed: no interval" if count == len(samples) else "a base with one seed: no interval"
        return Estimate(mean, nothing, nothing, nothing, count, 0, nothing, note)
    # Equal values may differ from their mean by rounding.
    variances = np.array([sample.var(ddof=1) if np.ptp(sample) > 0 else 0.0 for sample in samples])
    sd = float(np.sqrt(variances.mean()))
    squared = variances / [len(sample) for sample in samples]
    if not squared.any():
        return Estimate(mean, nothing, nothing, sd, count, 0, nothing, "all seeds equal: no interval")
    df = float(squared.sum() ** 2 / (squared**2 / [len(sample) - 1 for sample in samples]).sum())
    error = float(np.sqrt(squared.sum()) / len(samples))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, df))
    return Estimate(mean, mean - reach, mean + reach, sd, count, df, p_value)
