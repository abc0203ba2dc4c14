"""Differences between two models that saw the same clips."""

from collections.abc import Iterator

import numpy as np

from analysis.bootstrap import resample_weights
from analysis.decay.measure import QUANTITIES, gap, statistics
from analysis.decay.result import DecayResult
from analysis.quantities import summarise
from analysis.results import Measurement


def paired_differences(
    one: DecayResult, other: DecayResult, resamples: int = 1000, seed: int = 0
) -> tuple[Measurement, ...]:
    """``one`` less ``other`` in every quantity, with a bootstrap interval over the clips that both saw.

    Each resample draws clips once and takes both models' quantities of the same draw, so that what a clip
    does to both models cancels. Where one half-life lies beyond the sequence, so does the difference:
    infinity with its sign. Where both do, there is none.

    Args:
        one, other: results on the same clips; layers, directions and scopes in common are compared.

    Raises:
        ValueError: the clips or the token layouts differ.

    Source: ours; Efron 1979 for the bootstrap.
    """
    if one.layout != other.layout:
        raise ValueError(f"layouts differ: {one.layout} and {other.layout}")
    shown, also = one.provenance.input, other.provenance.input
    if (shown.source, shown.names, shown.seed) != (also.source, also.names, also.seed):
        raise ValueError(f"clips differ: {shown.source} {shown.names} and {also.source} {also.names}")
    clips = shown.count
    weights = resample_weights(clips, resamples, seed) if clips > 1 else None
    return tuple(_differences(one, other, weights))


def _differences(one: DecayResult, other: DecayResult, weights: np.ndarray | None) -> Iterator[Measurement]:
    partners = {(s.layer, s.direction, s.scope): s for s in other.sums}
    layout, clips = one.layout, one.provenance.input.count
    equal = np.full((1, clips), 1 / clips)
    for sums in one.sums:
        partner = partners.get((sums.layer, sums.direction, sums.scope))
        if partner is None:
            continue
        value = _subtract(statistics(sums, layout, equal), statistics(partner, layout, equal))
        draws = None
        if weights is not None:
            draws = _subtract(statistics(sums, layout, weights), statistics(partner, layout, weights))
        for name in QUANTITIES:
            yield summarise(
                name,
                QUANTITIES[name].unit,
                float(value[name][0]),
                None if draws is None else draws[name],
                missing=gap(name, layout) or "undefined in one of the two, or beyond the sequence in both",
                beyond="beyond the sequence in one of the two",
                layer=sums.layer,
                direction=sums.direction,
                scope=sums.scope,
                n_clips=clips,
            )


def _subtract(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Differences by quantity: infinite where one value is, NaN where both are or either is undefined."""
    with np.errstate(invalid="ignore"):
        return {name: first - other[name] for name, first in one.items()}
