"""Distributions, ranks and contradictory mass on matrices whose answers are known."""

import numpy as np
import pytest
import torch

from analysis.contradiction.entries import Entries
from analysis.contradiction.metrics import (
    BINS,
    contradictory_mass,
    effective_rank,
    histogram,
    log_change,
    transitivity_residual,
    weighted_mean,
    weighted_quantiles,
)
from analysis.contradiction.triples import draw_mediators, draw_triples, octaves, related_triples
from tests.analysis.contradiction import naive

L = 40
LAG = np.subtract.outer(np.arange(L), np.arange(L))
CAUSAL, FULL = LAG >= 0, np.ones((L, L), dtype=bool)


def tokens(seed=0):
    unit = np.random.default_rng(seed).standard_normal((L, 6))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("sees", [CAUSAL, FULL, CAUSAL.T])
@pytest.mark.parametrize("rate", [0.0, 0.05, 1.0])
def test_a_matrix_of_lag_alone_has_mass_1(sees, rate):
    # Neighbours are alike, so that the least similar keys are far: decay must not pass for contradiction.
    similarity = -np.abs(LAG) + 0.1 * tokens()
    found = contradictory_mass(np.exp(-rate * np.abs(LAG)), sees, similarity)
    assert found.observed / found.expected == pytest.approx(1, abs=1e-9)
    assert found.blind == pytest.approx(found.share, abs=1e-9)
    # Whatever each row's scale.
    scaled = np.exp(-rate * np.abs(LAG)) * np.linspace(1, 50, L)[:, None]
    again = contradictory_mass(scaled, sees, similarity)
    assert again.expected == pytest.approx(found.expected, rel=1e-9)


@pytest.mark.parametrize(("sign", "above"), [(-1, True), (1, False)])
def test_weight_on_the_unlike_is_above_1_and_on_the_alike_below(sign, above):
    similarity = tokens()
    found = contradictory_mass(np.exp(sign * 3 * similarity - 0.1 * np.abs(LAG)), CAUSAL, similarity)
    ratio = found.observed / found.expected
    assert ratio > 1.5 if above else ratio < 0.5
    assert np.nanmedian(found.rows) > 1 if above else np.nanmedian(found.rows) < 1


@pytest.mark.parametrize("sees", [CAUSAL, FULL])
def test_mass_is_its_definition_and_its_expectation_that_of_shuffles(sees):
    rng = np.random.default_rng(1)
    similarity = tokens(1)
    W = rng.exponential(size=(L, L)) * np.exp(-0.1 * np.abs(LAG))
    found = contradictory_mass(W, sees, similarity)
    assert (found.observed, found.expected) == pytest.approx(naive.mass(W, sees, similarity), rel=1e-9)
    # U = P T, shuffled among pairs of equal lag: T is what turns the blind matrix into one of lag alone.
    keys = np.where(sees, found.blind, np.nan)
    T = np.ones(L)
    for i in range(1, L):
        T[i] = T[i - 1] * keys[i - 1, i - 1] / keys[i, i]
    assert np.ptp((keys * T[:, None])[LAG == 3]) < 1e-9
    counted = found.least.sum(1) > 0
    shares = []
    for _ in range(800):
        shuffled = np.zeros((L, L))
        for lag in range(-L + 1, L):
            at = (lag == LAG) & sees
            shuffled[at] = rng.permutation((found.share * T[:, None])[at])
        shares.append((found.least * shuffled / T[:, None]).sum(1)[counted].mean())
    # T is known up to a factor, which leaves the rows' sums: one on average.
    factor = (found.share * T[:, None]).sum() / (found.blind * T[:, None]).sum()
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) / factor == pytest.approx(found.expected, abs=5 * error + 1e-6)


def test_ties_share_what_is_left_of_the_quarter():
    similarity = np.zeros((L, L))
    found = contradictory_mass(np.ones((L, L)), FULL, similarity)
    assert found.least == pytest.approx(np.full((L, L), 0.25))
    assert found.observed == pytest.approx(0.25)


def test_rows_without_weight_or_four_keys_are_left_out():
    W = np.ones((L, L)) * CAUSAL
    W[20] = 0
    found = contradictory_mass(W, CAUSAL, tokens())
    assert np.isnan(found.rows[[0, 1, 2, 20]]).all()
    assert np.isfinite(np.delete(found.rows, [0, 1, 2, 20])).all()
    short = contradictory_mass(W[:3, :3], CAUSAL[:3, :3], tokens()[:3, :3])
    assert np.isnan(short.observed)


