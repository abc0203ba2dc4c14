"""The bidirectional Mamba mixer, with each of VideoMambaPro's changes a switch of the configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vmp.config import MaskedFirstStep, ModelConfig, Residual, ScanInput
from vmp.scan import selective_scan

# Steps at initialisation are drawn from this range, log-uniform (Mamba, section 3.6 and its code).
_STEP_RANGE = (1e-3, 1e-1)
_STEP_FLOOR = 1e-4


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DirectionTerms:
    """Everything that one direction of a Mamba layer computes with, for one batch (math.md sections 1 and 2).

    Attributes:
        direction: `"forward"` or `"backward"`.
        u: The scan's input, (B, D, L).
        x: The first half of `in_proj`'s output, before the convolution, (B, D, L).
        delta: Step sizes after softplus, (B, D, L); float32 or wider.
        A: Decay rates, negative, (D, N); float32 or wider.
        B, C: Input and output weights of the states, (B, N, L).
        D: Weight of the direct path, (D,), or None where the direction has none.
        z: The gate before its SiLU, (B, D, L).
        conv_weight, conv_bias: Weights (D, W), the last on the token itself, and bias (D,) or None of the depthwise
            convolution `v_i = b + sum_w weight[w] x_{i - (W - 1) + w}`.
        conv_reversed: Whether the convolution runs from the last token:
            `v_i = b + sum_w weight[w] x_{i + (W - 1) - w}`.
        scan_input: `"convolved"` where u is silu(v), `"projected"` where u is x (VMP as released).
        residual, mask_diagonal, reverse: Options of `vmp.selective_scan`.
        masked_first_step: `"skip_only"` where the first step of a masked scan outputs D u alone.
        scale: Factor of the gated output: 1, or 0.5 where the sum over directions is halved (Vim).
    """

    direction: Literal["forward", "backward"]
    u: Float[Tensor, "B D L"]
    x: Float[Tensor, "B D L"]
    delta: Float[Tensor, "B D L"]
    A: Float[Tensor, "D N"]
    B: Float[Tensor, "B N L"]
    C: Float[Tensor, "B N L"]
    D: Float[Tensor, "D"] | None
    z: Float[Tensor, "B D L"]
    conv_weight: Float[Tensor, "D W"]
    conv_bias: Float[Tensor, "D"] | None
    conv_reversed: bool
    scan_input: ScanInput
    residual: Residual
    mask_diagonal: bool
    reverse: bool
    masked_first_step: MaskedFirstStep
    scale: float

    def detached(self) -> DirectionTerms:
        """The same terms without the graph that computed them."""
        tensors: dict[str, Any] = {n: x.detach() for n, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **tensors)

    def gate(self) -> Float[Tensor, "B D L"]:
        """scale silu(z), which multiplies each row of the layer's matrix."""
        return self.scale * F.silu(self.z)

    def conv_taps(self) -> Float[Tensor, "D W"] | None:
        """The convolution's weights by distance, the token's own first; None where u does not pass through it."""
        return None if self.scan_input == "projected" else self.conv_weight.flip(-1)

    def conv_slope(self) -> Float[Tensor, "B D L"]:
        """sigmoid(v) with v the convolution of x, so that u = sigmoid(v) v; 1 where u is x itself."""
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

    def scan(self, backend: str = "auto") -> Float[Tensor, "B D L"]:
        """Return scale * y silu(z), with y the scan of `u`: what this direction adds to the mixer's last projection."""
        out = selective_scan(
            self.u,
            self.delta,
            self.A,
            self.B,
            self.C,
            self.D,
            self.z,
            residual=self.residual,
            mask_diagonal=self.mask_diagonal,
            masked_first_step=self.masked_first_step,
            reverse=self.reverse,
            backend=backend,
        )
        return out if self.scale == 1 else out * self.scale


