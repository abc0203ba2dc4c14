"""Paired differences: what a clip does to both models cancels."""

import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.decay.paired import paired_differences
from tests.analysis.decay.examples import TEXT, VIDEO, exponential_sums, provenance, result


def with_rates(rates, layout=VIDEO):
    made = result(layout, clips=len(rates), layers=1)
    return replace(made, sums=(exponential_sums(layout, rates),), provenance=provenance(layout, len(rates)))


def difference(one, other, quantity):
    (found,) = [d for d in paired_differences(one, other) if d.quantity == quantity]
    return found


def test_a_shift_common_to_all_clips_has_no_spread_however_much_clips_differ():
    rates = np.array([0.1, 0.2, 0.5, 0.9])
    # effective context is 3 / rate; a shift of 4 tokens in every clip.
    shifted = 1 / (1 / rates + 4 / 3)
    found = difference(with_rates(list(shifted)), with_rates(list(rates)), "effective_context_tokens")
    assert (found.value, found.low, found.high) == pytest.approx((4, 4, 4))
    assert found.unit == "tokens"


def test_a_difference_that_changes_sign_over_clips_has_an_interval_over_zero():
    found = difference(
        with_rates([0.2, 0.4, 0.2, 0.4]), with_rates([0.4, 0.2, 0.4, 0.2]), "mean_distance_tokens"
    )
    assert found.value == pytest.approx(0)
    assert found.low < 0 < found.high


def test_a_model_less_itself_is_zero_and_gaps_stay_gaps():
    made = result(TEXT)
    for found in paired_differences(made, made):
        if found.value is None:
            assert found.note
        else:
            assert (found.value, found.low, found.high) == (0, 0, 0)
    assert difference(with_rates([0.2], TEXT), with_rates([0.3], TEXT), "half_life_frames").note == (
        "a plain sequence has no frames"
    )


def test_a_half_life_beyond_the_sequence_in_one_of_two_differs_without_bound():
    near, far = with_rates([0.2, 0.2]), with_rates([0.001, 0.001])
    found = difference(far, near, "half_life_tokens")
    assert (found.value, found.low, found.high) == (math.inf, math.inf, math.inf)
    assert found.note == "beyond the sequence in one of the two"
    assert difference(near, far, "half_life_tokens").high == -math.inf
    both = difference(far, far, "half_life_tokens")
    assert (both.value, both.low) == (None, None)
    assert both.note == "undefined in one of the two, or beyond the sequence in both"


def test_a_bound_that_some_clips_set_leaves_the_other_end_open():
    # Of 1, 2 or 3 draws of the slow clip the half-life is beyond the sequence; without it, it is short.
    found = difference(with_rates([0.001, 0.4, 0.4]), with_rates([0.3, 0.3, 0.3]), "half_life_tokens")
    assert found.low < 0
    assert found.high == math.inf


def test_other_clips_or_layouts_are_refused():
    with pytest.raises(ValueError, match="clips differ"):
        paired_differences(result(clips=2), result(clips=3))
    with pytest.raises(ValueError, match="layouts differ"):
        paired_differences(result(VIDEO), result(TEXT))
