"""The compiled strips against `weigh`, which the other tests hold against the definition."""

import pytest
import torch

from analysis.capture import record
from analysis.implicit import ImplicitAttention
from analysis.matrix import strips as compiled
from analysis.weights import SCOPES, scoped
from tests.analysis.models import VARIANTS, clip, video_model
from tests.analysis.reference import OPTIONS, terms

R = compiled.ROWS


def whole(matrix):
    """W and the mean of M from all strips, every row poisoned until one brings it."""
    L = matrix.length
    weight = torch.full((matrix.batch, L, L), torch.nan, dtype=matrix.dtype)
    mean = weight.clone()
    for rows, w, m in compiled.strips(matrix, signed=True):
        assert torch.isnan(weight[:, rows]).all(), "a row came twice"
        weight[:, rows], mean[:, rows] = w, m
    return weight, mean


def agree(matrix):
    L = matrix.length
    for got, want in zip(whole(matrix), matrix.weigh(slice(0, L), slice(0, L), signed=True), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("length", "states"), [(1, 4), (R - 1, 8), (R, 1), (R + 1, 9), (2 * R + 37, 4)])
def test_options_lengths_and_states(options, length, states):
    t, _, _ = terms(length, D=3, N=states, L=length)
    agree(ImplicitAttention(**t, **options))


@pytest.mark.parametrize("groups", [3, "constant"])
def test_groups(groups):
    t, _, _ = terms(2, D=6, L=R + 20, groups=groups)
    agree(ImplicitAttention(**t, residual="elemental", reverse=True))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("variant", "fields"),
    [(v, {}) for v in VARIANTS]
    + [
        ("paper", {"shared_projections": True}),
        ("released", {"shared_projections": False}),
        ("videomamba", {"d_conv": 2, "halve_output": True, "class_token": "middle"}),
        ("videomamba", {"d_conv": 10}),
    ],
    ids=str,
)
def test_scopes_of_models(scope, variant, fields):
    model = video_model(variant, num_frames=67, **fields)
    with torch.no_grad(), record(model, [1]) as captures:
        model(clip(frames=67))
    assert captures[0].terms.x.shape[-1] > 2 * R
    for capture in captures:
        agree(scoped(capture, scope))


def test_threads_change_no_bit():
    t, _, _ = terms(4, D=20, L=R + 50)
    matrix = ImplicitAttention(**t)
    before, threads = whole(matrix), torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        after = whole(matrix)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_float32_stays_float32_and_finite_under_steep_decay():
    t, _, _ = terms(6, D=4, N=16, L=3 * R, scale=30.0)
    single = {name: value.float() for name, value in t.items()}
    weight, _ = whole(ImplicitAttention(**single))
    exact, _ = ImplicitAttention(**{k: v.double() for k, v in single.items()}).weigh(
        slice(0, 3 * R), slice(0, 3 * R)
    )
    assert weight.dtype == torch.float32
    assert torch.isfinite(weight).all()
    assert (weight - exact).abs().max() / exact.max() < 1e-6
