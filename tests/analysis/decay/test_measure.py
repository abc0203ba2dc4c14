"""Quantities, gaps and intervals of clips whose answers are known in closed form."""

import numpy as np
import pytest

from analysis import Decay
from tests.analysis.decay.examples import IMAGE, PATCHES, TEXT, VIDEO, known


def numbers(*arguments, **more):
    """The forward direction's numbers by name, and the result."""
    result = known(*arguments, **more)
    return (lambda name: result.number(name, 0, "forward", "ssm")), result


def curve(result, name):
    return result.curve(name, 0, "forward", "ssm")


def gaps(number, names, why):
    for name in names:
        found = number(name)
        assert np.isnan([found.value, found.low, found.high]).all(), name
        assert found.note == why, name


def test_one_exponential_clip_gives_its_rate_half_life_and_index():
    number, result = numbers(VIDEO, [0.2])
    assert set(result.quantities) == set(Decay.quantities)
    expected = {
        "half_life_tokens": 1 + np.log(2) / 0.2,
        "half_life_frames": 1 + np.log(2) / 2.0,
        "decay_rate_tokens": 0.2,
        "decay_rate_frames": 2.0,
        "decay_fit_r2_tokens": 1.0,
        "decay_fit_log_scale_tokens": 0.0,
        "predicted_half_life_tokens": np.log(2) / 0.2,
        "predicted_half_life_p10_tokens": 0.6 * np.log(2) / 0.2,
        "predicted_half_life_p90_tokens": 1.4 * np.log(2) / 0.2,
        "predicted_half_life_frames": np.log(2) / 0.2 / PATCHES,
        "mean_distance_tokens": 5.0,
        "mean_distance_frames": 0.5,
        "mean_distance_patches": 1.0,
        "decay_index_tokens": 0.75,
        "decay_index_frames": 0.75,
        "decay_index_patches": 0.75,
        "effective_context_tokens": 15.0,
        "class_self": 0.2,
        "empty_rows": 1.0,
    }
    assert {name: number(name).value for name in expected} == pytest.approx(expected)
    assert np.isnan([[number(name).low, number(name).high] for name in expected]).all()
    assert number("decay_rate_tokens").note == "one clip: no interval"
    assert curve(result, "class_row").value.tolist() == pytest.approx([0.2] * 4)
    assert curve(result, "frame_matrix").value[2].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert curve(result, "lag_profile").low is None


def test_quantities_are_of_the_mean_profile_and_not_means_of_quantities():
    number, _ = numbers(VIDEO, [0.1, 0.5])
    lags = np.arange(VIDEO.length)
    mean = (np.exp(-0.1 * lags) + np.exp(-0.5 * lags)) / 2
    fine = np.linspace(1, 20, 200001)
    crossing = fine[np.argmax(np.interp(fine, lags, np.log(mean)) <= np.log(mean[1] / 2))]
    assert number("half_life_tokens").value == pytest.approx(crossing, abs=1e-3)


def test_interval_spans_what_resampled_clips_can_give():
    number, result = numbers(VIDEO, [0.2, 0.25])
    # Of two clips, a resample is the first alone, both, or the second alone; each in more than 2.5 % of cases.
    context = number("effective_context_tokens")
    assert (context.low, context.value, context.high) == pytest.approx((12, 13.5, 15))
    assert result.n_clips == 2
    profile = curve(result, "lag_profile")
    assert profile.low == pytest.approx(np.exp(-0.25 * np.arange(VIDEO.length)))
    assert profile.high == pytest.approx(np.exp(-0.2 * np.arange(VIDEO.length)))
    number, _ = numbers(VIDEO, [0.3, 0.3, 0.3])
    half = number("half_life_tokens")
    assert (half.low, half.high) == pytest.approx((half.value, half.value))


def test_a_plain_sequence_has_stated_gaps_where_frames_and_class_token_would_be():
    number, result = numbers(TEXT, [0.2, 0.3])
    frames = ("half_life_frames", "mean_distance_frames", "decay_index_patches")
    gaps(number, frames, "a plain sequence has no frames")
    gaps(number, ["class_self"], "no class token")
    assert number("half_life_tokens").value > 1
    assert {name for name in result.quantities if not Decay.quantities[name].is_number} == {
        "lag_profile",
        "weight_matrix",
    }


def test_one_frame_has_patch_distances_but_no_frame_quantities():
    number, result = numbers(IMAGE, [0.2, 0.3])
    gaps(number, ["decay_index_frames", "predicted_half_life_frames", "half_life_frames"], "one frame")
    assert number("decay_index_patches").value == pytest.approx(1 - (1 + 2 / 3) / 2 / 4)
    assert number("class_self").value == pytest.approx(0.8)
    assert curve(result, "frame_matrix") is curve(result, "class_row") is None


def test_a_half_life_beyond_the_sequence_is_infinite_with_a_note_and_a_finite_low_end():
    number, _ = numbers(VIDEO, [0.001, 0.001, 0.4])
    half = number("half_life_tokens")
    assert (half.value, half.high) == (np.inf, np.inf)
    assert half.low == pytest.approx(1 + np.log(2) / 0.4)
    assert half.note == "beyond L = 37 tokens"


def test_an_undefined_number_says_why():
    number, _ = numbers(VIDEO, [0.2, 0.2], change={"lag_profile": np.zeros(VIDEO.length)})
    gaps(number, ["half_life_tokens"], "no weight at lag 1")
    gaps(number, ["decay_rate_tokens"], "fewer than 3 lags with 8 pairs and m(k) > 1e-6 m(1)")


def test_weights_that_are_not_finite_are_said_to_be_so():
    change = {"lag_profile": np.full(VIDEO.length, np.nan), "distance": np.full(3, np.nan)}
    number, _ = numbers(VIDEO, [0.2, 0.3], change=change)
    names = ("half_life_tokens", "decay_rate_tokens", "mean_distance_tokens", "decay_index_tokens")
    gaps(number, names, "weights are not finite")
    assert number("empty_rows").note == "weights are not finite: rows that hold them are counted here"
    assert number("effective_context_tokens").note == "weights are not finite"
    assert number("predicted_half_life_tokens").note == ""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("clips", "low"), [([0, 1, 2], np.inf), ([0], np.log(2) / 0.4)])
def test_a_step_of_zero_gives_an_infinite_prediction_with_an_infinite_interval(clips, low):
    rates = [0.2, 0.3, 0.4]
    change = {"predicted": lambda clip: np.full(7, np.inf if clip in clips else np.log(2) / rates[clip])}
    number, _ = numbers(VIDEO, rates, change=change)
    half = number("predicted_half_life_tokens")
    assert (half.value, half.high) == (np.inf, np.inf)
    assert half.low == pytest.approx(low)
    assert half.note == "infinite: a step of 0"
