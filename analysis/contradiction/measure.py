"""From per-clip values to the quantities of docs/math.md section 4, with bootstrap intervals over clips."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from analysis.bootstrap import percentile_interval, resample_weights
from analysis.contradiction.metrics import BINS, QUANTILES, QUARTER
from analysis.contradiction.result import ClipValues
from analysis.quantities import Quantity, summarise
from analysis.results import Curve, Measurement

QUANTITIES: Mapping[str, Quantity] = {
    "mediator_sensitivity": Quantity("nats", "mediator sensitivity"),
    "mediator_relative": Quantity("nats", "mediator sensitivity of a ratio in a row"),
    "mediator_logits": Quantity("nats", "mediator sensitivity of logits", "softmax"),
    "mediator_left_out": Quantity("fraction", "relations of 0, left out of the sensitivity"),
    "mediator_underflow": Quantity("fraction", "relations that the model's dtype holds as 0"),
    "transitivity_residual": Quantity("none", "transitivity residual"),
    "transitivity_unmasked": Quantity("none", "transitivity residual, unmasked"),
    "transitivity_left_out": Quantity("fraction", "triples of 0 / 0, left out of the residual"),
    "block_rank": Quantity("none", "effective block rank"),
    "block_rank_bound": Quantity("none", "bound on the block's rank", "bound"),
    "block_rank_logits": Quantity("none", "effective block rank of the logits", "softmax"),
    "block_rank_logits_bound": Quantity("none", "bound on the logits' block rank", "softmax"),
    "contradictory_mass": Quantity("none", "contradictory mass"),
    "contradictory_share": Quantity("fraction", "share of P on the least similar quarter of keys"),
}

NO_TRIPLE = "every triple was 0 / 0, or no triple of tokens that the layer relates, in a clip"

CURVES: Mapping[str, tuple[str, str]] = {
    "mediator_quantiles": ("nats", f"quantile, of {QUANTILES}"),
    "mediator_by_lag": ("nats", "octave of the lag i - k"),
    "transitivity_quantiles": ("none", f"quantile, of {QUANTILES}"),
    "transitivity_histogram": ("fraction", f"bin, of {BINS} on [0, 1]"),
    "block_rank_quantiles": ("none", f"quantile, of {QUANTILES}"),
    "contradictory_quantiles": ("none", f"quantile, of {QUANTILES}"),
}
"""Unit and axis of each distribution: over channels and triples, channels, or rows."""


def statistics(clips: ClipValues, weights: Float[np.ndarray, "R n"]) -> dict[str, Float[np.ndarray, "R"]]:
    """Every scalar of one layer, direction and scope, for each row of clip weights; NaN where undefined.

    Means over clips of the clips' means; contradictory mass is the ratio of the mean shares.
    """
    observed, expected = (
        weights @ clips.values[f"contradictory_{part}"] for part in ("observed", "expected")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = np.where(expected > 0, observed / expected, np.nan)
    derived = {"contradictory_mass": mass, "contradictory_share": observed}
    return {name: derived[name] if name in derived else weights @ clips.values[name] for name in QUANTITIES}


def measure(
    all_values: Sequence[ClipValues], length: int, margin: int, resamples: int, seed: int
) -> tuple[tuple[Measurement, ...], tuple[Curve, ...]]:
    """Numbers and curves of every layer, direction and scope, with percentile intervals over clips.

    Args:
        all_values: all of the same clips.
        length: tokens a sequence; margin: how far a mediator is kept from both tokens; for notes.
        resamples: how many bootstrap resamples; the same ones serve every number.
        seed: of the resamples.
    """
    measurements: list[Measurement] = []
    curves: list[Curve] = []
    for clips in all_values:
        n = len(clips.values["contradictory_observed"])
        weights = resample_weights(n, resamples, seed) if n > 1 else None
        measurements += _measurements(clips, n, weights, length, margin)
        curves += _curves(clips, n, weights)
    return tuple(measurements), tuple(curves)


def _measurements(
    clips: ClipValues, n: int, weights: Float[np.ndarray, "R n"] | None, length: int, margin: int
) -> list[Measurement]:
    values = statistics(clips, np.full((1, n), 1 / n))
    draws = None if weights is None else statistics(clips, weights)
    return [
        _explained(
            summarise(
                name,
                quantity.unit,
                values[name][0],
                None if draws is None else draws[name],
                missing=_gap(name, clips, length, margin),
                beyond="infinite",
                layer=clips.layer,
                direction=clips.direction,
                scope=clips.scope,
                n_clips=n,
            ),
            clips,
        )
        for name, quantity in QUANTITIES.items()
    ]


def _gap(name: str, clips: ClipValues, length: int, margin: int) -> str:
    """Why a quantity that is undefined is so."""
    tokens = f"{length} token{'' if length == 1 else 's'}"
    if name.startswith("mediator") and length < 2 * margin + 1:
        kept = "" if margin == 1 else ", as a mediator's convolution is to reach neither token"
        return f"{tokens}: a triple takes {2 * margin + 1}{kept}"
    if name.startswith("transitivity"):
        return f"{tokens}: a triple takes 3" if length < 3 else NO_TRIPLE
    if name.startswith("block_rank") and length < 2:
        return f"{tokens}: no block"
    if QUANTITIES[name].needs == "softmax":
        return "a scan has no softmax, and so no logits"
    if name.startswith("mediator"):
        return "every relation was 0 in a clip"
    if name == "block_rank_bound":
        return (
            "contributions are norms, whose matrix has no such bound"
            if clips.scope == "contribution"
            else "the softmax leaves no bound on the rank but the block's size"
        )
    if name.startswith("block_rank"):
        return "the block is 0 in a clip"
    return f"no row with {QUARTER} keys or more and a sum above 0"


def _explained(m: Measurement, clips: ClipValues) -> Measurement:
    """The number with what has to be known to read it."""
    said = []
    if m.quantity in ("mediator_sensitivity", "transitivity_residual") and m.value is not None:
        measure_name = m.quantity.partition("_")[0]
        left_out = 100 * float(clips.values[f"{measure_name}_left_out"].mean())
        if left_out > 0:
            said.append(f"{left_out:.3g} % of channels and triples are 0 and left out")
    if m.quantity == "transitivity_residual" and _masked(clips):
        said.append("1 by structure, as the mask makes alpha_jj 0; see transitivity_unmasked")
    return replace(m, note="; ".join([*said, *filter(None, [m.note])]))


def _masked(clips: ClipValues) -> bool:
    """Whether every residual is 1 where that before the mask is not."""
    as_it_is, before = (clips.values[f"transitivity_{name}"] for name in ("residual", "unmasked"))
    return bool(np.allclose(as_it_is, 1, rtol=0, atol=1e-9) and not np.array_equal(as_it_is, before))


def _curves(clips: ClipValues, n: int, weights: Float[np.ndarray, "R n"] | None) -> list[Curve]:
    found = []
    for name, (unit, axis) in CURVES.items():
        values = clips.values[name]
        low = high = None
        if weights is not None:
            low, high, _ = percentile_interval(weights @ values)
        found.append(
            Curve(
                layer=clips.layer,
                direction=clips.direction,
                scope=clips.scope,
                quantity=name,
                unit=unit,
                axes=(axis,),
                value=values.mean(axis=0),
                low=low,
                high=high,
                n_clips=n,
                note="" if weights is not None else "one clip: no interval",
            )
        )
    return found
