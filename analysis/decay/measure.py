"""From per-clip sums to the quantities of docs/math.md section 3, with bootstrap intervals over clips.

`statistics` is the one place where quantities are computed. It takes rows of clip weights, so that the value
(one row of equal weights), the bootstrap draws and the paired differences of two models are the same code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from analysis.bootstrap import percentile_interval, resample_weights
from analysis.decay.metrics import MIN_PAIRS, QUANTILES, decay_index, fit_decay, half_life
from analysis.decay.result import ClipSums
from analysis.quantities import Quantity, summarise
from analysis.results import Curve, Layout, Measurement

QUANTITIES: Mapping[str, Quantity] = {
    "half_life_tokens": Quantity("tokens", "half-life"),
    "half_life_frames": Quantity("frames", "half-life", "frames"),
    "predicted_half_life_tokens": Quantity("tokens", "predicted half-life, median"),
    "predicted_half_life_p10_tokens": Quantity("tokens", "predicted half-life, 10th percentile"),
    "predicted_half_life_p90_tokens": Quantity("tokens", "predicted half-life, 90th percentile"),
    "predicted_half_life_frames": Quantity("frames", "predicted half-life, median", "frames"),
    "decay_rate_tokens": Quantity("1/token", "decay rate"),
    "decay_fit_log_scale_tokens": Quantity("log of the unit of W", "log of the fit at lag 0"),
    "decay_fit_r2_tokens": Quantity("none", "R2 of the exponential fit"),
    "decay_fit_aic_difference_tokens": Quantity("none", "AIC, exponential less power law"),
    "decay_rate_frames": Quantity("1/frame", "decay rate", "frames"),
    "decay_fit_log_scale_frames": Quantity("log of the unit of W", "log of the fit at frame lag 0", "frames"),
    "decay_fit_r2_frames": Quantity("none", "R2 of the exponential fit over frames", "frames"),
    "decay_fit_aic_difference_frames": Quantity(
        "none", "AIC over frames, exponential less power law", "frames"
    ),
    "mean_distance_tokens": Quantity("tokens", "mean distance"),
    "mean_distance_frames": Quantity("frames", "mean distance", "frames"),
    "mean_distance_patches": Quantity("patches", "mean distance in the frame", "patches"),
    "decay_index_tokens": Quantity("none", "decay index"),
    "decay_index_frames": Quantity("none", "decay index over frames", "frames"),
    "decay_index_patches": Quantity("none", "decay index over places in the frame", "patches"),
    "effective_context_tokens": Quantity("tokens", "effective context"),
    "class_self": Quantity("fraction", "what the class token keeps", "class"),
    "empty_rows": Quantity("rows", "rows of sum 0, left out"),
}

WEIGHT_UNITS: Mapping[str, str] = {
    "ssm": "scan output per unit of scan input",
    "mixer": "mixer output per unit of x",
    "contribution": "mixer output",
}
"""Unit of a scan's weights W in each scope; the mixer's output is taken before its last projection."""

ATTENTION_UNITS: Mapping[str, str] = {
    "ssm": "fraction of the row",
    "mixer": "layer output",
    "contribution": "mixer output",
}
"""Unit of self-attention's W: in `mixer` after the output projection, in `contribution` before it, as for a scan."""

NO_SCAN = "self-attention has no step to predict a half-life from"
"""The note of a number that only a scan has."""

NONFINITE = "weights are not finite"
"""The note of a number whose rows of W hold NaN or infinity."""


