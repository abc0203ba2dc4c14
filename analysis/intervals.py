"""Bootstrap over clips, all resamples at once.

A resample of n clips is a row of n weights that sum to 1: how often each clip was drawn, divided by n. A statistic of
resampled mean profiles is then one matrix product followed by the statistic of every row. Two models that saw the same
clips are compared on the same rows.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LEVEL = 0.95

MOST_UNDEFINED = 0.05
"""An interval of a number is given where at most this share of the resamples leaves the number undefined."""


def resample_weights(clips: int, resamples: int, seed: int) -> Float[np.ndarray, "R n"]:
    """Weights of the clips in each resample: multinomial counts divided by the number of clips."""
    draws = np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=resamples)
    return draws / clips


def percentile_interval(
    draws: Float[np.ndarray, "R *S"], level: float = LEVEL
) -> tuple[Float[np.ndarray, "*S"], Float[np.ndarray, "*S"], Float[np.ndarray, "*S"]]:
    """Percentile interval of bootstrap draws (Efron 1979) by order statistics; infinite draws are legal.

    Returns:
        The low end, the high end, and the share of draws that were undefined (NaN) and left out. Where all draws are
        NaN the ends are NaN.
    """
    undefined = np.isnan(draws)
    ordered = np.sort(draws, axis=0)  # NaN goes last.
    count = len(draws) - undefined.sum(axis=0)
    tail = (1 - level) / 2
    low = np.asarray(np.floor(tail * np.maximum(count - 1, 0))).astype(int)
    high = np.ceil((1 - tail) * np.maximum(count - 1, 0)).astype(int)
    ends = [np.take_along_axis(ordered, rank[None], axis=0)[0] for rank in (low, high)]
    return np.asarray(ends[0]), np.asarray(ends[1]), np.asarray(undefined.mean(axis=0))


def mean_over_clips(
    clips: Float[np.ndarray, "n *S"], weights: Float[np.ndarray, "R n"] | None
) -> Float[np.ndarray, "R *S"]:
    """The mean over clips for each row of weights, or one plain mean where there are none."""
    if weights is None:
        return clips.mean(axis=0)[None]
    return (weights @ clips.reshape(len(clips), -1)).reshape(len(weights), *clips.shape[1:])


@dataclass(frozen=True, eq=False)
class Number:
    """One number with its interval: `value` is NaN for a gap and infinite beyond the sequence, and `note` says why.

    `low` and `high` are NaN where there is no interval.
    """

    value: float
    low: float
    high: float
    unit: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Curve:
    """One array with the ends of its pointwise intervals over clips, or None where there are none."""

    value: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    unit: str
