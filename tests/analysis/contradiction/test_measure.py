"""Numbers over clips, from per-clip values whose answers are known by hand."""

from fractions import Fraction

import numpy as np
import pytest

from analysis.assemble import clips_of, estimates
from analysis.contradiction import Contradiction
from analysis.contradiction.metrics import BINS, QUANTILES
from analysis.intervals import resample_weights
from analysis.measure import Place
from vmp.layout import TokenLayout

SIZES = {"octave": 3, "residual_bin": BINS, "quantile": len(QUANTILES)}
PLACE = Place("model", 2, "forward", "ssm", TokenLayout.video(3, (2, 2), "first"), True, 4)


def estimated(*clips):
    """Value, ends and note of every quantity for clips, each a mapping of what differs from 1; of left out, from 0."""
    measure = Contradiction()
    dims = {**{name: quantity.dims for name, quantity in measure.quantities.items()}, **measure.kept}
    usual = {
        name: np.full([SIZES[dim] for dim in own], float("left_out" not in name))
        for name, own in dims.items()
        if name not in ("contradictory_mass", "contradictory_share")
    }
    given = clips_of(measure, [{**usual, **clip} for clip in clips], {}, PLACE)
    weights = resample_weights(len(clips), 1000, 0) if len(clips) > 1 else None
    return estimates(measure, given, weights)


TWO = (
    {"contradictory_observed": 0.2, "contradictory_expected": 0.1, "mediator_sensitivity": 3.0},
    {"contradictory_observed": 0.6, "contradictory_expected": 0.6, "mediator_sensitivity": 5.0},
)


def test_mass_is_the_ratio_of_mean_shares_and_its_ends_those_of_the_clips_drawn_twice():
    found = estimated(*TWO)
    value, low, high, note = found["contradictory_mass"]
    assert value == pytest.approx(float(Fraction(2 + 6, 1 + 6)))  # Not 3 / 2, the mean of the ratios.
    # Of two clips a quarter of the resamples has the first alone, a quarter the second: both are beyond 2.5 %.
    assert (low, high) == pytest.approx((1, 2))
    assert note == ""
    assert found["contradictory_share"][0] == pytest.approx(0.4)
    assert found["mediator_sensitivity"][:3] == pytest.approx((4, 3, 5))


def test_one_clip_has_numbers_and_no_interval():
    found = estimated(TWO[0])
    assert found["contradictory_mass"] == (2, None, None, "one clip: no interval")
    assert all(low is high is None for _, low, high, _ in found.values())


def test_a_clip_without_a_number_makes_a_gap_and_not_a_mean_of_the_others():
    found = estimated(
        {}, {"mediator_sensitivity": np.nan, "block_rank": np.nan, "transitivity_residual": np.nan}
    )
    for quantity, said in (
        ("mediator_sensitivity", "every relation was 0 in a clip"),
        ("block_rank", "the block is 0 in a clip"),
        ("transitivity_residual", "every triple was 0 / 0"),
    ):
        *numbers, note = found[quantity]
        assert np.isnan(numbers).all()
        assert str(note).startswith(said)
    assert found["mediator_relative"][0] == 1


@pytest.mark.parametrize(
    ("quantity", "left_out", "percent"),
    [
        ("mediator_sensitivity", (0.25, 0.25), "25"),
        ("transitivity_residual", (0.5, 0.5), "50"),
        ("mediator_sensitivity", (0.996, 0.998), "99.7"),  # Nearly all, in a number that reads.
    ],
)
def test_what_was_left_out_is_said_beside_the_number(quantity, left_out, percent):
    name = f"{quantity.partition('_')[0]}_left_out"
    found = estimated(*({name: share, "transitivity_residual": 0.2} for share in left_out))
    assert found[quantity][3] == f"{percent} % of channels and triples are 0 and left out"


def test_curves_are_means_over_clips():
    clips = ({"mediator_by_lag": np.array(by_lag)} for by_lag in ([np.nan, 1, 4], [np.nan, 3, 8]))
    value, low, high, _ = estimated(*clips)["mediator_by_lag"]
    assert np.isnan(value[0])
    assert [part[1:].tolist() for part in (value, low, high)] == [[2, 6], [1, 4], [3, 8]]
