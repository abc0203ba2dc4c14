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

    Raises ValueError where captures are of more than one layer, name a direction twice, or are several attentions.
    """
    attention = [c for c in captures if isinstance(c, AttentionCapture)]
    if attention and len(captures) == 1:
        (capture,) = attention
        out = F.linear(capture.output().transpose(1, 2), capture.out_weight, capture.out_bias)
        taking_part = capture.operator().sees(slice(0, out.shape[1])).any(1)
        return out * taking_part[:, None]
    scans = [c for c in captures if isinstance(c, Capture)]
    directions = {c.direction for c in scans}
    if attention or len({c.layer for c in scans}) != 1 or len(directions) != len(scans):
        met = ", ".join(f"layer {c.layer} {c.direction}" for c in captures) or "no capture"
        raise ValueError(
            f"captures: {met}; wanted each direction of one layer's scan once, or one self-attention"
        )
    total = torch.stack([scan.output() for scan in scans]).sum(0)
    return F.linear(total.transpose(1, 2), scans[0].out_weight, scans[0].out_bias)
