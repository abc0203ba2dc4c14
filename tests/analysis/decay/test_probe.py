"""The probe's sums against loops over dense matrices, one entry at a time."""

import numpy as np
import pytest
import torch

from analysis.capture import record
from analysis.decay.heatmaps import SIDE, block_mean, block_size, load_heatmaps, save_heatmaps
from analysis.decay.probe import probe
from analysis.decay.run import layers_to_draw
from analysis.inputs import InputError, clip_sources, clips, random_tokens
from analysis.request import RequestError, parse_layers, parse_scopes
from analysis.unfinished import Unfinished
from tests.analysis.models import video_model


def dense_weights(model, sample, layer, direction):
    """W of scope ssm, each entry the mean over channels of abs(alpha), from the sum over states as written."""
    with torch.no_grad(), record(model, layers=[layer]) as captures:
        model(sample.tokens[None].double())
    (c,) = [capture for capture in captures if capture.direction == direction]
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
def test_sums_are_those_of_the_dense_matrix(model, samples, direction):
    found = probe(model, samples, layers=[1], scopes=["ssm"], draw=[1])
    assert found.names == ("s0", "s1")
    (sums,) = [s for s in found.sums if s.direction == direction]
    (heat,) = [h for h in found.heatmaps if h.direction == direction]
    both = [dense_weights(model, sample, 1, direction) for sample in samples]
    assert heat.values == pytest.approx((both[0][0] + both[1][0]) / 2, rel=1e-9)
    masked = int(direction == "backward")
    for clip, (W, life) in enumerate(both):
        length = len(W)
        lag = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        allowed = np.tril(np.ones_like(W)) if direction == "forward" else np.triu(np.ones_like(W), masked)
        for k in range(masked, length):
            assert sums.lag_profile[clip, k] == pytest.approx(W[(lag == k) & (allowed > 0)].mean(), rel=1e-9)
        assert np.isnan(sums.lag_profile[clip, 0]) == bool(masked)
        rows = W.sum(1) > 0
        P = W[rows] / W[rows].sum(1, keepdims=True)
        uniform = allowed[rows] / allowed[rows].sum(1, keepdims=True)
        assert sums.distance[clip, 0] == pytest.approx((P * lag[rows]).sum(1).mean(), rel=1e-9)
        assert sums.uniform[clip, 0] == pytest.approx((uniform * lag[rows]).sum(1).mean(), rel=1e-9)
        assert sums.empty_rows[clip] == (~rows).sum() == masked
        keys = [int(np.argmax(np.cumsum(np.sort(row)[::-1]) >= 0.9)) + 1 for row in P]
        assert sums.effective_context[clip] == pytest.approx(np.mean(keys))
        frame = np.r_[-1, np.repeat(np.arange(3), 4)]
        expected = [[P[frame[rows] == s][:, frame == t].sum(1).mean() for t in range(3)] for s in range(3)]
        assert sums.frame_matrix[clip] == pytest.approx(np.array(expected), rel=1e-9)
        assert sums.class_self[clip] == pytest.approx(P[0, 0])
        assert sums.predicted[clip, 3] == pytest.approx(1 / np.median(1 / life), rel=1e-9)


def test_each_layer_direction_and_scope_is_reported_as_it_ends(model, samples):
    said: list[str] = []
    probe(model, samples[:1], layers=[0, 1], scopes=["ssm", "mixer"], progress=said.append)
    assert said == [
        f"layer {layer} {direction}, {scope}"
        for layer in (0, 1)
        for direction in ("forward", "backward")
        for scope in ("ssm", "mixer")
    ]


def test_nothing_to_probe_is_an_error(model):
    with pytest.raises(ValueError, match="nothing was captured: 0 samples"):
        probe(model, [], layers=[0], scopes=["ssm"])


