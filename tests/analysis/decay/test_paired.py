"""Paired differences: what a clip does to both models cancels."""

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


def test_a_half_life_beyond_the_sequence_has_no_difference():
    found = difference(with_rates([0.001, 0.001]), with_rates([0.2, 0.2]), "half_life_tokens")
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.note == "undefined or beyond the sequence in one of the two"


def test_other_clips_or_layouts_are_refused():
    with pytest.raises(ValueError, match="clips differ"):
        paired_differences(result(clips=2), result(clips=3))
    with pytest.raises(ValueError, match="layouts differ"):
        paired_differences(result(VIDEO), result(TEXT))