def test_effective_rank_of_known_spectra():
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])).item() == pytest.approx(3)
    assert effective_rank(torch.tensor([5.0, 0.0])).item() == pytest.approx(1)
    assert effective_rank(torch.tensor([3.0, 1.0])).item() == pytest.approx(4 / 3**0.75)
    assert np.isnan(effective_rank(torch.zeros(3)).item())


def entry(values):
    x = torch.tensor([values], dtype=torch.float64)
    return Entries(x.sign(), x.abs().log())


def test_residual_and_log_change_of_single_numbers():
    got = transitivity_residual(
        entry([2.0, 2.0, 0.0, 0.0, 1e-200]),
        entry([3.0, 3.0, 1.0, 1.0, 1e-200]),
        entry([6.0, -1.0, 1.0, 0.0, 1e-200]),
        entry([1.0, 2.0, 1.0, 1.0, 3e-200]),
    )
    assert got[0, :3].tolist() == pytest.approx([0, 1, 1], abs=1e-15)
    assert np.isnan(got[0, 3].item())
    assert got[0, 4].item() == pytest.approx(0.5)  # Both products lie below the smallest float64.
    change = log_change(entry([1.0, -2.0, 0.0, 1.0]), entry([np.e, 1.0, 1.0, 0.0]))
    assert change[0, :2].tolist() == pytest.approx([1, -np.log(2)])
    assert change[0, 2:].isnan().all()


def test_weighted_means_quantiles_and_histograms_are_those_of_repeated_values():
    rng = np.random.default_rng(0)
    values, times = rng.random((3, 50)), rng.integers(1, 6, 50)
    values[0, :7] = np.nan
    repeated = np.repeat(values, times, axis=1).ravel()
    kept = np.sort(repeated[~np.isnan(repeated)])
    x, w = torch.from_numpy(values), torch.from_numpy(times).double()
    mean, left_out = weighted_mean(x, w)
    assert mean == pytest.approx(kept.mean())
    assert left_out == pytest.approx(1 - len(kept) / len(repeated))
    expected = [kept[int(np.ceil(q * len(kept) - 1e-9)) - 1] for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
    assert weighted_quantiles(x, w).tolist() == expected
    counts = np.histogram(kept, BINS, (0, 1))[0] / len(kept)
    assert histogram(x, w) == pytest.approx(counts)
    assert np.isnan(weighted_mean(x[:1, :7], w[:7])[0])
    assert np.isnan(weighted_quantiles(x[:1, :7], w[:7])).all()


@pytest.mark.parametrize(("length", "margin"), [(3, 1), (9, 4), (30, 4), (33, 1)])
def test_triples_stand_for_all_there_are(length, margin):
    rng = np.random.default_rng(0)
    drawn = draw_triples(length, margin, draw_mediators(length, margin, length, rng), 5, rng)
    i, j, k, other = drawn.row, drawn.mediator, drawn.column, drawn.other
    assert bool(((k >= 0) & (i < length) & (i - j >= margin) & (j - k >= margin)).all())
    assert bool(((other >= 0) & (other <= i) & (other != k) & ((other - j).abs() >= margin)).all())
    counted = np.zeros(octaves(length))
    for a in range(length):
        for b in range(a - margin + 1):
            for c in range(b - margin + 1):
                counted[int(np.log2(a - c))] += 1
    for octave, there in enumerate(counted):
        assert float(drawn.weight[drawn.octave == octave].sum()) == pytest.approx(there)


def test_a_sequence_too_short_has_no_triples():
    rng = np.random.default_rng(0)
    assert len(draw_mediators(8, 4, 16, rng)) == 0
    assert len(draw_triples(8, 4, draw_mediators(8, 4, 16, rng), 5, rng).row) == 0
    assert [octaves(n) for n in (0, 1, 2, 3, 5, 65)] == [0, 0, 1, 2, 3, 7]


def test_triples_of_a_divided_attention_are_those_that_it_relates():
    frame, place = np.divmod(np.arange(12), 3)
    rng = np.random.default_rng(0)
    for group in (frame, place):
        allowed = group[:, None] == group
        allowed[5, 5] = False  # A token that is no part of it has no triple as a mediator.
        drawn = related_triples(torch.from_numpy(allowed), np.arange(12), 200, rng)
        found = {tuple(t) for t in torch.stack([drawn.row, drawn.mediator, drawn.column], 1).tolist()}
        every = {
            (i, j, k)
            for i in range(12)
            for j in range(i)
            for k in range(j)
            if group[i] == group[j] == group[k] and j != 5
        }
        assert found == every
        for j in range(12):
            there = sum(triple[1] == j for triple in every)
            assert float(drawn.weight[drawn.mediator == j].sum()) == pytest.approx(there)
    nothing = related_triples(torch.eye(12, dtype=torch.bool), np.arange(12), 4, rng)
    assert len(nothing.row) == 0
