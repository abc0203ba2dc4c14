"""Deletion curves: parts of a clip removed in the order of a ranking, and what is left of the model's prediction.

A part is a frame, one of the model's temporal positions with all its pixels, or a tube, one patch's place through all
frames. Removed parts are filled with the clip's own mean colour, one value a channel, so that neither brightness nor
contrast with a foreign colour enters. The curve is the probability of the class that the model gives to the whole clip,
after 0, 1, ..., n parts are removed, highest score first; its area is the trapezoid's over the fraction removed, in
[0, 1]. The lower, the more the ranking names what the prediction rests on: as in Samek et al. (arXiv 1509.06321), with
parts of video in the place of regions. A filled clip is no natural clip; random orders meet the same fills, so that
differences to them are what counts.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.capture import Family, family_of
from vmp.layout import TokenLayout

Part = Literal["frame", "tube"]
PARTS: tuple[Part, ...] = get_args(Part)

BATCH = 32
"""Filled clips that run through the model at once."""


def part_index(part: Part, layout: TokenLayout) -> Int[Tensor, " patches"]:
    """Which part each patch token belongs to, from 0."""
    token = torch.arange(layout.frames * layout.patches)
    return token // layout.patches if part == "frame" else token % layout.patches


def part_count(part: Part, layout: TokenLayout) -> int:
    """How many parts a clip has."""
    return layout.frames if part == "frame" else layout.patches


def part_scores(
    tokens: Float[Tensor, " patches"], part: Part, layout: TokenLayout
) -> Float[Tensor, " parts"]:
    """Scores of parts: sums over their tokens."""
    total = torch.zeros(part_count(part, layout), dtype=torch.float64)
    return total.index_add_(0, part_index(part, layout), tokens.double().cpu())


def deletion_curve(
    model: nn.Module,
    clip: Float[Tensor, "3 T H W"],
    orders: Int[Tensor, "K parts"],
    part: Part,
    layout: TokenLayout,
    target: int,
    *,
    family: Family | str | None = None,
) -> Float[Tensor, "K steps"]:
    """The probability of class `target` after the first 0, 1, ..., n parts of each order are removed, (K, n + 1)."""
    index, n = part_index(part, layout), orders.shape[1]
    rank = orders.argsort(1)[:, index]  # When each token goes, (K, patches).
    masks = rank[:, None] < torch.arange(n + 1)[:, None]
    # Orders share many of their filled clips, the whole one and the empty one at least.
    unique, back = masks.flatten(0, 1).unique(dim=0, return_inverse=True)
    known, found = family_of(model, family), []
    with torch.no_grad():
        for some in unique.split(BATCH):
            filled = torch.stack([_fill(clip, mask, layout) for mask in some])
            found.append(known.run(model, filled).double().softmax(-1)[:, target])
    return torch.cat(found).cpu()[back].unflatten(0, (len(orders), n + 1))


def area(curve: Float[Tensor, "*K steps"]) -> Float[Tensor, "*K"]:
    """Trapezoid's area under curves over the fraction removed, 0 to 1."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[-1] - 1))


def order_of(scores: Float[Tensor, " parts"], generator: torch.Generator) -> Int[Tensor, " parts"]:
    """Parts from the highest score to the lowest; equal ones in an order drawn at random."""
    shuffle = torch.randperm(len(scores), generator=generator)
    return shuffle[scores[shuffle].argsort(descending=True, stable=True)]


def _fill(clip: Tensor, gone: Tensor, layout: TokenLayout) -> Float[Tensor, "3 T H W"]:
    down, across = layout.grid
    _, frames, height, width = clip.shape
    mask = gone.to(clip.device).view(layout.frames, down, across)
    for axis, times in enumerate((frames // layout.frames, height // down, width // across)):
        mask = mask.repeat_interleave(times, axis)
    return torch.where(mask, clip.mean((1, 2, 3), keepdim=True), clip)
