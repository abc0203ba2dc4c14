"""Rankings of a clip's tokens by their relevance to the class that a model gives it: rollout, last row, gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.capture import Captured, Family, family_of, record
from analysis.capture.recorder import Layout
from analysis.matrix.scopes import SCOPES
from analysis.relevance.deletion import PARTS
from analysis.relevance.gradient import by_token, one_hot_directions, pixel_gradient, receptive_field
from analysis.relevance.rollout import Rollout, read_out
from vmp.layout import TokenLayout

if TYPE_CHECKING:
    from analysis.result import Result

RANDOM = "random"
RANKINGS: Mapping[str, str] = {
    **{f"rollout {scope}": f"rollout over layers, scope {scope}" for scope in SCOPES},
    **{f"last row {scope}": f"read-out row of the last layer, scope {scope}" for scope in SCOPES},
    "gradient": "norm of the logit's gradient in the token's pixels",
    "gradient x change": "gradient times what removal changes: the first-order drop of the logit",
    RANDOM: "orders drawn at random",
}
"""Each ranking of tokens by their relevance to the prediction, in words; random orders come last."""

NO_FRAMES = "a plain sequence has no frames"
NO_HEAD = "no head, and so no prediction that deletion could change"


class NoPrediction(ValueError):
    """A model whose output is no prediction of a clip's class, so that nothing in the clip is relevant to one."""


def relevance(
    model: nn.Module,
    clip: Float[Tensor, "3 T H W"],
    *,
    family: Family | str | None = None,
    layout: Layout | None = None,
) -> tuple[dict[str, Float[Tensor, " patches"]], TokenLayout, int, float]:
    """The relevance of each patch token to the class that the model gives a clip, by every ranking but random.

    Args:
        model: With a head, in evaluation mode.
        clip: One clip as the model takes it, on its device.
        family: How the model's mixers are found, where its class is not known: a `Family` or the name of one.
        layout: Where class tokens, frames and patches lie, where the family cannot know it.

    Returns:
        The values of tokens by ranking, the layout, the class, and the probability that the model gives it.

    Raises:
        NoPrediction: A ValueError. The model has no head, or its sequence has no frames.
    """
    found = family_of(model, family)
    rollouts = {scope: Rollout(scope) for scope in SCOPES}
    layouts: list[TokenLayout] = []

    def take(capture: Captured) -> None:
        if not capture.layout.is_video:
            raise NoPrediction(NO_FRAMES)
        layouts.append(capture.layout)
        for rollout in rollouts.values():
            rollout.take(capture)

    with torch.no_grad(), record(model, sink=take, layout=layout, family=found):
        logits = found.run(model, clip[None])
    # A module without a configuration of its classes is taken at its output: one row of numbers is one of logits.
    if logits.ndim != 2 or getattr(getattr(model, "config", None), "num_classes", 1) == 0:
        raise NoPrediction(NO_HEAD)
    layout, target = layouts[-1], int(logits[0].argmax())
    directions = one_hot_directions(logits.argmax(1), logits.shape[1])
    gradient = pixel_gradient(model, clip[None], directions, family=found)
    change = clip - clip.mean((1, 2, 3), keepdim=True)
    patches = layout.patch_positions()
    # Rows before columns: `last` is gone once the product is taken.
    rows = {f"last row {scope}": read_out(r.last(), layout) for scope, r in rollouts.items()}
    rows |= {f"rollout {scope}": read_out(r.matrix(), layout) for scope, r in rollouts.items()}
    tokens = {name: row[0, patches.to(row.device)].cpu() for name, row in rows.items()}
    tokens["gradient"] = receptive_field(gradient, layout).tokens[0].cpu()
    tokens["gradient x change"] = by_token((gradient[:, 0] * change).double().sum(1), layout)[0].cpu()
    return tokens, layout, target, float(logits.double().softmax(-1)[0, target])


def parts_of(result: Result) -> list[str]:
    """The kinds of parts of which any model of a result has deletion curves."""
    return [part for part in PARTS if f"deletion_curve_{part}" in result.data]
