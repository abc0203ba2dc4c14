"""The receptive field beside finite differences, and where it is known."""

import pytest
import torch

from analysis.relevance.gradient import by_token, one_hot_directions, pixel_gradient, receptive_field
from tests.analysis.models import clip, language_model, video_model


@pytest.mark.parametrize("variant", ["paper", "attention"])
def test_the_field_is_what_finite_differences_give(variant):
    model = video_model(variant, **({"num_heads": 3} if variant == "attention" else {}))
    x, layout, step = clip(batch=1), model.token_layout(), 1e-5
    directions = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(3)).double()
    field = receptive_field(pixel_gradient(model, x, directions), layout)
    square = torch.zeros(3, 8, 8, dtype=torch.float64)
    flat = x.flatten()
    with torch.no_grad():
        for start in range(0, len(flat), 64):
            moves = torch.zeros(64, len(flat), dtype=torch.float64)
            moves[torch.arange(64), start + torch.arange(64)] = step
            ahead, behind = (model((flat + sign * moves).view(64, *x.shape[1:])) for sign in (1, -1))
            slope = (ahead - behind) @ directions[0].T / (2 * step)
            channel, frame = divmod(start // 64, 3)
            assert channel < 3
            square[frame] += slope.square().sum(1).view(8, 8)
    torch.testing.assert_close(field.pixels[0], square.sqrt(), rtol=1e-5, atol=1e-7)
    for token in range(12):
        t, row, col = token // 4, token % 4 // 2, token % 2
        expected = square[t, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4].sum().sqrt()
        assert field.tokens[0, token].item() == pytest.approx(expected.item(), rel=1e-5)
    assert field.frames[0].tolist() == pytest.approx(square.sum((1, 2)).sqrt().tolist(), rel=1e-5)


def test_forward_scans_read_at_the_first_token_have_no_field():
    """A class token that is first, and forward scans alone: no pixel reaches it."""
    model = video_model("mamba")
    gradient = pixel_gradient(model, clip(batch=1), one_hot_directions(torch.tensor([2]), 5))
    field = receptive_field(gradient, model.token_layout())
    assert not field.tokens.any()


def test_parameters_are_left_without_gradients():
    model = video_model("paper")
    pixel_gradient(model, clip(batch=1), one_hot_directions(torch.tensor([0]), 5))
    assert all(p.grad is None for p in model.parameters())


def test_a_text_has_no_pixels():
    with pytest.raises(ValueError, match="has no frames"):
        by_token(torch.zeros(1, 1, 1, 1), language_model().token_layout(4))
