"""Bootstrap over clips, all resamples at once.

A resample of n clips is a row of n weights that sum to 1: how often each clip was drawn, over n. A statistic
of resampled mean profiles is then one matrix product followed by the statistic on every row, and two results
that saw the same clips are compared on the same rows.
"""

import numpy as np
from jaxtyping import Float

LEVEL = 0.95


def resample_weights(clips: int, resamples: int, seed: int) -> Float[np.ndarray, "R n"]:
    """Weights of the clips in each resample: multinomial counts over the number of clips."""
    draws = np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=resamples)
    return draws / clips


def percentile_interval(
    draws: Float[np.ndarray, "R *S"], level: float = LEVEL
) -> tuple[Float[np.ndarray, "*S"], Float[np.ndarray, "*S"], Float[np.ndarray, "*S"]]:
    """Percentile interval of bootstrap draws (Efron 1979), by order statistics: infinite draws are legal.

    Returns:
        Low end, high end, and the share of draws that were undefined (NaN) and left out. All-NaN draws give
        NaN ends.
    """
    undefined = np.isnan(draws)
    ordered = np.sort(draws, axis=0)  # NaN goes last.
    count = len(draws) - undefined.sum(axis=0)
    tail = (1 - level) / 2
    low = np.asarray(np.floor(tail * np.maximum(count - 1, 0))).astype(int)
    high = np.ceil((1 - tail) * np.maximum(count - 1, 0)).astype(int)
    ends = [np.take_along_axis(ordered, rank[None], axis=0)[0] for rank in (low, high)]
    return np.asarray(ends[0]), np.asarray(ends[1]), np.asarray(undefined.mean(axis=0))
