"""Resamples and intervals against enumeration and the normal interval."""

import numpy as np
import pytest

from analysis.intervals import percentile_interval, resample_weights


def test_resampled_means_are_means_over_drawn_clips():
    values = np.array([1.0, 2.0, 4.0])
    weights = resample_weights(3, 500, seed=1)
    assert weights.shape == (500, 3)
    assert weights.sum(1) == pytest.approx(1)
    drawn = np.round(weights * 3)
    assert np.allclose(weights * 3, drawn)
    possible = {round((a + b + c) / 3, 9) for a in values for b in values for c in values}
    assert {round(v, 9) for v in weights @ values} == possible
    assert np.array_equal(weights, resample_weights(3, 500, seed=1))
    assert not np.array_equal(weights, resample_weights(3, 500, seed=2))


def test_bootstrap_interval_of_a_mean_covers_like_the_normal_one():
    values = np.random.default_rng(0).standard_normal(200)
    low, high, undefined = percentile_interval(resample_weights(200, 4000, seed=0) @ values)
    spread = 1.96 * values.std() / np.sqrt(200)
    assert undefined == 0
    assert low == pytest.approx(values.mean() - spread, abs=0.15 * spread)
    assert high == pytest.approx(values.mean() + spread, abs=0.15 * spread)


def test_interval_is_by_order_statistics_so_infinite_and_undefined_draws_are_legal():
    draws = np.arange(1000.0)
    low, high, _ = percentile_interval(draws)
    assert (low, high) == (24.0, 975.0)
    low, high, _ = percentile_interval(np.where(draws >= 900, np.inf, draws))
    assert (low, high) == (24.0, np.inf)
    low, high, undefined = percentile_interval(np.where(draws < 500, np.nan, draws))
    assert (low, high, undefined) == (512.0, 987.0, 0.5)
    low, high, undefined = percentile_interval(np.full((10, 2), np.nan))
    assert np.isnan(low).all()
    assert np.isnan(high).all()
    assert undefined.tolist() == [1, 1]
