"""What one direction of one layer's scan used for one batch of clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.capture.parts import shown
from analysis.matrix.implicit import ImplicitAttention
from vmp.layout import TokenLayout
from vmp.mixer import DirectionTerms
from vmp.scan import choose_backend


@final
@dataclass(frozen=True, eq=False, repr=False)
class Capture:
    """One direction of one Mamba layer, as its scan saw it.

    Attributes:
        layer: Index of the layer, from 0.
        terms: Everything that the direction computed with, without a graph.
        layout: Which positions are class tokens, frames and patches.
        hidden: The mixer's input after the norm, (B, L, M).
        out_weight: The mixer's last projection, (M, D), layer scale included.
        out_bias: The projection's bias, (M,), or None.
    """

    layer: int
    terms: DirectionTerms
    layout: TokenLayout
    hidden: Float[Tensor, "B L M"]
    out_weight: Float[Tensor, "M D"]
    out_bias: Float[Tensor, " M"] | None

    is_scan = True

    @property
    def direction(self) -> str:
        """`"forward"` or `"backward"`."""
        return self.terms.direction

    @property
    def reversed(self) -> bool:
        """Whether the steps run from the last token to the first."""
        return self.terms.reverse

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what the scan computes with."""
        return self.terms.u.dtype

    @property
    def reach(self) -> int:
        """The least distance at which no token feels another through the convolution: the convolution's width."""
        return self.terms.conv_weight.shape[1]

    def backend(self) -> str:
        """The scan's backend that `"auto"` picks for these terms."""
        return choose_backend(self.terms.u)

    def operator(self) -> ImplicitAttention:
        """The scan's matrix alpha, scope `ssm`."""
        terms = self.terms
        return ImplicitAttention(
            terms.delta,
            terms.A,
            terms.B,
            terms.C,
            terms.D,
            residual=terms.residual,
            mask_diagonal=terms.mask_diagonal,
            reverse=terms.reverse,
            masked_first_step=terms.masked_first_step,
        )

    def output(self) -> Float[Tensor, "B D L"]:
        """This direction's share of the mixer's output before its last projection."""
        return self.terms.gate() * self.operator().apply(self.terms.u)

    def __repr__(self) -> str:
        (B, D, L), N = self.terms.u.shape, self.terms.A.shape[1]
        return shown(self, f"layer {self.layer}", self.direction, self.dtype, B=B, D=D, N=N, L=L)
