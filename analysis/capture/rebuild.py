"""A layer's output from its captures: the check that a capture holds all that the layer used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture


def rebuild(captures: Sequence[Capture | AttentionCapture]) -> Float[Tensor, "B L M"]:
    """What a mixer adds to the residual stream, from the captures of all its directions.

    A scan's directions are summed. Attention in time and attention in space each add to the stream by themselves, so
    each is rebuilt alone; a token that passes an attention by has 0 there.

    Raises:
        ValueError: Captures are of more than one layer, name a direction twice, or are several attentions.
    """
    names = {(capture.layer, capture.direction) for capture in captures}
    alone = len(captures) == 1
    one_layer = len({layer for layer, _ in names}) == 1 and len(names) == len(captures)
    if not one_layer or not (alone or all(capture.is_scan for capture in captures)):
        met = ", ".join(f"layer {c.layer} {c.direction}" for c in captures) or "no capture"
        raise ValueError(
            f"captures: {met}; wanted each direction of one layer's scan once, or one self-attention"
        )
    first = captures[0]
    total = torch.stack([capture.output() for capture in captures]).sum(0)
    out = F.linear(total.transpose(1, 2), first.out_weight, first.out_bias)
    if first.is_scan:
        return out
    taking_part = first.operator().sees(slice(0, out.shape[1])).any(1)
    return out * taking_part[:, None]
