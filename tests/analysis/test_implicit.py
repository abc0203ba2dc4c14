import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import implicit
from analysis.implicit import ImplicitAttention
from tests.analysis.reference import impulse_matrix, recurrence

OPTIONS = [
    {"residual": residual, "mask_diagonal": mask, "reverse": reverse, "masked_first_step": first}
    for residual in ("none", "initial", "elemental")
    for mask in (False, True)
    for reverse in (False, True)
    for first in (("carry", "skip_only") if mask else ("carry",))
]


def terms(seed, batch=2, D=3, N=4, L=37, groups=None, scale=1.0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    delta = scale * torch.rand(batch, D, L, generator=g, dtype=torch.float64)
    A = -torch.rand(D, N, generator=g, dtype=torch.float64) * 4
    if groups == "constant":
        B, C = normal(D, N), normal(D, N)
    elif groups is None:
        B, C = normal(batch, N, L), normal(batch, N, L)
    else:
        B, C = normal(batch, groups, N, L), normal(batch, groups, N, L)
    return {"delta": delta, "A": A, "B": B, "C": C}, normal(batch, D, L), normal(D)


def expected(t, options, clip):
    def per_channel(x):
        D, N = t["A"].shape
        if x.shape == (D, N):
            return np.broadcast_to(x.numpy()[..., None], (D, N, t["delta"].shape[-1]))
        x = x[clip].numpy()
        return x if x.ndim == 2 else np.repeat(x, D // x.shape[0], axis=0)

    return impulse_matrix(
        t["delta"][clip].numpy(),
        t["A"].numpy(),
        per_channel(t["B"]),
        per_channel(t["C"]),
        residual=options["residual"],
        mask=options["mask_diagonal"],
        reverse=options["reverse"],
        skip_first=options["masked_first_step"] == "skip_only",
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("length", [1, 2, implicit.LEAF - 1, implicit.LEAF, implicit.LEAF + 1, 53])
def test_dense_is_the_response_to_units(options, length):
    t, u, D = terms(length, L=length)
    matrix = ImplicitAttention(**t, D=D, **options)
    dense = matrix.dense()
    for clip in range(2):
        np.testing.assert_allclose(dense[clip].numpy(), expected(t, options, clip), rtol=1e-12, atol=1e-13)
    y = torch.einsum("bdij,bdj->bdi", dense, u) + D[:, None] * u
    torch.testing.assert_close(matrix.apply(u), y, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_columns_and_tiles_are_parts_of_the_dense_matrix(options):
    t, _, D = terms(3, L=41)
    matrix = ImplicitAttention(**t, D=D, **options)
    dense = torch.stack([torch.from_numpy(expected(t, options, clip)) for clip in range(2)])
    for i in (0, 1, 17, 39, 40, -1):
        torch.testing.assert_close(matrix.row(i), dense[:, :, i], rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(matrix.column(i), dense[..., i], rtol=1e-11, atol=1e-13)
    for rows, columns in [
        (slice(0, 41), slice(0, 7)),
        (slice(5, 9), slice(0, 41)),
        (slice(20, 41), slice(3, 35)),
        (slice(3, 35), slice(20, 41)),
        (slice(4, 4), slice(2, 9)),
    ]:
        tile = matrix.tile(rows, columns, slice(1, 3))
        torch.testing.assert_close(tile, dense[:, 1:3, rows, columns], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("groups", [1, 3, "constant"])
@pytest.mark.parametrize("reverse", [False, True])
def test_groups_and_constant_maps(groups, reverse):
    t, _, _ = terms(5, D=6, L=20, groups=groups)
    options = {**OPTIONS[0], "reverse": reverse}
    matrix = ImplicitAttention(**t, **options)
    want = torch.stack([torch.from_numpy(expected(t, options, clip)) for clip in range(2)])
    torch.testing.assert_close(matrix.dense(), want, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(matrix.row(11), want[:, :, 11], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(matrix.column(11), want[..., 11], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_beta_is_the_answer_to_the_initial_state(mask, reverse):
    t, u, D = terms(7, L=23)
    h0 = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = ImplicitAttention(**t, D=D, h0=h0, mask_diagonal=mask, reverse=reverse)
    for clip in range(2):
        want = recurrence(
            np.zeros((3, 23)),
            t["delta"][clip].numpy(),
            t["A"].numpy(),
            t["B"][clip].numpy(),
            t["C"][clip].numpy(),
            h0=h0[clip].numpy(),
            mask=mask,
            reverse=reverse,
        )
        np.testing.assert_allclose(matrix.beta()[clip].numpy(), want, rtol=1e-12, atol=1e-13)
    whole = torch.einsum("bdij,bdj->bdi", matrix.dense(), u) + matrix.beta() + D[:, None] * u
    torch.testing.assert_close(matrix.apply(u), whole, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weigh_is_the_mean_over_channels_and_structure_says_where_it_may_differ_from_zero(options):
    t, _, _ = terms(11, D=5, L=40)
    matrix = ImplicitAttention(**t, **options)
    dense = torch.stack([torch.from_numpy(expected(t, options, clip)) for clip in range(2)])
    weight, mean = matrix.weigh(slice(7, 33), slice(0, 40), signed=True)
    torch.testing.assert_close(weight, dense.abs().mean(1)[:, 7:33], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(mean, dense.mean(1)[:, 7:33], rtol=1e-11, atol=1e-13)
    first, last = matrix.allowed()
    keys = torch.arange(40)
    allowed = (keys >= first[:, None]) & (keys <= last[:, None])
    assert torch.equal(dense.abs().amax((0, 1)) > 0, allowed)


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
    np.testing.assert_allclose(dense[0].numpy(), expected(t, options, 0), rtol=1e-10, atol=1e-12)


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
    matrix = ImplicitAttention(**t)
    with pytest.raises(MemoryError, match=r"B=2, D=3, L=40.*max_bytes allows"):
        matrix.dense(max_bytes=1000)
    with pytest.raises(IndexError, match="row 40 is outside a matrix of 40 tokens"):
        matrix.row(40)
    with pytest.raises(IndexError, match=r"columns: .* within 0\.\.40"):
        matrix.tile(slice(0, 4), slice(0, 41))
    with pytest.raises(ValueError, match="residual: 'both' is none of"):
        ImplicitAttention(**t, residual="both")
    with pytest.raises(ValueError, match="h0 together with residual"):
        ImplicitAttention(**t, residual="initial", h0=torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"B: shape \(2, 4, 39\); wanted"):
        ImplicitAttention(**{**t, "B": t["B"][..., 1:]})
