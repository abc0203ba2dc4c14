"""Self-attention's captures and matrices, beyond what the contract asks of every matrix."""

import numpy as np
import pytest
import torch

from analysis import reduce as r
from analysis.capture import family_of, rebuild, record
from analysis.matrix.softmax import OneSide, SoftmaxAttention
from analysis.weights import scoped
from tests.analysis.models import clip, video_model
from tests.analysis.reference import attention_matrices

CASES = {
    "class token first": {},
    "narrower than the model": {"attention_width": 9, "num_heads": 3},
    "no class token": {"class_token": "none", "attention_width": 20, "num_heads": 2},
    "causal": {"directions": "forward"},
}


def attention_model(**fields):
    return video_model("attention", **{"num_heads": 3, **fields})


@pytest.fixture(params=CASES)
def case(request):
    """A capture of layer 1 and what the layer's mixer really returned."""
    model, seen = attention_model(**CASES[request.param]), []
    handle = model.layers[1].mixer.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad(), record(model, [1]) as captures:
        model(clip())
    handle.remove()
    (capture,) = captures
    return capture, seen[0]


def test_the_layers_output_is_rebuilt(case):
    capture, out = case
    # The issue asks for 1e-10 in float64; both are sums of the same terms in another order.
    torch.testing.assert_close(rebuild([capture]), out, rtol=0, atol=1e-10)
    assert out.abs().max() > 1e-3


def test_rows_sum_to_the_output(case):
    capture, out = case
    ones = torch.ones(2, capture.v.shape[1] * capture.v.shape[3], capture.layout.length, dtype=torch.float64)
    torch.testing.assert_close(
        scoped(capture, "contribution").apply(ones), capture.output(), rtol=0, atol=1e-10
    )
    ones = torch.ones_like(out).transpose(1, 2)
    torch.testing.assert_close(scoped(capture, "mixer").apply(ones), out.transpose(1, 2), rtol=0, atol=1e-10)


def test_logits_come_before_softmax_and_mask(case):
    capture, _ = case
    P = attention_matrices(capture)["ssm"]
    s = capture.logits(slice(3, 6), slice(0, 4)).numpy()
    for i in range(3):
        for j in range(1, 4):
            assert np.allclose(np.log(P[:, :, 3 + i, j] / P[:, :, 3 + i, 0]), s[:, :, i, j] - s[:, :, i, 0])
    torch.testing.assert_close(capture.operator().logits(slice(3, 6), slice(0, 4)), torch.from_numpy(s))
    found = capture.operator().logits_at(torch.tensor([3, 5]), torch.tensor([0, 3]))
    np.testing.assert_allclose(found, s[:, :, [0, 2], [0, 3]], rtol=1e-12)


def test_reducers_run_on_attention_and_on_one_side_of_it(case):
    capture, _ = case
    P = attention_matrices(capture)["ssm"]
    W, L = P.mean(1), capture.layout.length
    reducers = [r.AbsoluteMean(), r.LagProfile(), r.RowMass(), r.Distances(), r.EffectiveContext()]
    i, j = np.indices((L, L))
    allowed = np.ones((L, L), bool) if capture.allowed is None else capture.allowed.numpy()
    sides = {None: allowed, "j<=i": allowed & (j <= i), "j>=i": allowed & (j >= i)}
    for side, seen in sides.items():
        matrix = scoped(capture, "ssm") if side is None else OneSide(scoped(capture, "ssm"), side)
        found = r.reduce(matrix, [*reducers, r.FrameMatrix()], layout=capture.layout)
        np.testing.assert_allclose(found["AbsoluteMean"], W * seen, rtol=0, atol=1e-12)
        for lag in range(L):
            pairs = seen & (abs(i - j) == lag)
            assert found["LagProfile"].counts[lag] == pairs.sum()
            if pairs.any():
                np.testing.assert_allclose(
                    found["LagProfile"].mean[:, lag], W[:, pairs].mean(1), rtol=1e-10, atol=0
                )
        share = W * seen / (W * seen).sum(-1, keepdims=True)
        np.testing.assert_allclose(
            found["Distances"].token, (share * abs(i - j)).sum(-1).mean(-1), rtol=1e-10, atol=0
        )
        uniform = (seen * abs(i - j)).sum(-1) / seen.sum(-1)
        np.testing.assert_allclose(found["Distances"].uniform_token, uniform.mean(), rtol=1e-10, atol=0)


def test_captures_of_another_hidden_are_those_of_that_input():
    """A token of the mixer's input changed moves only that token's query, key and value."""
    model = attention_model()
    with torch.no_grad(), record(model, [2]) as captures:
        model(clip())
    changed = captures[0].hidden.clone()
    changed[:, 4] = changed[:, 7]
    with torch.no_grad():
        (again,) = family_of(model).captures(model, 2, changed)
    same = [t for t in range(changed.shape[1]) if t != 4]
    for name in ("q", "k", "v"):
        before, after = getattr(captures[0], name), getattr(again, name)
        assert torch.equal(before[:, :, same], after[:, :, same])
        assert torch.equal(after[:, :, 4], before[:, :, 7])


def test_rows_may_see_no_key_or_average_softmaxes_over_sets():
    g = torch.Generator().manual_seed(2)
    q, k = (torch.randn(1, 2, 5, 3, dtype=torch.float64, generator=g) for _ in range(2))
    allowed = torch.ones(5, 5, dtype=torch.bool)
    allowed[3] = False
    sets = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 1, 1]], dtype=torch.bool)
    matrix = SoftmaxAttention(q, k, 0.7, allowed, (0,), sets)
    s = (0.7 * q @ k.transpose(-1, -2)).numpy()[0]
    dense = matrix.dense()[0].numpy()
    assert (dense[:, 3] == 0).all()
    for h in range(2):
        one, two = np.exp(s[h, 0, [0, 1, 2]]), np.exp(s[h, 0, [0, 3, 4]])
        one, two = one / one.sum(), two / two.sum()
        expected = [(one[0] + two[0]) / 2, one[1] / 2, one[2] / 2, two[1] / 2, two[2] / 2]
        np.testing.assert_allclose(dense[h, 0], expected, rtol=1e-12, atol=0)
        np.testing.assert_allclose(dense[h, 1], np.exp(s[h, 1]) / np.exp(s[h, 1]).sum(), rtol=1e-12, atol=0)
    first, last = matrix.allowed()
    assert (first.tolist(), last.tolist()) == ([0, 0, 0, 5, 0], [4, 4, 4, -1, 4])


def test_large_logits_do_not_overflow():
    q = torch.tensor([[[[60.0], [-60.0]]]])
    matrix = SoftmaxAttention(q, q, 1.0)
    assert torch.equal(matrix.dense()[0, 0], torch.eye(2))


def test_refusals():
    model = attention_model()
    with torch.no_grad(), record(model) as captures:
        model(clip())
    with pytest.raises(
        ValueError, match=r"layer 0 both, layer 1 both.*wanted each direction .* or one self-"
    ):
        rebuild(captures[:2])
    model = video_model("videomamba", mask_backward=True)
    with torch.no_grad(), record(model, [0]) as scans:
        model(clip())
    with pytest.raises(ValueError, match="a backward scan has one side already"):
        OneSide(scans[1].operator(), "j<=i")