def statistics(
    sums: ClipSums, layout: Layout, weights: Float[np.ndarray, "R n"]
) -> dict[str, Float[np.ndarray, "R"]]:
    """Every scalar of one layer, direction and scope, for each row of clip weights; NaN where undefined.

    Profiles, distances and quantiles are averaged over clips first, and the quantity is taken of the average.
    """
    distance, uniform = weights @ sums.distance, weights @ sums.uniform
    found = {
        "effective_context_tokens": weights @ sums.effective_context,
        "empty_rows": weights @ sums.empty_rows,
    }
    if sums.predicted is not None:
        found |= _predictions(sums.predicted, weights, layout)
    for axis, unit in enumerate(("tokens", "frames", "patches")):
        found[f"mean_distance_{unit}"] = distance[:, axis]
        found[f"decay_index_{unit}"] = decay_index(distance[:, axis], uniform[:, axis])
    found |= _profile_statistics(weights @ sums.lag_profile, sums.lag_pairs, "tokens")
    if sums.frame_profile is not None and sums.frame_pairs is not None:
        found |= _profile_statistics(weights @ sums.frame_profile, sums.frame_pairs, "frames")
    if sums.class_self is not None:
        found["class_self"] = weights @ sums.class_self
    nothing = np.full(len(weights), np.nan)
    return {name: nothing if gap(name, layout) else found.get(name, nothing) for name in QUANTITIES}


def _predictions(
    quantiles: Float[np.ndarray, "n Q"], weights: Float[np.ndarray, "R n"], layout: Layout
) -> dict[str, np.ndarray]:
    # Infinity, of a step of 0, counts where its clip was drawn: 0 times infinity has no value.
    endless = np.isinf(quantiles)
    predicted = weights @ np.where(endless, 0, quantiles)
    predicted = np.where(weights @ endless > 0, np.inf, predicted)
    median, p10, p90 = (predicted[:, QUANTILES.index(q)] for q in (0.5, 0.1, 0.9))
    return {
        "predicted_half_life_tokens": median,
        "predicted_half_life_p10_tokens": p10,
        "predicted_half_life_p90_tokens": p90,
        "predicted_half_life_frames": median / max(layout.patches, 1),
    }


def _profile_statistics(
    profile: Float[np.ndarray, "R K"], pairs: Float[np.ndarray, "K"], unit: str
) -> dict[str, np.ndarray]:
    fit = fit_decay(profile, pairs)
    return {
        f"half_life_{unit}": half_life(profile, pairs),
        f"decay_rate_{unit}": fit.rate,
        f"decay_fit_log_scale_{unit}": fit.log_scale,
        f"decay_fit_r2_{unit}": fit.r2,
        f"decay_fit_aic_difference_{unit}": fit.aic_difference,
    }


def gap(quantity: str, layout: Layout) -> str:
    """Why a sequence of this layout has no such quantity, or "" where it has."""
    needs = QUANTITIES[quantity].needs
    if needs == "class" and not layout.class_positions:
        return "no class token"
    if needs in ("frames", "patches") and layout.frames == 0:
        return "a plain sequence has no frames"
    if needs == "frames" and layout.frames == 1:
        return "one frame"
    if quantity.startswith("half_life"):
        unit = quantity.rpartition("_")[2]
        steps = layout.frames if unit == "frames" else layout.length
        if steps < 3:
            return f"{steps} {unit if steps > 1 else unit[:-1]}: a fall takes two lags"
    return ""


def measure(
    all_sums: Sequence[ClipSums], layout: Layout, resamples: int, seed: int
) -> tuple[tuple[Measurement, ...], tuple[Curve, ...]]:
    """Numbers and curves of every layer, direction and scope, with percentile intervals over clips.

    Args:
        all_sums: all of the same clips.
        resamples: how many bootstrap resamples; the same ones serve every number.
        seed: of the resamples.
    """
    measurements: list[Measurement] = []
    curves: list[Curve] = []
    for sums in all_sums:
        clips = len(sums.effective_context)
        weights = resample_weights(clips, resamples, seed) if clips > 1 else None
        measurements += _measurements(sums, layout, weights)
        curves += _curves(sums, layout, weights)
    return tuple(measurements), tuple(curves)


