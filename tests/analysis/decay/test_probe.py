"""What decay makes of each clip, against loops over dense matrices, one entry at a time."""

from functools import cache

import numpy as np
import pytest
import torch

import analysis
from analysis.capture import record
from analysis.decay.metrics import SIDE, block_mean, block_size, layers_to_draw
from tests.analysis.models import clip, video_model


@cache
def probed(variant, scope, **fields):
    """The model, two clips, and decay of its second layer."""
    model = video_model(variant, depth=2, image_size=8, patch_size=4, **fields)
    return (
        model,
        clip(2),
        analysis.probe(model, clip(2), ["decay"], layers=[1], scopes=[scope], resamples=100),
    )


def kept(result, name, direction):
    """An array of `per_clip` with the axis of clips first."""
    found = result.data[f"decay.{name}"].sel(direction=direction).squeeze(("model", "layer", "scope"))
    return found.transpose("clip", ...).values


def dense_weights(model, sample, layer, direction):
    """W of scope ssm, each entry the mean over channels of abs(alpha), from the sum over states as written."""
    with torch.no_grad(), record(model, layers=[layer]) as captures:
        model(sample[None])
    c = captures[layer, direction]
    delta, A, B, C = (t.numpy() for t in (c.terms.delta[0], c.terms.A, c.terms.B[0], c.terms.C[0]))
    length = delta.shape[1]
    W = np.zeros((length, length))
    for i in range(length):
        for j in range(i + 1) if direction == "forward" else range(i, length):
            if i == j and c.terms.mask_diagonal:
                continue
            # Between j and i the state decays by the steps after j, the residual by j's own step as well.
            steps = range(j + 1, i + 1) if direction == "forward" else range(i, j)
            lag = delta[:, list(steps)].sum(1)
            own = delta[:, j, None] * B[:, j] + np.exp(A * delta[:, j, None])
            W[i, j] = np.abs((C[:, i] * np.exp(A * lag[:, None]) * own).sum(1)).mean()
    return W, np.log(2) / (np.abs(A) * delta.mean(1)[:, None])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_clips_give_what_the_dense_matrix_gives(direction):
    model, clips, result = probed("paper", "ssm")
    both = [dense_weights(model, one, 1, direction) for one in clips]
    heat = result.curve("weight_matrix", 1, direction, "ssm")
    assert (heat.low, heat.unit) == (None, "scan output per unit of scan input")
    assert heat.value == pytest.approx((both[0][0] + both[1][0]) / 2, rel=1e-9)
    masked = int(direction == "backward")
    for index, (W, life) in enumerate(both):
        of = {name.removeprefix("decay."): kept(result, name.removeprefix("decay."), direction)[index]
              for name in map(str, result.data) if name.startswith("decay.") and name != "decay.measured"}  # fmt: skip
        length = len(W)
        lag = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        allowed = np.tril(np.ones_like(W)) if direction == "forward" else np.triu(np.ones_like(W), masked)
        for k in range(masked, length):
            assert of["lag_profile"][k] == pytest.approx(W[(lag == k) & (allowed > 0)].mean(), rel=1e-9)
        assert np.isnan(of["lag_profile"][0]) == bool(masked)
        rows = W.sum(1) > 0
        P = W[rows] / W[rows].sum(1, keepdims=True)
        uniform = allowed[rows] / allowed[rows].sum(1, keepdims=True)
        assert of["distance"][0] == pytest.approx((P * lag[rows]).sum(1).mean(), rel=1e-9)
        assert of["uniform"][0] == pytest.approx((uniform * lag[rows]).sum(1).mean(), rel=1e-9)
        assert of["empty_rows"] == (~rows).sum() == masked
        keys = [int(np.argmax(np.cumsum(np.sort(row)[::-1]) >= 0.9)) + 1 for row in P]
        assert of["effective_context"] == pytest.approx(np.mean(keys))
        frame = np.r_[-1, np.repeat(np.arange(3), 4)]
        expected = [[P[frame[rows] == s][:, frame == t].sum(1).mean() for t in range(3)] for s in range(3)]
        assert of["frame_matrix"] == pytest.approx(np.array(expected), rel=1e-9)
        assert of["class_self"] == pytest.approx(P[0, 0])
        assert of["class_row"] == pytest.approx([P[0, frame == t].sum() for t in range(3)])
        assert of["predicted"][3] == pytest.approx(1 / np.median(1 / life), rel=1e-9)


