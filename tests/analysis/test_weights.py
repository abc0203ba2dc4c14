import pytest
import torch
from torch.nn import functional as F

from analysis.capture import record
from analysis.weights import normalise, scoped
from tests.analysis.models import VARIANTS, clip, video_model

CASES = {v: {} for v in VARIANTS} | {
    "vim": {"variant": "videomamba", "halve_output": True, "class_token": "middle"},
    "no bias": {"variant": "paper", "conv_bias": False},
    "shared and convolved": {"variant": "paper", "shared_projections": True},
    "released with its own projections": {"variant": "released", "shared_projections": False},
}


@pytest.fixture(params=CASES)
def case(request):
    """Captures of one layer, and H of each direction built densely from its definition."""
    fields = dict(CASES[request.param])
    model = video_model(fields.pop("variant", request.param), num_frames=9, **fields)
    with torch.no_grad(), record(model, [1]) as captures:
        model(clip(frames=9))
    return captures


def definition(c):
    """diag(silu z) (alpha + D I) diag(sigmoid v) K and its bias term, (B, D, L, L) and (B, D, L)."""
    _, D, L = c.terms.x.shape
    K = torch.zeros(D, L, L, dtype=torch.float64)
    width = c.terms.conv_weight.shape[1]
    for i in range(L):
        for tap in range(width):
            j = i + tap if c.terms.conv_reversed else i - tap
            if 0 <= j < L:
                K[:, i, j] = c.terms.conv_weight[:, width - 1 - tap]
    b = torch.zeros(D, dtype=torch.float64) if c.terms.conv_bias is None else c.terms.conv_bias
    slope = torch.sigmoid(torch.einsum("dij,bdj->bdi", K, c.terms.x) + b[:, None])
    if c.terms.scan_input == "projected":
        K, slope, b = torch.eye(L, dtype=torch.float64).expand(D, L, L), torch.ones_like(c.terms.x), 0 * b
    skip = 0 * b if c.terms.D is None else c.terms.D
    scan = c.operator().dense() + torch.diag_embed(skip[:, None].expand(D, L))
    left = c.terms.scale * F.silu(c.terms.z)[..., None] * scan
    return left @ (slope[..., None] * K), (left @ (slope * b[:, None])[..., None])[..., 0]


def test_mixer_matrix_is_its_definition(case):
    for c in case:
        H, bias = definition(c)
        matrix = scoped(c, "mixer")
        torch.testing.assert_close(matrix.dense(), H, rtol=0, atol=1e-12)
        torch.testing.assert_close(matrix.bias_term(), bias, rtol=0, atol=1e-12)
        for rows, columns in [
            (slice(9, 24), slice(0, 37)),
            (slice(20, 37), slice(2, 21)),
            (slice(0, 5), slice(3, 30)),
        ]:
            torch.testing.assert_close(matrix.tile(rows, columns), H[..., rows, columns], rtol=0, atol=1e-12)


def test_mixer_identity(case):
    """H x + bias term, over directions, is the mixer's output before its last projection."""
    for c in case:
        matrix = scoped(c, "mixer")
        share = torch.einsum("bdij,bdj->bdi", matrix.dense(), c.terms.x) + matrix.bias_term()
        torch.testing.assert_close(share, c.output(), rtol=0, atol=1e-10)


def test_contribution_is_the_norm_of_the_vectors(case):
    for c in case:
        H, bias = definition(c)
        vectors = H * c.terms.x[:, :, None]
        matrix = scoped(c, "contribution")
        L = c.terms.x.shape[-1]
        weight, _ = matrix.weigh(slice(0, L), slice(0, L))
        torch.testing.assert_close(weight, vectors.norm(dim=1), rtol=0, atol=1e-12)
        torch.testing.assert_close(matrix.dense().sum(-1) + bias, c.output(), rtol=0, atol=1e-10)
        after = torch.einsum("md,bdij->bmij", c.out_weight, vectors).norm(dim=1)
        projected, _ = scoped(c, "contribution", project=True).weigh(slice(0, L), slice(0, L))
        torch.testing.assert_close(projected, after, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scope", ["ssm", "mixer", "contribution"])
def test_structure_says_which_keys_a_row_may_see(case, scope):
    for c in case:
        matrix = scoped(c, scope)
        first, last = matrix.allowed()
        keys = torch.arange(matrix.length)
        allowed = (keys >= first[:, None]) & (keys <= last[:, None])
        met = matrix.dense().abs().amax((0, 1)) > 0
        assert torch.equal(met, allowed)


def test_rows_divide_by_their_sums_and_empty_rows_are_marked():
    share, valid = normalise(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    assert share.tolist() == [[0.25, 0.75], [0.0, 0.0]]
    assert valid.tolist() == [True, False]


def test_refusals(case):
    with pytest.raises(ValueError, match="scope: 'softmax' is none of ssm, mixer, contribution"):
        scoped(case[0], "softmax")
    with pytest.raises(ValueError, match="project=True measures contributions"):
        scoped(case[0], "mixer", project=True)
