"""Metrics against closed forms, and against numpy's and scipy's own fits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.decay.metrics import (
    MIN_PAIRS,
    QUANTILES,
    decay_index,
    fit_decay,
    half_life,
    predicted_half_life,
)


def pairs(length: int) -> np.ndarray:
    return np.arange(length, 0, -1)


@given(rate=st.floats(0.02, 3.0), scale=st.floats(1e-6, 1e6))
def test_exponential_profile_gives_its_half_life_and_rate(rate, scale):
    lags = np.arange(64)
    profile = scale * np.exp(-rate * lags)
    assert half_life(profile, pairs(64)) == pytest.approx(1 + np.log(2) / rate, rel=1e-9)
    fit = fit_decay(profile, pairs(64))
    assert fit.rate == pytest.approx(rate, rel=1e-9)
    assert fit.log_scale == pytest.approx(np.log(scale), abs=1e-8)
    assert fit.r2 == pytest.approx(1.0, abs=1e-12)
    assert fit.aic_difference < -50


@given(exponent=st.floats(0.3, 3.0))
def test_power_law_is_recognised_and_its_half_life_is_two_to_the_inverse_exponent(exponent):
    lags = np.arange(400)
    profile = np.maximum(lags, 0.5) ** -exponent
    fit = fit_decay(profile, pairs(400))
    assert fit.aic_difference > 50
    # m(k) = k^-b is half of m(1) at 2^(1/b); between whole lags the log is taken as straight.
    exact = 2 ** (1 / exponent)
    assert np.floor(exact) <= half_life(profile, pairs(400)) <= np.ceil(exact)


def test_half_life_is_interpolated_in_log_m():
    # Between lag 2 (0.8) and lag 3 (0.2), log m is half-way down to 0.4 exactly in the middle.
    profile = np.array([9.0, 1.0, 0.8, 0.2, 0.1])
    assert half_life(profile, pairs(5)) == pytest.approx(2 + np.log(0.8 / 0.5) / np.log(0.8 / 0.2))
    assert half_life(np.array([1.0, 0.8, 0.8, 0.2]), pairs(4)) == pytest.approx(2.5)


def test_half_life_takes_the_first_crossing_and_a_whole_lag_where_the_profile_drops_to_zero():
    assert half_life(np.array([1.0, 1.0, 0.5, 1.0, 0.1]), pairs(5)) == 2.0
    assert half_life(np.array([1.0, 1.0, 0.9, 0.0, 0.0]), pairs(5)) == 3.0


def test_half_life_beyond_the_sequence_is_infinite_and_without_a_reference_undefined():
    assert half_life(np.full(10, 3.0), pairs(10)) == np.inf
    assert np.isnan(half_life(np.zeros(10), pairs(10)))
    assert np.isnan(half_life(np.array([1.0]), pairs(1)))
    assert np.isnan(half_life(np.array([1.0, np.nan, 0.1]), np.array([3, 0, 1])))
    assert np.isnan(half_life(np.array([1.0, 1.0, np.nan]), pairs(3)))


def test_half_life_skips_lags_without_pairs():
    profile = np.array([np.nan, 1.0, np.nan, 0.25])
    assert half_life(profile, np.array([0, 3, 0, 1])) == pytest.approx(2.0)


def test_metrics_take_leading_axes_row_by_row():
    rows = np.exp(-np.array([0.1, 0.5, 0.0])[:, None] * np.arange(40))
    together = half_life(rows, pairs(40))
    assert together.tolist() == [half_life(row, pairs(40)) for row in rows]
    fit = fit_decay(rows[None], pairs(40))
    assert fit.rate.shape == (1, 3)
    assert fit.rate[0] == pytest.approx([0.1, 0.5, 0.0], abs=1e-12)


@given(st.integers(0, 2**31))
def test_fit_is_scipys_regression_on_the_lags_that_count(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(MIN_PAIRS + 4, 60))
    profile = np.exp(-0.2 * np.arange(length) + 0.3 * rng.standard_normal(length))
    fit = fit_decay(profile, pairs(length))
    lags = np.arange(1, length - MIN_PAIRS + 1)
    line = stats.linregress(lags, np.log(profile[lags]))
    power = stats.linregress(np.log(lags), np.log(profile[lags]))
    assert fit.points == len(lags)
    assert fit.rate == pytest.approx(-line.slope)
    assert fit.log_scale == pytest.approx(line.intercept)
    assert fit.r2 == pytest.approx(line.rvalue**2, abs=1e-9)
    # Of one sample, residual sums of squares stand in the ratio of their shares of unexplained variance.
    expected = len(lags) * np.log((1 - line.rvalue**2) / (1 - power.rvalue**2))
    assert fit.aic_difference == pytest.approx(expected, abs=1e-6)


def test_fit_leaves_out_the_tail_below_the_floor():
    lags = np.arange(50)
    profile = np.exp(-1.0 * lags)
    profile[20:] = 1e-8  # rounding: flat, and below 1e-6 m(1)
    fit = fit_decay(profile, pairs(50))
    assert fit.rate == pytest.approx(1.0)
    assert fit.points == 14  # exp(-(k - 1)) > 1e-6 for k <= 14


def test_fit_needs_three_lags_and_a_profile_that_varies_for_r2():
    assert np.isnan(fit_decay(np.ones(10), pairs(10)).rate)
    flat = fit_decay(np.ones(30), pairs(30))
    assert flat.rate == 0
    assert np.isnan(flat.r2)
    assert flat.aic_difference == 0


def test_predicted_half_life_of_one_state_is_ln2_over_its_rate():
    delta = np.array([[0.1, 0.3]])  # mean 0.2
    got = predicted_half_life(np.array([[-4.0]]), delta)
    assert got == pytest.approx([np.log(2) / 0.8] * len(QUANTILES))


def test_predicted_half_life_quantiles_follow_the_distribution_over_channels_and_states():
    # Half-lives 1, 2, ..., 101 tokens: the quantiles of the rates are those of the half-lives, read
    # backwards.
    life = np.arange(1.0, 102.0)
    A = -np.log(2) / life[:, None]
    got = predicted_half_life(A, np.ones((2, 101, 5)))
    assert got.shape == (2, len(QUANTILES))
    assert got[0] == pytest.approx([1 + 100 * q for q in QUANTILES])
    assert predicted_half_life(-np.ones((1, 1)), np.zeros((1, 4)))[0] == np.inf


def test_decay_index_is_0_for_uniform_and_1_for_self_only():
    assert decay_index(np.array([4.0, 0.0, 6.0, 2.0]), np.full(4, 4.0)) == pytest.approx([0, 1, -0.5, 0.5])
    assert np.isnan(decay_index(np.zeros(1), np.zeros(1))).all()