def _measurements(sums: ClipSums, layout: Layout, weights: np.ndarray | None) -> list[Measurement]:
    clips = len(sums.effective_context)
    values = statistics(sums, layout, np.full((1, clips), 1 / clips))
    draws = None if weights is None else statistics(sums, layout, weights)
    nonfinite = not np.isfinite(sums.lag_profile[:, np.asarray(sums.lag_pairs) > 0]).all()
    found = [
        summarise(
            name,
            QUANTITIES[name].unit,
            values[name][0],
            None if draws is None else draws[name],
            missing=gap(name, layout)
            or _no_scan(name, sums)
            or (NONFINITE if nonfinite else _why_undefined(name)),
            beyond=_beyond(name, layout),
            layer=sums.layer,
            direction=sums.direction,
            scope=sums.scope,
            n_clips=clips,
        )
        for name in QUANTITIES
    ]
    return [_warned(m) for m in found] if nonfinite else found


def _no_scan(quantity: str, sums: ClipSums) -> str:
    return NO_SCAN if sums.predicted is None and quantity.startswith("predicted") else ""


def _warned(m: Measurement) -> Measurement:
    """The number with a note that weights are not finite, where it was taken of the rows that are."""
    if m.value is None or m.quantity.startswith("predicted"):
        return m
    said = f"{NONFINITE}: rows that hold them are counted here" if m.quantity == "empty_rows" else NONFINITE
    return replace(m, note="; ".join(filter(None, (said, m.note))))


def _why_undefined(quantity: str) -> str:
    if quantity.startswith("half_life"):
        return "no weight at lag 1"
    if "_r2_" in quantity:
        return "the profile is flat, or too few lags for a fit"
    if quantity.startswith("decay_rate") or "_fit_" in quantity:
        return f"fewer than 3 lags with {MIN_PAIRS} pairs and m(k) > 1e-6 m(1)"
    if quantity.startswith("decay_index"):
        return "the uniform matrix has no distance either"
    return "no row with a sum above 0"


def _beyond(quantity: str, layout: Layout) -> str:
    if quantity == "half_life_tokens":
        return f"beyond L = {layout.length} tokens"
    if quantity == "half_life_frames":
        return f"beyond T = {layout.frames} frames"
    return "infinite: a step of 0"


def _curves(sums: ClipSums, layout: Layout, weights: np.ndarray | None) -> list[Curve]:
    """Profiles, frame matrix and class row; those that need frames only where there are two or more."""
    unit = sums.weight_unit
    parts: list[tuple[str, str, tuple[str, ...], np.ndarray, np.ndarray | None]]
    parts = [("lag_profile", unit, ("lag in tokens",), sums.lag_profile, sums.lag_pairs)]
    if layout.frames > 1 and sums.frame_profile is not None and sums.frame_matrix is not None:
        parts.append(("frame_lag_profile", unit, ("lag in frames",), sums.frame_profile, sums.frame_pairs))
        parts.append(("frame_matrix", "fraction", ("query frame", "key frame"), sums.frame_matrix, None))
        if sums.class_row is not None:
            parts.append(("class_row", "fraction", ("key frame",), sums.class_row, None))
    return [_curve(sums, name, unit, axes, clips, pairs, weights) for name, unit, axes, clips, pairs in parts]


def _curve(
    sums: ClipSums,
    name: str,
    unit: str,
    axes: tuple[str, ...],
    clips: Float[np.ndarray, "n *S"],
    pairs: np.ndarray | None,
    weights: np.ndarray | None,
) -> Curve:
    low = high = None
    if weights is not None:
        draws = (weights @ clips.reshape(len(clips), -1)).reshape(len(weights), *clips.shape[1:])
        low, high, _ = percentile_interval(draws)
    return Curve(
        layer=sums.layer,
        direction=sums.direction,
        scope=sums.scope,
        quantity=name,
        unit=unit,
        axes=axes,
        value=clips.mean(axis=0),
        low=low,
        high=high,
        n_clips=len(clips),
        pairs=pairs,
        note="" if weights is not None else "one clip: no interval",
    )
