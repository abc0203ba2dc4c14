"""Self-attention from a layer's own projections, whatever computes the softmax between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture, AttentionDirection
from analysis.capture.parts import CaptureError
from vmp.layout import TokenLayout


class Projections(NamedTuple):
    """q, k and v (B, L, H d) of a layer, with the map (M, H d) and bias that follow the heads."""

    q: Float[Tensor, "B L K"]
    k: Float[Tensor, "B L K"]
    v: Float[Tensor, "B L K"]
    out_weight: Float[Tensor, "M K"]
    out_bias: Float[Tensor, " M"] | None

    @classmethod
    def through(cls, hidden: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, out: nn.Linear) -> Projections:
        return cls(q(hidden), k(hidden), v(hidden), out.weight, out.bias)


def attention_capture(
    layer: int,
    hidden: Float[Tensor, "B L M"],
    parts: Projections,
    heads: int,
    layout: TokenLayout,
    *,
    direction: AttentionDirection = "both",
    allowed: Bool[Tensor, "L L"] | None = None,
    class_sets: Bool[Tensor, "G L"] | None = None,
) -> AttentionCapture:
    """The capture of one plain multi-head attention, logits scaled by the root of a head's width.

    Raises:
        CaptureError: Tokens are not those of the layout, or keys and queries have other widths (grouped heads).
    """
    if hidden.shape[1] != layout.length:
        raise CaptureError(
            f"layer {layer}: sees {hidden.shape[1]} tokens and the configuration has {layout.length}; show it clips of "
            "the configuration's shape, none masked"
        )
    widths = {name: getattr(parts, name).shape[-1] for name in "qkv"}
    if len(set(widths.values())) != 1:
        raise CaptureError(
            f"layer {layer}: q, k and v have widths {widths}; grouped or shared heads are not known here"
        )
    q, k, v = (rearrange(x.detach(), "b l (h d) -> b h l d", h=heads) for x in parts[:3])
    return AttentionCapture(
        layer=layer,
        direction=direction,
        q=q,
        k=k,
        v=v,
        scale=q.shape[-1] ** -0.5,
        allowed=None if allowed is None else allowed.to(hidden.device),
        layout=layout,
        hidden=hidden.detach(),
        out_weight=parts.out_weight.detach(),
        out_bias=None if parts.out_bias is None else parts.out_bias.detach(),
        class_sets=None if class_sets is None else class_sets.to(hidden.device),
    )


def pair(size: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    """Height and width, from a configuration that gives both or one for both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def run_video(model: nn.Module, clips: Float[Tensor, "B C T H W"]) -> Tensor:
    """Logits, or last states, of a transformers video model, which takes frames before channels."""
    out = model(pixel_values=clips.transpose(1, 2))
    logits = getattr(out, "logits", None)
    return out.last_hidden_state if logits is None else torch.as_tensor(logits)
