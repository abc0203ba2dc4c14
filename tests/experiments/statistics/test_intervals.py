"""Intervals over seeds: Student's closed form, coverage in simulated grids, gaps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics.intervals import seed_interval

VALUES = st.floats(-1, 1).map(lambda value: round(value, 3))


@given(st.lists(VALUES, min_size=2, max_size=8).filter(lambda values: np.ptp(values) > 0))
def test_one_stratum_is_students_interval(values):
    found = seed_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    np.testing.assert_allclose(
        [found.low, found.high, found.sd], [low, high, np.std(values, ddof=1)], atol=1e-12
    )
    assert found.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert found.n == len(values)


@given(
    *(st.lists(VALUES, min_size=2, max_size=5).filter(lambda values: np.ptp(values) > 0) for _ in range(2))
)
def test_two_strata_are_welchs_test(one, other):
    # Half the sum of two means, the second with its sign turned, is half of what Welch's test compares.
    found = seed_interval([*one, *other], [0] * len(one) + [1] * len(other))
    welch = stats.ttest_ind(one, [-value for value in other], equal_var=False)
    assert found.p_value == pytest.approx(welch.pvalue)
    interval = welch.confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], [interval.low / 2, interval.high / 2], atol=1e-12)


def test_three_seeds_reach_2_48_standard_deviations():
    found = seed_interval([0.5, 0.6, 0.7])
    assert (found.high - found.value) / found.sd == pytest.approx(2.484, abs=1e-3)


@given(st.lists(st.tuples(VALUES, st.sampled_from("abc")), min_size=1, max_size=12), st.randoms())
def test_order_changes_no_bit(rows, random):
    shuffled = random.sample(rows, len(rows))
    one, other = (seed_interval(*map(list, zip(*table, strict=True))) for table in (rows, shuffled))
    assert repr(one) == repr(other)


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_sign_turns_the_interval(values):
    one, other = seed_interval(values), seed_interval([-value for value in values])
    # Sums run from the least value on, and so the other way round: equal but for rounding.
    np.testing.assert_allclose(
        [one.value, one.low, one.high], [-other.value, -other.high, -other.low], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("strata", "spread"), [(1, (1.0,)), (4, (1.0, 1.0, 1.0, 1.0)), (3, (0.1, 0.1, 3.0))])
def test_three_seeds_cover_the_truth_19_times_of_20(strata, spread):
    rng = np.random.default_rng(0)
    keys = np.repeat(np.arange(strata), 3)
    held = 0
    for _ in range(1000):
        found = seed_interval(0.2 + rng.normal(size=3 * strata) * np.repeat(spread, 3), list(keys))
        held += found.low <= 0.2 <= found.high
    # Of 1000 draws, a share of 0.95 lies within 0.93 and 0.97 but for 4 in 1000; unequal variances may cover more.
    assert 0.93 <= held / 1000 <= (0.97 if len(set(spread)) == 1 and strata == 1 else 1)


def test_gaps_are_said():
    assert seed_interval([]).note == "no values"
    assert seed_interval([float("nan"), 0.5]).note == "one seed: no interval"
    assert seed_interval([0.5, 0.6, 0.7], [0, 0, 1]).note == "a base with one seed: no interval"
    equal = seed_interval([0.25] * 3)
    assert (equal.value, equal.note) == (0.25, "all seeds equal: no interval")
    for found in (seed_interval([]), seed_interval([0.5]), equal):
        assert np.isnan([found.low, found.high, found.p_value]).all()
