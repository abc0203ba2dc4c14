"""Gradient effective receptive field: what an output's gradient says of each part of the clip.

For output vectors y_k = v_k . f(x), summed over k before the root,

    g(t, x, y) = sqrt(sum_k sum_channels (d y_k / d pixel)^2)

and a token's value is the same root over all pixels of its tubelet, so that squares add up from pixels to tokens to
frames. Source: Luo et al., arXiv 1701.04128, section 2, with their unit at the centre replaced by what the model reads
out. The scale of a pixel's change is that of the model's input, standard deviations of the normalised clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.capture import Family, family_of
from vmp.layout import TokenLayout


@final
@dataclass(frozen=True, eq=False)
class Field:
    """An effective receptive field, in units of the output per standard deviation of the input.

    Attributes:
        pixels: of each pixel.
        tokens: of each patch token, frames in time order.
        frames: of each of the model's temporal positions.
    """

    pixels: Float[Tensor, "B T H W"]
    tokens: Float[Tensor, "B patches"]
    frames: Float[Tensor, "B frames"]


def pixel_gradient(
    model: nn.Module,
    clips: Float[Tensor, "B 3 T H W"],
    directions: Float[Tensor, "B K outputs"],
    *,
    family: Family | str | None = None,
) -> Float[Tensor, "B K 3 T H W"]:
    """The gradient d (v_k . f(x)) / dx for every clip and each of its K directions v_k over the model's outputs."""
    x = clips.detach().clone().requires_grad_()
    with torch.enable_grad():
        out = family_of(model, family).run(model, x)
        found = []
        for k in range(directions.shape[1]):
            scalar = (out * directions[:, k].to(out)).sum()
            found.append(torch.autograd.grad(scalar, x, retain_graph=k + 1 < directions.shape[1])[0])
    return torch.stack(found, 1)


def receptive_field(gradient: Float[Tensor, "B K 3 T H W"], layout: TokenLayout) -> Field:
    """The field of pixel gradients.

    Raises:
        ValueError: The layout has no frames, or does not fit the pixels.
    """
    square = gradient.double().square().sum((1, 2))
    tokens = by_token(square, layout)
    frames = tokens.unflatten(1, (layout.frames, layout.patches)).sum(-1)
    return Field(square.sqrt(), tokens.sqrt(), frames.sqrt())


def by_token(pixels: Float[Tensor, "B T H W"], layout: TokenLayout) -> Float[Tensor, "B patches"]:
    """Sums of a pixel map over the tubelet of each patch token, frames in time order, each in raster order.

    Raises:
        ValueError: The layout has no frames, or does not fit the pixels.
    """
    if not layout.is_video:
        raise ValueError("the sequence has no frames, so that a token has no pixels")
    down, across = layout.grid
    parts = zip(pixels.shape[1:], (layout.frames, down, across), strict=True)
    if any(size % count for size, count in parts):
        shape = " x ".join(map(str, pixels.shape[1:]))
        raise ValueError(
            f"layout: {layout.frames} frames of {down} x {across} patches do not divide a clip of {shape}"
        )
    return rearrange(
        pixels, "b (f t) (g h) (w p) -> b (f g w) (t h p)", f=layout.frames, g=down, w=across
    ).sum(-1)


def one_hot_directions(classes: Int[Tensor, " B"], outputs: int) -> Float[Tensor, "B 1 outputs"]:
    """One direction for each clip: the logit of its class."""
    return torch.nn.functional.one_hot(classes, outputs)[:, None].double()
