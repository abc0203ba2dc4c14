"""What one direction of one layer's scan used for one batch of clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from analysis.implicit import ImplicitAttention
from vmp.config import MaskedFirstStep, Residual, ScanInput
from vmp.layout import TokenLayout

Direction = Literal["forward", "backward"]


@final
@dataclass(frozen=True, eq=False)
class Capture:
    """One direction of one Mamba layer, as its scan saw it (letters and equations of math.md sections 1 and 2).

    Attributes:
        layer: index of the layer, from 0.
        direction: ``"forward"`` or ``"backward"``.
        delta: steps after softplus, (B, D, L).
        A: state rates, (D, N). B, C: input and output maps, (B, N, L). D: skip weights (D,), or None where this
            direction adds none.
        u: the scan's input, (B, D, L). x: the projection before the convolution, (B, D, L).
        conv_weight: (D, W), its last tap on the token itself; conv_bias: (D,) or None.
        conv_reversed: the convolution runs from the last token to the first.
        z: gate before SiLU, (B, D, L).
        scale: factor on this direction's output: 1, or 0.5 where the mixer averages its directions (Vim).
        layout: which positions are class tokens, frames and patches.
        scan_input: ``"convolved"`` where u = silu(conv(x)); ``"projected"`` where u = x (VMP as released).
        residual, mask_diagonal, reverse, masked_first_step: options of the scan.
        hidden: the mixer's input after the norm, (B, L, M).
        out_weight: the mixer's last projection, (M, D), layer scale included; out_bias: (M,) or None.
    """

    layer: int
    direction: Direction
    delta: Float[Tensor, "B D L"]
    A: Float[Tensor, "D N"]
    B: Float[Tensor, "B N L"]
    C: Float[Tensor, "B N L"]
    D: Float[Tensor, " D"] | None
    u: Float[Tensor, "B D L"]
    x: Float[Tensor, "B D L"]
    conv_weight: Float[Tensor, "D W"]
    conv_bias: Float[Tensor, " D"] | None
    conv_reversed: bool
    z: Float[Tensor, "B D L"]
    scale: float
    layout: TokenLayout
    scan_input: ScanInput
    residual: Residual
    mask_diagonal: bool
    reverse: bool
    masked_first_step: MaskedFirstStep
    hidden: Float[Tensor, "B L M"]
    out_weight: Float[Tensor, "M D"]
    out_bias: Float[Tensor, " M"] | None

    def operator(self) -> ImplicitAttention:
        """The scan's matrix alpha, scope ``ssm``."""
        return ImplicitAttention(
            self.delta,
            self.A,
            self.B,
            self.C,
            self.D,
            residual=self.residual,
            mask_diagonal=self.mask_diagonal,
            reverse=self.reverse,
            masked_first_step=self.masked_first_step,
        )

    def gate(self) -> Float[Tensor, "B D L"]:
        """scale silu(z), the factor on each row of the mixer's matrix."""
        return self.scale * F.silu(self.z)

    def conv_taps(self) -> Float[Tensor, "D W"] | None:
        """Taps by distance, the token's own first; None where the scan's input does not pass the convolution."""
        return None if self.scan_input == "projected" else self.conv_weight.flip(-1)

    def conv_slope(self) -> Float[Tensor, "B D L"]:
        """sigmoid(v) with v = K x + b, so that u = sigmoid(v) v; 1 where u is x itself."""
        if self.scan_input == "projected":
            return torch.ones_like(self.x)
        x = self.x.flip(-1) if self.conv_reversed else self.x
        v = F.conv1d(
            F.pad(x, (self.conv_weight.shape[1] - 1, 0)),
            self.conv_weight[:, None].to(x.dtype),
            None if self.conv_bias is None else self.conv_bias.to(x.dtype),
            groups=x.shape[1],
        )
        return torch.sigmoid(v.flip(-1) if self.conv_reversed else v)

    def output(self) -> Float[Tensor, "B D L"]:
        """This direction's share of the mixer's output before its last projection."""
        return self.gate() * self.operator().apply(self.u)
