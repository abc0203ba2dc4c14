"""Interventions against layers rebuilt by hand from dense matrices in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from analysis import patched, record
from analysis.capture import CaptureError, captures_of, family_of, layer_inputs
from analysis.intervene import EDITS, tile_from
from tests.analysis.models import clip, ids, own, video_model
from tests.analysis.test_families import mamba, pixels, timesformer, videomae

LAYER = 1
VARIANTS = ("videomamba", "paper", "released")
EDITED = [(variant, direction) for variant in VARIANTS for direction in ("forward", "backward")]


def dense(capture, decay=True):
    """alpha (D, L, L) by the sum over states as math.md writes it, one entry at a time, without the skip D."""
    t = capture.terms
    delta, A, B, C = (x.numpy() for x in (t.delta[0], t.A, t.B[0], t.C[0]))
    length, reverse = delta.shape[1], t.reverse
    A = A if decay else 0 * A
    alpha = np.zeros((delta.shape[0], length, length))
    for i in range(length):
        for j in range(i, length) if reverse else range(i + 1):
            if i == j and t.mask_diagonal:
                continue
            steps = list(range(i, j) if reverse else range(j + 1, i + 1))
            # What the residual adds: in each step its own decay, or in the first step alone.
            first = j == (length - 1 if reverse else 0)
            carried = t.residual == "elemental" or (t.residual == "initial" and first)
            if t.mask_diagonal and t.masked_first_step == "skip_only" and first and i == j:
                carried = False
            own_term = delta[:, j, None] * B[:, j] + carried * np.exp(A * delta[:, j, None])
            decayed = np.exp(A * delta[:, steps].sum(1)[:, None])
            alpha[:, i, j] = (C[:, i] * decayed * own_term).sum(1)
    return torch.from_numpy(alpha)


def layer_and_captures(model, video):
    """What the layer's mixer gave, its captures, and the mixer."""
    seen = []
    mixer = model.layers[LAYER].mixer
    handle = mixer.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad(), record(model, [LAYER]) as captures:
        model(video)
    handle.remove()
    return seen[0], captures, mixer


def edited_layer(model, video, direction, edit):
    """What the layer's mixer gives the residual stream with a direction edited."""
    seen = []
    with torch.no_grad(), patched(model, LAYER, direction, edit):
        handle = model.layers[LAYER].mixer.register_forward_hook(lambda _, __, out: seen.append(out))
        model(video)
        handle.remove()
    return seen[0]


def by_hand(captures, direction, matrix, skip=True):
    """The layer's output from dense matrices, with `matrix` for one direction."""
    total = 0
    for capture in captures:
        t = capture.terms
        alpha = matrix if capture.direction == direction else dense(capture)
        y = torch.einsum("dij,bdj->bdi", alpha, t.u)
        if t.D is not None and (skip or capture.direction != direction):
            y = y + t.D[:, None] * t.u
        total = total + t.scale * F.silu(t.z) * y
    return F.linear(total.transpose(1, 2), captures[0].out_weight, captures[0].out_bias)


@pytest.mark.parametrize(("variant", "direction"), EDITED)
def test_edits_give_what_the_edited_dense_matrix_gives(variant, direction):
    model, video = video_model(variant, depth=2), clip(1)
    real, captures, _ = layer_and_captures(model, video)
    capture = captures[LAYER, direction]
    whole = dense(capture)
    torch.testing.assert_close(by_hand(captures, direction, whole), real, rtol=1e-9, atol=1e-9)
    with torch.no_grad(), record(model, [LAYER]) as others:
        model(clip(1, seed=1))
    other = others[LAYER, direction]
    rows, columns = slice(3, 9), slice(2, 8)
    tile = whole.clone()
    tile[:, rows, columns] = dense(other)[:, rows, columns]
    wanted = {
        "zeroed": by_hand(captures, direction, torch.zeros_like(whole), skip=False),
        "no_scan": by_hand(captures, direction, torch.zeros_like(whole)),
        "no_decay": by_hand(captures, direction, dense(capture, decay=False)),
        "tile": by_hand(captures, direction, tile),
    }
    for edit, expected in wanted.items():
        how = tile_from(other, rows, columns) if edit == "tile" else edit
        found = edited_layer(model, video, direction, how)
        torch.testing.assert_close(
            found, expected, rtol=1e-9, atol=1e-9, msg=lambda said, edit=edit: f"{edit}: {said}"
        )
        assert not torch.allclose(found, real)