class MambaMixer(nn.Module):
    """Gated selective scans over a sequence, forward and, where the configuration says so, backward.

    With (x, z) the halves of in_proj(hidden), v = conv(x) and, for each direction,

        (r, B, C) = x_proj silu(v)      delta = softplus(dt_proj r)      u = silu(v), or x
        out = out_proj sum over directions of scan(u; delta, A, B, C, D) silu(z)

    The backward direction scans from the last token. It has its own convolution, run from the end, and its
    own projections, named with `_b`; or, with `shared_projections`, its own A and all else of the forward
    direction's. Parameter names are those of VideoMamba's files. The options are fields of `ModelConfig`.

    Steps are initialised as in Mamba, log-uniform in [1e-3, 1e-1]. VideoMamba's code overwrites that with a
    bias of 0, which starts every step near ln 2; ours is Mamba's.

    Args:
        config: the model's configuration, with `mixer` "mamba".

    `backend` names the scan's backend and may be set at any time; it is "auto" at first.

    Source: Gu and Dao, arXiv 2312.00752; Zhu et al., arXiv 2401.09417 (directions); Lu, Salah and Poppe,
    arXiv 2406.19006 (mask and residual).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backend = "auto"
        width, inner, states = config.d_model, config.d_inner, config.d_state
        self.in_proj = nn.Linear(width, 2 * inner, bias=config.projection_bias)
        self._add_direction("", skip=True)
        if config.separate_backward:
            self._add_direction("_b", skip=config.backward_skip)
        elif config.directions == "both":
            self.A_b_log = _initial_log_rates(inner, states)
        self.out_proj = nn.Linear(inner, width, bias=config.projection_bias)
        if config.layer_scale:
            self.gamma = nn.Parameter(torch.ones(width))
        if not self.out_proj.weight.is_meta:
            # Keeps the residual stream's variance independent of depth, as in GPT-2 and Mamba.
            with torch.no_grad():
                self.out_proj.weight /= math.sqrt(config.depth)

    def forward(self, hidden: Float[Tensor, "B L M"]) -> Float[Tensor, "B L M"]:
        """The mixer's output for a sequence of normalised tokens."""
        gated = [terms.scan(self.backend) for terms in self.directions(hidden)]
        out = self.out_proj(rearrange(sum(gated[1:], gated[0]), "b d l -> b l d"))
        return out * self.gamma if self.config.layer_scale else out

    def directions(self, hidden: Float[Tensor, "B L M"]) -> list[DirectionTerms]:
        """What each direction computes with: the forward one, then, where there is one, the backward one."""
        x, z = rearrange(self.in_proj(hidden), "b l (two d) -> two b d l", two=2)
        forward = self._terms(x, z, "")
        if self.config.directions == "forward":
            return [forward]
        return [forward, self._terms(x, z, "_b")]

    def _terms(self, x: Float[Tensor, "B D L"], z: Float[Tensor, "B D L"], suffix: str) -> DirectionTerms:
        config = self.config
        backward = suffix == "_b"
        own = "" if config.shared_projections else suffix
        weight = rearrange(self.get_parameter(f"conv1d{own}.weight"), "d 1 w -> d w")
        bias = self.get_parameter(f"conv1d{own}.bias") if config.conv_bias else None
        conv_reversed = own == "_b"
        activated = F.silu(_convolve(x, weight, bias, conv_reversed))
        delta, B, C = self._steps_and_weights(activated, own)
        return DirectionTerms(
            direction="backward" if backward else "forward",
            u=activated if config.scan_input == "convolved" else x,
            x=x,
            delta=delta,
            A=-torch.exp(_wide(self.get_parameter("A_b_log" if backward else "A_log"))),
            B=B,
            C=C,
            D=self.get_parameter(f"D{own}") if config.backward_skip or not backward else None,
            z=z,
            conv_weight=weight,
            conv_bias=bias,
            conv_reversed=conv_reversed,
            scan_input=config.scan_input,
            residual=config.residual,
            mask_diagonal=backward and config.mask_backward,
            reverse=backward,
            masked_first_step=config.masked_first_step,
            scale=0.5 if config.halve_output else 1.0,
        )

    def _steps_and_weights(
        self, activated: Float[Tensor, "B D L"], own: str
    ) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B N L"], Float[Tensor, "B N L"]]:
        """delta after softplus, B and C of the direction whose modules end in `own`."""
        states = self.config.d_state
        projected = self.get_submodule(f"x_proj{own}")(rearrange(activated, "b d l -> b l d"))
        low_rank, B, C = projected.split([self.config.delta_rank, states, states], dim=-1)
        raw = F.linear(low_rank, self.get_parameter(f"dt_proj{own}.weight"))
        # The bias is added in float32 or wider, as in Mamba's kernels: bfloat16 would round small steps off.
        delta = F.softplus(_wide(raw) + _wide(self.get_parameter(f"dt_proj{own}.bias")))
        return (
            rearrange(delta, "b l d -> b d l"),
            rearrange(B, "b l n -> b n l"),
            rearrange(C, "b l n -> b n l"),
        )

    def _add_direction(self, suffix: str, *, skip: bool) -> None:
        config = self.config
        inner, states, rank = config.d_inner, config.d_state, config.delta_rank
        conv = nn.Conv1d(inner, inner, config.d_conv, groups=inner, bias=config.conv_bias)
        dt_proj = nn.Linear(rank, inner)
        nn.init.uniform_(dt_proj.weight, -(rank**-0.5), rank**-0.5)
        # Arithmetic on the meta device would load torch's compiler, which takes seconds.
        if not dt_proj.bias.is_meta:
            low, high = map(math.log, _STEP_RANGE)
            steps = torch.exp(torch.rand(inner) * (high - low) + low).clamp(min=_STEP_FLOOR)
            with torch.no_grad():
                dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))
        self.add_module(f"conv1d{suffix}", conv)
        self.add_module(f"x_proj{suffix}", nn.Linear(inner, rank + 2 * states, bias=False))
        self.add_module(f"dt_proj{suffix}", dt_proj)
        self.register_parameter("A_b_log" if suffix else "A_log", _initial_log_rates(inner, states))
        if skip:
            self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(inner)))


def _convolve(
    x: Float[Tensor, "B D L"], weight: Float[Tensor, "D W"], bias: Float[Tensor, "D"] | None, from_end: bool
) -> Float[Tensor, "B D L"]:
    """The depthwise causal convolution, or its mirror image, in which token i sees only tokens after it."""
    reach = weight.shape[1] - 1
    padded = F.pad(x, (0, reach) if from_end else (reach, 0))
    kernel = weight.flip(1) if from_end else weight
    return F.conv1d(padded, kernel[:, None], bias, groups=weight.shape[0])


def _initial_log_rates(inner: int, states: int) -> nn.Parameter:
    """log of A[n] = -(n + 1), every channel alike: S4D-real."""
    log = torch.empty(inner, states)
    if not log.is_meta:
        log.copy_(torch.log(torch.arange(1, states + 1, dtype=log.dtype)))
    return nn.Parameter(log)


def _wide(tensor: Tensor) -> Tensor:
    """In float32, or as it is where it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
