"""The scan's matrix beyond what the contract asks of every matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.implicit import ImplicitAttention
from tests.analysis.reference import OPTIONS, alpha, terms


def test_steep_decay_does_not_overflow():
    """A = -16 and delta = 0.1 break exp(A S_i) exp(-A S_j) formed apart after 29 tokens in float32."""
    L = 300
    t = {
        "delta": torch.full((1, 1, L), 0.1),
        "A": torch.tensor([[-16.0]]),
        "B": torch.ones(1, 1, L),
        "C": torch.ones(1, 1, L),
    }
    dense = ImplicitAttention(**t).dense()
    lag = torch.arange(L)[:, None] - torch.arange(L)
    want = torch.where(lag >= 0, 0.1 * torch.exp(-1.6 * lag.clamp(min=0).double()), 0.0)
    torch.testing.assert_close(dense[0, 0].double(), want, rtol=2e-5, atol=1e-37)
    assert torch.isfinite(dense).all()


@given(seed=st.integers(0, 2**31), length=st.integers(1, 70), scale=st.sampled_from([0.0, 1e-3, 1.0, 50.0]))
def test_any_scan(seed, length, scale):
    options = OPTIONS[seed % len(OPTIONS)]
    t, _, _ = terms(seed, batch=1, D=2, N=1 + seed % 5, L=length, scale=scale)
    dense = ImplicitAttention(**t, **options).dense()
    np.testing.assert_allclose(dense, alpha(t, options), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_token_and_two(options, length):
    """The contract needs longer sequences."""
    t, u, D = terms(length, L=length)
    matrix, dense = ImplicitAttention(**t, D=D, **options), alpha(t, options)
    np.testing.assert_allclose(matrix.dense(), dense, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        matrix.apply(u),
        np.einsum("bdij,bdj->bdi", dense, u) + (D[:, None] * u).numpy(),
        rtol=1e-11,
        atol=1e-12,
    )
    for i in range(length):
        np.testing.assert_allclose(matrix.row(i), dense[:, :, i], rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(matrix.column(i), dense[..., i], rtol=1e-11, atol=1e-13)


def test_entries_of_a_batch_or_of_other_pairs_change_no_bit():
    t, _, _ = terms(3, L=41)
    rows, columns = torch.tensor([40, 7, 9, 0]), torch.tensor([3, 7, 20, 0])
    whole = ImplicitAttention(**t).entries(rows, columns)
    for clip in range(2):
        one = {name: x if name == "A" else x[clip : clip + 1] for name, x in t.items()}
        for p in range(4):
            found = ImplicitAttention(**one).entries(rows[p : p + 1], columns[p : p + 1])
            assert torch.equal(found.log[0, :, 0], whole.log[clip, :, p])
            assert torch.equal(found.sign[0, :, 0], whole.sign[clip, :, p])


def test_a_pair_that_is_asked_for_again_is_the_same():
    t, _, _ = terms(3, L=41)
    rows, columns = torch.tensor([40, 7, 40, 9, 40, -1]), torch.tensor([3, 7, 3, 20, 0, 3])
    found = ImplicitAttention(**t).entries(rows, columns)
    expected = alpha(t, {})[:, :, rows, columns]
    np.testing.assert_allclose(found.sign * found.log.exp(), expected, rtol=1e-12, atol=1e-13)
    for again in (2, 5):
        assert torch.equal(found.log[..., again], found.log[..., 0])


def test_float32_follows_float64():
    t, _, _ = terms(13, L=200)
    single = ImplicitAttention(**{k: v.float() for k, v in t.items()}, residual="elemental").dense().double()
    exact = ImplicitAttention(**{k: v.float().double() for k, v in t.items()}, residual="elemental").dense()
    assert ((single - exact).abs().max() / exact.abs().max()).item() < 1e-6


def test_an_empty_sequence_has_an_empty_matrix():
    t, u, D = terms(1, L=0)
    matrix = ImplicitAttention(**t, D=D)
    assert matrix.dense().shape == (2, 3, 0, 0)
    assert matrix.apply(u).shape == (2, 3, 0)


def test_refusals():
    t, _, _ = terms(1, L=40)
    with pytest.raises(ValueError, match="residual: 'both' is none of"):
        ImplicitAttention(**t, residual="both")
    with pytest.raises(ValueError, match="masked_first_step: 'stop' is neither"):
        ImplicitAttention(**t, masked_first_step="stop")
    with pytest.raises(ValueError, match="h0 together with residual"):
        ImplicitAttention(**t, residual="initial", h0=torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"B: shape \(2, 4, 39\); wanted"):
        ImplicitAttention(**{**t, "B": t["B"][..., 1:]})
