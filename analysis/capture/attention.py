"""What one self-attention of one layer used for one batch of clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.capture.parts import shown
from analysis.matrix.softmax import SoftmaxAttention
from vmp.layout import TokenLayout

AttentionDirection = Literal["forward", "both", "time", "space"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class AttentionCapture:
    """One self-attention, with tokens in the order of `layout` whatever the model's own (math.md section 2).

        P^h = softmax(scale q^h k^hT) over the allowed keys        out = out_weight concat_h P^h v^h + out_bias

    Attributes:
        layer: Index of the layer, from 0.
        direction: `"both"`; `"forward"` where token i sees only j <= i; `"time"` and `"space"` where a layer has one
            attention along each, as TimeSformer's divided attention.
        q, k, v: Queries, keys and values of each head, biases included, (B, H, L, d).
        scale: Factor of the logits, such as d^-0.5.
        allowed: Which keys (columns) each row may see, (L, L); all where None. A row without a key is no part of this
            attention: the token passes it by.
        layout: Which positions are class tokens, frames and patches.
        hidden: The attention's input after the norm, (B, L, M).
        out_weight: The map that follows the heads up to the residual stream, (M, H d).
        out_bias: That map's bias, (M,), or None.
        class_sets: Sets of keys, (G, L), where a class token's row is the mean of one softmax over each, as over each
            frame in TimeSformer's attention in space. None where its row is like the others.
    """

    layer: int
    direction: AttentionDirection
    q: Float[Tensor, "B H L d"]
    k: Float[Tensor, "B H L d"]
    v: Float[Tensor, "B H L d"]
    scale: float
    allowed: Bool[Tensor, "L L"] | None
    layout: TokenLayout
    hidden: Float[Tensor, "B L M"]
    out_weight: Float[Tensor, "M K"]
    out_bias: Float[Tensor, " M"] | None
    class_sets: Bool[Tensor, "G L"] | None = None

    is_scan = False
    reversed = False
    reach = 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what the softmax is computed from."""
        return self.q.dtype

    def backend(self) -> str:
        """What stands in the place of a scan's backend."""
        return "none: self-attention"

    def operator(self) -> SoftmaxAttention:
        """The softmax matrix P of each head, scope `ssm`; channels are heads."""
        averaged = () if self.class_sets is None else self.layout.class_positions
        return SoftmaxAttention(self.q, self.k, self.scale, self.allowed, averaged, self.class_sets)

    def logits(self, rows: slice, columns: slice) -> Float[Tensor, "B H r c"]:
        """scale q_i . k_j, before the softmax and whether row i may see key j or not."""
        return self.scale * self.q[:, :, rows] @ self.k[:, :, columns].transpose(-1, -2)

    def output(self) -> Float[Tensor, "B K L"]:
        """concat_h P^h v^h, the attention's output before its projection, K = H d."""
        return rearrange(self.operator().apply(self.v), "b h l c -> b (h c) l")

    def __repr__(self) -> str:
        B, H, L, d = self.q.shape
        return shown(self, f"layer {self.layer}", self.direction, self.dtype, B=B, H=H, L=L, d=d)
