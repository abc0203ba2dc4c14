"""Quantities, gaps and intervals of sums whose answers are known in closed form."""

import numpy as np
import pytest

from analysis.decay.measure import QUANTITIES, gap, measure
from analysis.results import Layout
from tests.analysis.decay.examples import PATCHES, TEXT, VIDEO, exponential_sums


def by_name(sums, layout, resamples=300):
    measurements, curves = measure([sums], layout, resamples, seed=0)
    return {m.quantity: m for m in measurements}, {c.quantity: c for c in curves}


def test_one_exponential_clip_gives_its_rate_half_life_and_index():
    found, curves = by_name(exponential_sums(VIDEO, [0.2]), VIDEO)
    assert set(found) == set(QUANTITIES)
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
    assert {name: found[name].value for name in expected} == pytest.approx(expected)
    assert all(m.low is None and m.high is None for m in found.values())
    assert found["decay_rate_tokens"].note == "one clip: no interval"
    assert curves["class_row"].value.tolist() == pytest.approx([0.2] * 4)
    assert curves["frame_matrix"].value[2].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert curves["lag_profile"].low is None


def test_quantities_are_of_the_mean_profile_and_not_means_of_quantities():
    found, _ = by_name(exponential_sums(VIDEO, [0.1, 0.5]), VIDEO)
    lags = np.arange(VIDEO.length)
    mean = (np.exp(-0.1 * lags) + np.exp(-0.5 * lags)) / 2
    fine = np.linspace(1, 20, 200001)
    crossing = fine[np.argmax(np.interp(fine, lags, np.log(mean)) <= np.log(mean[1] / 2))]
    assert found["half_life_tokens"].value == pytest.approx(crossing, abs=1e-3)


def test_interval_spans_what_resampled_clips_can_give():
    found, curves = by_name(exponential_sums(VIDEO, [0.2, 0.25]), VIDEO)
    # Of two clips, a resample is the first alone, both, or the second alone; each in more than 2.5 % of
    # cases.
    context = found["effective_context_tokens"]
    assert (context.low, context.value, context.high) == pytest.approx((12, 13.5, 15))
    assert context.n_clips == 2
    assert curves["lag_profile"].low == pytest.approx(np.exp(-0.25 * np.arange(VIDEO.length)))
    assert curves["lag_profile"].high == pytest.approx(np.exp(-0.2 * np.arange(VIDEO.length)))


def test_equal_clips_give_an_interval_of_no_width():
    found, _ = by_name(exponential_sums(VIDEO, [0.3, 0.3, 0.3]), VIDEO)
    half = found["half_life_tokens"]
    assert half.low == pytest.approx(half.value)
    assert half.high == pytest.approx(half.value)


def test_a_plain_sequence_has_stated_gaps_where_frames_and_class_token_would_be():
    found, curves = by_name(exponential_sums(TEXT, [0.2, 0.3]), TEXT)
    for name in ("half_life_frames", "mean_distance_frames", "decay_index_patches"):
        assert found[name].value is None
        assert found[name].low is None
        assert found[name].note == "a plain sequence has no frames"
    assert found["class_self"].note == "no class token"
    assert found["half_life_tokens"].value is not None
    assert set(curves) == {"lag_profile"}


def test_one_frame_has_patch_distances_but_no_frame_quantities():
    image = Layout(length=10, class_positions=(4,), frames=1, patches=9)
    found, curves = by_name(exponential_sums(image, [0.2, 0.3]), image)
    assert found["decay_index_frames"].note == "one frame"
    assert found["decay_index_patches"].value == pytest.approx(1 - (1 + 2 / 3) / 2 / 4)
    assert found["class_self"].value == pytest.approx(0.8)
    assert set(curves) == {"lag_profile"}
    assert gap("predicted_half_life_frames", image) == "one frame"


def test_a_half_life_beyond_the_sequence_is_infinite_with_a_note_and_a_finite_low_end():
    found, _ = by_name(exponential_sums(VIDEO, [0.001, 0.001, 0.4]), VIDEO)
    half = found["half_life_tokens"]
    assert half.value == np.inf
    assert half.high == np.inf
    assert half.low == pytest.approx(1 + np.log(2) / 0.4)
    assert half.note == "beyond L = 37 tokens"


def test_an_undefined_number_says_why():
    dead = exponential_sums(VIDEO, [0.2, 0.2])
    silent = type(dead)(**{**vars(dead), "lag_profile": np.zeros((2, VIDEO.length))})
    found, _ = by_name(silent, VIDEO)
    assert found["half_life_tokens"].value is None
    assert found["half_life_tokens"].note == "no weight at lag 1"
    assert found["decay_rate_tokens"].note == "fewer than 3 lags with 8 pairs and m(k) > 1e-6 m(1)"


def test_weights_that_are_not_finite_are_said_to_be_so():
    sums = exponential_sums(VIDEO, [0.2, 0.3])
    profile = np.full((2, VIDEO.length), np.nan)
    broken = type(sums)(**{**vars(sums), "lag_profile": profile, "distance": np.full((2, 3), np.nan)})
    found, _ = by_name(broken, VIDEO)
    for name in ("half_life_tokens", "decay_rate_tokens", "mean_distance_tokens", "decay_index_tokens"):
        assert (found[name].value, found[name].note) == (None, "weights are not finite")
    assert found["empty_rows"].note == "weights are not finite: rows that hold them are counted here"
    assert found["effective_context_tokens"].note == "weights are not finite"
    assert found["predicted_half_life_tokens"].note == ""


@pytest.mark.filterwarnings("error")
def test_a_step_of_zero_gives_an_infinite_prediction_with_an_infinite_interval():
    sums = exponential_sums(VIDEO, [0.2, 0.3, 0.4])
    for clips, low in (([0, 1, 2], np.inf), ([0], np.log(2) / 0.4)):
        predicted = np.array(sums.predicted)
        predicted[clips] = np.inf
        found, _ = by_name(type(sums)(**{**vars(sums), "predicted": predicted}), VIDEO)
        half = found["predicted_half_life_tokens"]
        assert (half.value, half.high) == (np.inf, np.inf)
        assert half.low == pytest.approx(low)
        assert half.note == "infinite: a step of 0"