def test_attention_with_another_clips_tile():
    model, video = video_model("attention", num_heads=3, depth=2), clip(1)
    _, captures, _ = layer_and_captures(model, video)
    with torch.no_grad(), record(model, [LAYER]) as others:
        model(clip(1, seed=1))

    def softmax(c):
        return torch.softmax(torch.einsum("hic,hjc->hij", c.q[0], c.k[0]) * c.scale, -1)

    P = softmax(captures[0]).clone()
    P[:, 2:5, 1:9] = softmax(others[0])[:, 2:5, 1:9]
    heads = torch.einsum("hij,hjc->ihc", P, captures[0].v[0]).flatten(1)
    expected = F.linear(heads, captures[0].out_weight, captures[0].out_bias)[None]
    found = edited_layer(model, video, "both", tile_from(others[0], slice(2, 5), slice(1, 9)))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    none = edited_layer(model, video, "both", "zeroed")
    bias = captures[0].out_bias
    assert torch.allclose(none, torch.zeros_like(none) if bias is None else bias.expand_as(none), atol=1e-12)


IDENTITY = {
    **{variant: (lambda v=variant: video_model(v, depth=2), clip(2)) for variant in (*VARIANTS, "mamba")},
    "attention": (lambda: video_model("attention", num_heads=3, depth=2), clip(2)),
    "videomae": (videomae, pixels(4)),
    "own": (own, ids(2, 9)),
    "hugging face mamba": (mamba, ids(2, 9)),
}


@pytest.mark.parametrize("name", IDENTITY)
def test_an_edit_that_changes_nothing_leaves_every_bit(name):
    make, inputs = IDENTITY[name]
    model = make()
    run = family_of(model).run
    with torch.no_grad():
        before = run(model, inputs)
        (hidden, _), *_ = layer_inputs(model, inputs, [LAYER])[LAYER]
        for capture in captures_of(model, LAYER, hidden):
            same = tile_from(capture, slice(0, 5), slice(1, 7))
            for edit in (lambda c: c, lambda c: c.output(), same):
                with patched(model, LAYER - 2, capture.direction, edit) as inside:
                    assert inside is model
                    assert torch.equal(run(model, inputs), before)
            with patched(model, LAYER, capture.direction, "zeroed"):
                assert not torch.equal(run(model, inputs), before)
        # Nothing stays behind.
        assert torch.equal(run(model, inputs), before)


def test_edits_stand_beside_each_other_and_a_layer_is_edited_where_it_is():
    model, video = video_model("videomamba", depth=2), clip(1)
    _, captures, mixer = layer_and_captures(model, video)
    seen = []
    with (
        torch.no_grad(),
        patched(model, -1, "forward", "zeroed"),
        patched(model, LAYER, "backward", "zeroed"),
    ):
        handle = mixer.register_forward_hook(lambda _, __, out: seen.append(out))
        model(video)
        handle.remove()
    bias = captures[0].out_bias
    expected = torch.zeros_like(seen[0]) if bias is None else bias.expand_as(seen[0])
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-12)


def scan(kind="paper", **fields):
    return lambda: video_model(kind, depth=2, **fields)


def divided():
    return timesformer("divided_space_time")


REFUSED = {
    "edit": (scan(), 0, "forward", "louder", ValueError, "edit: 'louder' is none of zeroed, no_scan, no_decay"),
    "layer": (scan(), 5, "forward", "zeroed", IndexError, "layers: 5 is out of range"),
    "direction": (scan(), 0, "sideways", "zeroed", CaptureError, "no direction 'sideways'; there are forw"),
    "shape": (scan(), 0, "forward", lambda c: c.output()[..., 1:], ValueError, "edit: gives shape .*output has"),
    **{edit: (scan("attention", num_heads=3), 0, "both", edit, CaptureError, f"layer 0: {edit} is for scans, and")
       for edit in EDITS if edit != "zeroed"},
    "divided": (divided, 0, "time", "zeroed", CaptureError, "not in the order"),
    "divided, direction": (divided, 0, "both", "zeroed", CaptureError, "there are time, space"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_edited_is_said_in_one_line(name):
    make, layer, direction, edit, error, message = REFUSED[name]
    model = make()
    with (
        pytest.raises(error, match=message) as caught,
        torch.no_grad(),
        patched(model, layer, direction, edit),
    ):
        family_of(model).run(model, clip(1))
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_tile_has_to_come_from_a_layer_of_the_same_size():
    model = video_model(depth=2)
    with torch.no_grad(), record(other := video_model(depth=2, num_frames=2), [0]) as others:
        other(clip(1, frames=2))
    edit = tile_from(others[0], slice(0, 2), slice(0, 2))
    with (
        pytest.raises(
            ValueError,
            match=r"tile_from: the source has \(channels, tokens\) \(24, 9\) and this .* \(24, 13\)",
        ),
        torch.no_grad(),
        patched(model, 0, "forward", edit),
    ):
        model(clip(1))
