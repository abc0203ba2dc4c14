"""Numbers that say how fast implicit attention falls with distance (docs/math.md, section 3).

Plain numpy on profiles and per-clip means, so that every number can be recomputed from a saved result.
Functions take any number of leading axes: a bootstrap passes all its resampled profiles at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

MIN_PAIRS = 8
"""A lag enters the fits only where at least this many pairs were averaged."""

FLOOR = 1e-6
"""A lag enters the fits only where m(k) > FLOOR * m(1): below it, rounding shapes the curve."""

QUANTILES = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95)
"""Quantiles kept of the distribution of predicted half-lives."""


def half_life(
    profile: Float[np.ndarray, "*R K"], pairs: Int[np.ndarray, "K"] | Float[np.ndarray, "K"]
) -> Float[np.ndarray, "*R"]:
    """First lag k >= 1 at which m(k) <= m(1) / 2, interpolated in log m.

    The reference is m(1), so an exactly exponential profile of rate r has the half-life 1 + ln 2 / r: one lag
    to get to the reference and ln 2 / r from there.

    Args:
        profile: m(k) at index k, k = 0 .. K - 1, in units of the weights. Never negative.
        pairs: how many pairs of tokens each lag averages; lags with none are skipped.

    Returns:
        The lag, in the unit of the lags. Infinity means beyond the profile: m never falls to half of m(1).
        NaN means undefined: lag 1 has no pairs or no weight, or the profile is not finite.

    Source: ours.
    """
    lags = np.flatnonzero(np.asarray(pairs) > 0)
    lags = lags[lags >= 1]
    undefined = np.full(profile.shape[:-1], np.nan)
    if lags.size == 0 or lags[0] != 1:
        return undefined
    m = profile[..., lags]
    half = m[..., :1] / 2
    reached = m <= half
    first = reached.argmax(axis=-1)[..., None]
    before = np.maximum(first - 1, 0)
    above = np.take_along_axis(m, before, axis=-1)
    below = np.take_along_axis(m, first, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where m drops to 0 its log has no value, and the lag itself is the answer.
        share = np.where(below > 0, np.log(above / half) / np.log(above / below), 1.0)
        crossing = (lags[before] + share * (lags[first] - lags[before]))[..., 0]
    found = np.where(reached.any(axis=-1), crossing, np.inf)
    return np.where(np.isfinite(m).all(axis=-1) & (m[..., 0] > 0), found, undefined)


@dataclass(frozen=True)
class Fit:
    """Least squares lines through log m, with the leading axes of the profile; NaN where undefined.

    Attributes:
        rate: minus the slope of log m(k) on k, per lag (1/token or 1/frame). Positive where m falls.
        log_scale: the line's value at k = 0, so that m(k) is about exp(log_scale - rate k).
        r2: share of the variance of log m that the line explains. NaN where log m does not vary.
        aic_difference: AIC of the exponential less AIC of a power law, log m = a - b log k, on the same
            points with Gaussian residuals in log m. Both have two coefficients, so this is n ln(RSS_exp /
            RSS_power). Above 0 the power law fits better.
        points: how many lags entered.
    """

    rate: Float[np.ndarray, "*R"]
    log_scale: Float[np.ndarray, "*R"]
    r2: Float[np.ndarray, "*R"]
    aic_difference: Float[np.ndarray, "*R"]
    points: Int[np.ndarray, "*R"]


def fit_decay(
    profile: Float[np.ndarray, "*R K"], pairs: Int[np.ndarray, "K"] | Float[np.ndarray, "K"]
) -> Fit:
    """Exponential fit of a lag profile: least squares of log m(k) on k.

    Over lags k >= 1 with at least `MIN_PAIRS` pairs and m(k) > `FLOOR` m(1). Fewer than three such lags leave
    the fit undefined (NaN), as two points lie on any line.

    Args:
        profile: m(k) at index k, in units of the weights.
        pairs: how many pairs of tokens each lag averages.

    Source: ours.
    """
    lags = np.arange(profile.shape[-1])
    steady = (lags >= 1) & (np.asarray(pairs) >= MIN_PAIRS)
    reference = profile[..., 1:2] if profile.shape[-1] > 1 else np.full((*profile.shape[:-1], 1), np.nan)
    use = steady & (profile > FLOOR * reference) & np.isfinite(profile)
    y = np.log(np.where(use, profile, 1.0))
    slope, log_scale, residual, total = _line(lags.astype(float), y, use)
    _, _, power_residual, _ = _line(np.log(np.maximum(lags, 1)), y, use)
    points = np.asarray(use.sum(axis=-1))
    # An exact fit leaves rounding of log m as its residual; both sums are kept at or above that.
    rounding = np.maximum(points, 1) * (4 * np.finfo(float).eps * np.abs(y).max(axis=-1, initial=1.0)) ** 2
    aic = points * (np.log(np.maximum(residual, rounding)) - np.log(np.maximum(power_residual, rounding)))
    defined = points >= 3
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(total > rounding, 1 - residual / total, np.nan)
    return Fit(
        rate=np.where(defined, -slope, np.nan),
        log_scale=np.where(defined, log_scale, np.nan),
        r2=np.where(defined, r2, np.nan),
        aic_difference=np.where(defined, aic, np.nan),
        points=points,
    )


def _line(
    x: Float[np.ndarray, "K"], y: Float[np.ndarray, "*R K"], use: Bool[np.ndarray, "*R K"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Slope, intercept, residual and total sum of squares of least squares over the points to use."""
    count = np.maximum(use.sum(axis=-1, keepdims=True), 1)
    x_mean = (use * x).sum(axis=-1, keepdims=True) / count
    y_mean = (use * y).sum(axis=-1, keepdims=True) / count
    dx, dy = use * (x - x_mean), use * (y - y_mean)
    spread = (dx * dx).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (dx * dy).sum(axis=-1) / spread
    residual = ((dy - slope[..., None] * dx) ** 2).sum(axis=-1)
    intercept = y_mean[..., 0] - slope * x_mean[..., 0]
    # Sums of one profile come as numpy scalars, not as arrays of no axes.
    return np.asarray(slope), np.asarray(intercept), np.asarray(residual), np.asarray((dy * dy).sum(axis=-1))