@pytest.mark.parametrize(("name", "side"), [("both", None), ("both j<=i", np.tril), ("both j>=i", np.triu)])
def test_self_attention_is_measured_whole_and_by_side(name, side):
    """Contributions by their definition: the norm over heads of P v, P from exponentials as written."""
    model, clips, result = probed("attention", "contribution", num_heads=3)
    assert "decay.predicted" not in result.data
    for index, one in enumerate(clips):
        with torch.no_grad(), record(model, layers=[1]) as captures:
            model(one[None])
        q, k, v = (x[0].numpy() for x in (captures[0].q, captures[0].k, captures[0].v))
        weights = np.exp(np.einsum("hic,hjc->hij", q, k) / np.sqrt(q.shape[-1]))
        P = weights / weights.sum(-1, keepdims=True)
        W = np.sqrt((np.einsum("hij,hjc->hcij", P, v) ** 2).sum((0, 1)))
        seen = np.ones_like(W) if side is None else side(np.ones_like(W))
        W, length = W * seen, len(W)
        lag = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        for k in range(length):
            pairs = (lag == k) & (seen > 0)
            assert kept(result, "lag_pairs", name)[index, k] == pairs.sum()
            assert kept(result, "lag_profile", name)[index, k] == pytest.approx(W[pairs].mean(), rel=1e-9)
        P = W / W.sum(1, keepdims=True)
        assert kept(result, "distance", name)[index, 0] == pytest.approx((P * lag).sum(1).mean(), rel=1e-9)
        assert kept(result, "class_self", name)[index] == pytest.approx(P[0, 0])
    drawn = result.data["weight_matrix"].sel(direction=name)
    assert bool(drawn.isnull().all()) == (side is not None)


def test_layers_to_draw_may_be_chosen():
    model = video_model(depth=2)
    none, first = (
        analysis.probe(model, clip(1), [analysis.Decay(draw=draw)], resamples=100) for draw in ((), (0,))
    )
    assert "weight_matrix" not in none.data
    assert not any("Heatmaps" in note for note in none.provenance.notes)
    assert first.data["drawn_layer"].values.tolist() == [0]
    assert any(note.startswith("Heatmaps were drawn for layers 0 alone") for note in first.provenance.notes)
    assert not any(name.startswith("attention") for name in analysis.Decay().figures(none, none.model))
    with pytest.raises(KeyError, match="weight_matrix: no drawn_layer 1; there are 0"):
        first.plot("weight_matrix", layer=1)


def test_few_layers_are_all_drawn_and_many_from_first_to_last():
    assert layers_to_draw([0, 5, 9]) == [0, 5, 9]
    assert layers_to_draw(list(range(24))) == [0, 5, 9, 14, 18, 23]


def test_long_matrices_are_averaged_over_blocks():
    length = 2 * SIDE + 1
    assert (block_size(length), block_size(SIDE)) == (3, 1)
    rows = np.arange(length, dtype=float)
    small = block_mean(np.add.outer(rows, 10 * rows))
    assert small.shape == (-(-length // 3),) * 2
    assert small[0, 0] == pytest.approx(11)  # rows and columns 0, 1, 2
    assert small[5, 0] == pytest.approx(16 + 10)
    last = rows[len(small) * 3 - 3 :].mean()
    assert small[-1, -1] == pytest.approx(11 * last)
