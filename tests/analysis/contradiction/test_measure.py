"""Numbers over clips, from per-clip values whose answers are known by hand."""

from fractions import Fraction

import numpy as np
import pytest

from analysis.contradiction.measure import CURVES, QUANTITIES, measure
from analysis.contradiction.metrics import BINS, QUANTILES
from analysis.contradiction.result import ClipValues

SIZES = {"mediator_by_lag": 3, "transitivity_histogram": BINS}


def clips_of(*clips, **fields):
    """Values of clips, each a mapping of what differs from 1; of what was left out, from 0."""
    names = {name for name in QUANTITIES if name not in ("contradictory_mass", "contradictory_share")}
    names |= {"contradictory_observed", "contradictory_expected"}
    values = {
        name: np.array([clip.get(name, float("left_out" not in name)) for clip in clips]) for name in names
    }
    values |= {name: np.ones((len(clips), SIZES.get(name, len(QUANTILES)))) for name in CURVES}
    return ClipValues(2, "forward", "ssm", values=values | fields)


def measured(values, resamples=1000):
    numbers, curves = measure([values], length=13, margin=4, resamples=resamples, seed=0)
    return {m.quantity: m for m in numbers}, {c.quantity: c for c in curves}


TWO = (
    {"contradictory_observed": 0.2, "contradictory_expected": 0.1, "mediator_sensitivity": 3.0},
    {"contradictory_observed": 0.6, "contradictory_expected": 0.6, "mediator_sensitivity": 5.0},
)


def test_mass_is_the_ratio_of_mean_shares_and_its_ends_those_of_the_clips_drawn_twice():
    numbers, _ = measured(clips_of(*TWO))
    mass = numbers["contradictory_mass"]
    assert mass.value == pytest.approx(float(Fraction(2 + 6, 1 + 6)))  # Not 3 / 2, the mean of the ratios.
    # Of two clips a quarter of the resamples has the first alone, a quarter the second: both are beyond 2.5 %.
    assert (mass.low, mass.high) == pytest.approx((1, 2))
    assert numbers["contradictory_share"].value == pytest.approx(0.4)
    sensitivity = numbers["mediator_sensitivity"]
    assert (sensitivity.value, sensitivity.low, sensitivity.high) == pytest.approx((4, 3, 5))
    assert (sensitivity.layer, sensitivity.direction, sensitivity.scope) == (2, "forward", "ssm")
    assert (sensitivity.unit, sensitivity.n_clips, sensitivity.note) == ("nats", 2, "")


def test_one_clip_has_numbers_and_no_interval():
    numbers, curves = measured(clips_of(TWO[0]))
    mass = numbers["contradictory_mass"]
    assert (mass.value, mass.low, mass.high, mass.note) == (2, None, None, "one clip: no interval")
    assert {c.note for c in curves.values()} == {"one clip: no interval"}
    assert all(c.low is c.high is None for c in curves.values())


def test_a_clip_without_a_number_makes_a_gap_and_not_a_mean_of_the_others():
    nothing = {"mediator_sensitivity": np.nan, "block_rank": np.nan, "transitivity_residual": np.nan}
    numbers, _ = measured(clips_of({}, nothing))
    for quantity, note in (
        ("mediator_sensitivity", "every relation was 0 in a clip"),
        ("block_rank", "the block is 0 in a clip"),
        ("transitivity_residual", "every triple was 0 / 0"),
    ):
        m = numbers[quantity]
        assert (m.value, m.low, m.high) == (None, None, None)
        assert m.note.startswith(note)
    assert numbers["mediator_relative"].value == 1


def test_what_was_left_out_is_said_beside_the_number():
    numbers, _ = measured(
        clips_of(
            *({"mediator_left_out": 0.25, "transitivity_left_out": 0.5, "transitivity_residual": 0.2},) * 2
        )
    )
    assert numbers["mediator_sensitivity"].note == "25 % of channels and triples are 0 and left out"
    assert numbers["transitivity_residual"].note == "50 % of channels and triples are 0 and left out"


def test_nearly_all_left_out_is_a_number_that_reads():
    numbers, _ = measured(clips_of({"mediator_left_out": 0.996}, {"mediator_left_out": 0.998}))
    assert numbers["mediator_sensitivity"].note == "99.7 % of channels and triples are 0 and left out"


def test_curves_are_means_over_clips():
    by_lag = np.array([[np.nan, 1.0, 4.0], [np.nan, 3.0, 8.0]])
    _, curves = measured(clips_of({}, {}, mediator_by_lag=by_lag))
    curve = curves["mediator_by_lag"]
    assert np.isnan(curve.value[0])
    assert curve.value[1:].tolist() == [2, 6]
    assert (curve.low[1:].tolist(), curve.high[1:].tolist()) == ([1, 4], [3, 8])