def predicted_half_life(
    A: Float[np.ndarray, "D N"], delta: Float[np.ndarray, "*B D L"]
) -> Float[np.ndarray, "*B Q"]:
    """Quantiles, over channels and states, of ln 2 / (abs(A_dn) mean_t delta_dt), in tokens.

    That is how long one state keeps half of what it holds where the step is at its mean, B and C aside. Taken
    as quantiles of the rates, which are finite, so that a channel whose step is 0 gives infinity and not NaN.

    Args:
        A: the scan's A, negative.
        delta: the scan's step, after softplus.

    Returns:
        One row of `QUANTILES` for each leading entry.

    Source: ours, from Abar_t = exp(delta_t A) (Gu and Dao, arXiv 2312.00752, equation 4).
    """
    rates = np.abs(A) * delta.mean(axis=-1)[..., None]
    rates = rates.reshape(*rates.shape[:-2], -1)
    kept = np.quantile(rates, [1 - q for q in QUANTILES], axis=-1)
    with np.errstate(divide="ignore"):
        return np.moveaxis(np.log(2) / kept, 0, -1)


def decay_index(
    distance: Float[np.ndarray, "*R"], uniform: Float[np.ndarray, "*R"]
) -> Float[np.ndarray, "*R"]:
    """1 - mean distance / mean distance of the uniform matrix with the same allowed pairs.

    0 where attention is as far-sighted as uniform attention, 1 where every token sees only itself, negative
    where attention prefers the far. NaN where the uniform matrix has no distance either (one token, one
    frame).

    Source: ours.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(uniform > 0, 1 - distance / uniform, np.nan)


SIDE = 1024
"""A matrix with a longer side is averaged over square blocks until it fits."""

MOST_DRAWN = 6
"""Layers drawn as heatmaps where more were chosen: the first, the last and some evenly between."""


def block_size(length: int) -> int:
    """Tokens that one cell of a heatmap of `length` tokens spans."""
    return max(1, math.ceil(length / SIDE))


def block_mean(matrix: Float[np.ndarray, "L L"]) -> Float[np.ndarray, "c c"]:
    """Mean over square blocks of `block_size` tokens; the last block may be narrower."""
    length = len(matrix)
    block = block_size(length)
    if block == 1:
        return matrix
    starts = np.arange(0, length, block)
    widths = np.diff([*starts, length])
    total = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)
    return total / (widths[:, None] * widths)


def layers_to_draw(layers: Sequence[int]) -> list[int]:
    """All layers where they are few, else `MOST_DRAWN` from the first to the last."""
    if len(layers) <= MOST_DRAWN:
        return list(layers)
    last = len(layers) - 1
    return [layers[round(i * last / (MOST_DRAWN - 1))] for i in range(MOST_DRAWN)]
