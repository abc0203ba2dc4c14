"""Deletion curves of a model whose prediction rests on one part of the clip, which only a true measure finds."""

import numpy as np
import pytest
import torch

from analysis.relevance.deletion import area, deletion_curve, order_of, part_index, part_scores
from analysis.relevance.gradient import one_hot_directions, pixel_gradient, receptive_field
from tests.analysis.models import clip, video_model
from vmp.layout import TokenLayout

LAYOUT = TokenLayout.video(3, (2, 2), "first")


@pytest.fixture
def one_frame():
    """A model that sees frame 1 alone: the other frames' patches meet a weight of 0 before the first block."""
    model = video_model("paper")
    embed = model.embed

    def masked(video):
        keep = torch.zeros(3, dtype=torch.float64)
        keep[1] = 1
        return embed(video * keep[:, None, None])

    model.embed = masked
    return model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_gradient_finds_the_only_frame_that_matters_and_random_orders_do_not(one_frame):
    x = clip(batch=1)
    target = int(one_frame(x).argmax())
    gradient = pixel_gradient(one_frame, x, one_hot_directions(torch.tensor([target]), 5))
    scores = part_scores(receptive_field(gradient, LAYOUT).tokens[0], "frame", LAYOUT)
    found = order_of(scores, generator())
    assert found[0] == 1
    orders = torch.stack([found, torch.tensor([0, 1, 2]), torch.tensor([0, 2, 1])])
    curves = deletion_curve(one_frame, x[0], orders, "frame", LAYOUT, target)
    filled, frames = x.clone(), x.shape[2] // LAYOUT.frames
    filled[:, :, frames : 2 * frames] = x.mean((2, 3, 4), keepdim=True)
    whole, without = (one_frame(v).softmax(-1)[0, target].item() for v in (x, filled))
    # The model reads frame 1 alone, but its fill is the whole clip's mean, whichever other frames are gone.
    expected = [
        [whole, without, without, without],
        [whole, whole, without, without],
        [whole, whole, whole, without],
    ]
    np.testing.assert_allclose(curves, expected, rtol=1e-12)
    areas = area(curves)
    assert areas[0].item() == pytest.approx((0.5 * whole + 2.5 * without) / 3)
    # Not named: the mean over all random orders is higher where the frame carries the prediction.
    assert (areas.mean() > areas[0]) == (whole > without)


def test_curves_are_what_the_model_says_of_clips_filled_by_hand():
    model, x = video_model("videomamba"), clip(batch=1)[0]
    order = torch.tensor([[2, 0, 3, 1]])
    curve = deletion_curve(model, x, order, "tube", LAYOUT, 4)[0]
    places = {0: (0, 0), 1: (0, 4), 2: (4, 0), 3: (4, 4)}
    filled = x.clone()
    for step, tube in enumerate([None, *order[0].tolist()]):
        if tube is not None:
            row, col = places[tube]
            for channel in range(3):
                filled[channel, :, row : row + 4, col : col + 4] = x[channel].mean()
        expected = torch.softmax(model(filled[None])[0], 0)[4].item()
        assert curve[step].item() == pytest.approx(expected, rel=1e-10)


def test_scores_of_parts_are_sums_over_their_tokens():
    tokens = torch.arange(12.0)
    assert part_scores(tokens, "frame", LAYOUT).tolist() == [6, 22, 38]
    assert part_scores(tokens, "tube", LAYOUT).tolist() == [12, 15, 18, 21]
    assert part_index("tube", LAYOUT).tolist() == [0, 1, 2, 3] * 3


def test_ties_are_drawn_by_the_seed_alone():
    scores = torch.tensor([1.0, 5.0, 1.0, 1.0, 1.0, 1.0])
    orders = [order_of(scores, generator(seed)).tolist() for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert {order[0] for order in orders} == {1}
    assert len(set(map(tuple, orders))) > 1
