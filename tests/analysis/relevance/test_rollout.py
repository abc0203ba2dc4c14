"""Rollout beside products of dense matrices, and where its value has a closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.capture import record
from analysis.relevance.rollout import Rollout, read_out
from tests.analysis.models import clip, video_model


def rolled(captures, scope="ssm", kept=0.5):
    rollout = Rollout(scope, kept)
    for capture in captures:
        rollout.take(capture)
    return rollout.matrix()


def captures_of(variant, **fields):
    model = video_model(variant, **fields)
    with torch.no_grad(), record(model) as captures:
        model(clip())
    return captures


def by_hand(weights, kept):
    """One clip's R from each layer's W, with loops over rows."""
    product = np.eye(len(weights[0]))
    for weight in weights:
        layer = np.zeros_like(weight)
        for i, row in enumerate(weight):
            total = row.sum()
            for j in range(len(row)):
                layer[i, j] = (1 - kept) * row[j] / total if total > 0 else 0
            layer[i, i] += kept if total > 0 else 1
        product = layer @ product
    return product


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.8])
def test_a_scan_with_two_directions(kept):
    captures = captures_of("videomamba")
    dense = {(c.layer, c.direction): c.operator().dense().abs().mean(1).numpy() for c in captures}
    found = rolled(captures, kept=kept)
    for b in range(2):
        weights = [dense[layer, "forward"][b] + dense[layer, "backward"][b] for layer in range(3)]
        np.testing.assert_allclose(found[b], by_hand(weights, kept), rtol=1e-10)


def test_self_attention_contributions():
    captures = captures_of("attention", num_heads=3)
    found = rolled(captures, "contribution")
    for b in range(2):
        weights = []
        for c in captures:
            logits = (c.scale * c.q[b] @ c.k[b].transpose(1, 2)).numpy()
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            weights.append(np.sqrt(np.einsum("hij,hjd->ij", p**2, c.v[b].numpy() ** 2)))
        np.testing.assert_allclose(found[b], by_hand(weights, 0.5), rtol=1e-10)


def attention(k=0.0, allowed=None, layers=3):
    """Captures of self-attention whose logits are all 0, or those of large equal queries and keys."""
    (first, *_) = captures_of("attention", num_heads=3)
    length = first.q.shape[2]
    spread = k * torch.eye(length, dtype=torch.float64).expand(*first.q.shape[:2], -1, -1)
    return [
        replace(first, layer=n, q=spread, k=spread, v=spread, scale=1.0, allowed=allowed)
        for n in range(layers)
    ]


def test_identity_attention_rolls_out_to_the_identity():
    found = rolled(attention(k=30.0))  # exp(-900) is 0 beside 1
    assert torch.equal(found, torch.eye(found.shape[1], dtype=torch.float64).expand_as(found))


def test_uniform_attention_without_residual_stays_uniform():
    found = rolled(attention(), kept=0.0)
    torch.testing.assert_close(found, torch.full_like(found, 1 / found.shape[1]))


def test_causal_uniform_attention_leaves_the_first_token_what_the_harmonic_sums_say():
    length = captures_of("attention", num_heads=3)[0].q.shape[2]
    found = rolled(attention(allowed=torch.ones(length, length, dtype=torch.bool).tril(), layers=2), kept=0.0)
    # (P P)_ij = sum_{k = j..i} 1 / (i k), 1-based.
    for i in range(1, length + 1):
        for j in range(1, i + 1):
            expected = sum(1 / (i * k) for k in range(j, i + 1))
            assert found[0, i - 1, j - 1].item() == pytest.approx(expected)
    assert torch.equal(found[0], found[0].tril())


def test_rows_without_weight_pass_the_layer_by():
    captures = [c for c in captures_of("mask") if c.direction == "backward"]
    assert not captures[0].operator().dense()[0, :, -1].any()  # the last token is the backward scan's first
    found = rolled(captures)
    assert found[0, -1].tolist() == [0.0] * (found.shape[1] - 1) + [1.0]
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]))


def test_read_out_is_the_class_row_or_the_mean_of_all():
    first, none = captures_of("videomamba")[0].layout, captures_of("videomamba", class_token="none")[0].layout
    matrix = torch.rand(1, first.length, first.length)
    assert torch.equal(read_out(matrix, first), matrix[:, 0])
    assert torch.equal(read_out(matrix[:, 1:, 1:], none), matrix[:, 1:, 1:].mean(1))


def test_wrong_requests_say_so():
    with pytest.raises(ValueError, match=r"kept is 1\.5"):
        Rollout("ssm", 1.5)
    with pytest.raises(ValueError, match="no layer was taken"):
        Rollout("ssm").matrix()