def test_long_matrices_are_averaged_over_blocks():
    length = 2 * SIDE + 1
    assert block_size(length) == 3
    assert block_size(SIDE) == 1
    rows = np.arange(length, dtype=float)
    small = block_mean(np.add.outer(rows, 10 * rows))
    assert small.shape == (-(-length // 3),) * 2
    assert small[0, 0] == pytest.approx(11)  # rows and columns 0, 1, 2
    assert small[5, 0] == pytest.approx(16 + 10)
    last = rows[len(small) * 3 - 3 :].mean()
    assert small[-1, -1] == pytest.approx(11 * last)


def test_heatmaps_load_back(model, samples, tmp_path):
    made = probe(model, samples, layers=[0], scopes=["contribution"], draw=[0]).heatmaps
    save_heatmaps(made, tmp_path / "h.npz")
    again = load_heatmaps(tmp_path / "h.npz")
    assert [(h.layer, h.direction, h.scope, h.block) for h in again] == [
        (0, "forward", "contribution", 1),
        (0, "backward", "contribution", 1),
    ]
    assert again[1].values == pytest.approx(made[1].values, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("0,3,-1", [0, 3, 4]),
        ("1-3", [1, 2, 3]),
        ("-2, 0-1", [0, 1, 3]),
        ("2,2", [2]),
    ],
)
def test_layers_are_read(text, expected):
    assert parse_layers(text, 5) == expected


@pytest.mark.parametrize("text", ["5", "-6", "0-5", "", "1,,2", "-3-4", "a", "3-1"])
def test_wrong_layers_are_refused(text):
    with pytest.raises(RequestError, match="--layers"):
        parse_layers(text, 5)


def test_scopes_are_read_in_their_own_order():
    assert parse_scopes(["contribution", "ssm", "ssm"]) == ("ssm", "contribution")
    assert parse_scopes(["all"]) == ("ssm", "mixer", "contribution")


def test_few_layers_are_all_drawn_and_many_from_first_to_last():
    assert layers_to_draw([0, 5, 9]) == [0, 5, 9]
    assert layers_to_draw(list(range(24))) == [0, 5, 9, 14, 18, 23]


def test_sources_are_found_by_name_and_others_named():
    assert {"photo-pan", "digits", "video"} <= set(clip_sources())
    with pytest.raises(InputError, match=r"no clips named 'x'; there are: .*photo-pan"):
        clips("x", num_frames=1, image_size=8, count=1, seed=0)


def test_random_tokens_depend_on_the_seed_alone():
    first, again, other = (
        [s.tokens for s in random_tokens(vocabulary=7, length=50, count=3, seed=seed)] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(torch.stack(first), torch.stack(other))
    assert not torch.equal(first[0], first[1])
    assert set(torch.stack(first).flatten().tolist()) == set(range(7))


@pytest.mark.parametrize(("name", "side"), [("both", None), ("both j<=i", np.tril), ("both j>=i", np.triu)])
def test_sums_of_self_attention_whole_and_by_side(samples, name, side):
    """Contributions by their definition: the norm over heads of P v, P from exponentials as written."""
    model = video_model("attention", num_heads=3, image_size=16, patch_size=8)
    found = probe(model, samples, layers=[1], scopes=["contribution"], draw=[1])
    (sums,) = [s for s in found.sums if s.direction == name]
    assert sums.predicted is None
    assert [h.direction for h in found.heatmaps] == ["both"]
    for clip, sample in enumerate(samples):
        with torch.no_grad(), record(model, layers=[1]) as captures:
            model(sample.tokens[None].double())
        q, k, v = (x[0].numpy() for x in (captures[0].q, captures[0].k, captures[0].v))
        weights = np.exp(np.einsum("hic,hjc->hij", q, k) / np.sqrt(q.shape[-1]))
        P = weights / weights.sum(-1, keepdims=True)
        W = np.sqrt((np.einsum("hij,hjc->hcij", P, v) ** 2).sum((0, 1)))
        seen = np.ones_like(W) if side is None else side(np.ones_like(W))
        W, length = W * seen, len(W)
        lag = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        for k in range(length):
            pairs = (lag == k) & (seen > 0)
            assert sums.lag_pairs[k] == pairs.sum()
            assert sums.lag_profile[clip, k] == pytest.approx(W[pairs].mean(), rel=1e-9)
        P = W / W.sum(1, keepdims=True)
        assert sums.distance[clip, 0] == pytest.approx((P * lag).sum(1).mean(), rel=1e-9)
        assert sums.class_self[clip] == pytest.approx(P[0, 0])


def test_self_attention_goes_on_from_kept_clips(samples, tmp_path):
    model = video_model("attention", num_heads=3, image_size=16, patch_size=8)
    runs = []
    for _ in range(2):
        keep = Unfinished(tmp_path / "kept")
        keep.begin({"a": 1})
        runs.append(probe(model, samples, layers=[0], scopes=["ssm"], unfinished=keep))
    assert [s.direction for s in runs[0].sums] == [s.direction for s in runs[1].sums]
    for one, other in zip(runs[0].sums, runs[1].sums, strict=True):
        assert other.predicted is None
        np.testing.assert_array_equal(one.lag_profile, other.lag_profile)
