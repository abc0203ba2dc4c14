"""Mamba's layer, by the parameter names that mamba_ssm and transformers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from analysis.capture.capture import Capture
from analysis.capture.parts import CaptureError, first_argument, parameter, part
from vmp.layout import TokenLayout
from vmp.mixer import DirectionTerms


def mamba_capture(mixer: nn.Module, layer: int, hidden: Tensor) -> Capture:
    """The forward scan of one layer on a sequence without padding and without a state carried in.

        (x, z) = in_proj h        u = silu(conv1d x)        (r, B, C) = x_proj u
        delta = softplus(dt_proj r)        A = -exp(A_log)

    Raises:
        CaptureError: A parameter is hidden, or the activation is not SiLU.

    Source: Gu and Dao, arXiv 2312.00752, section 3.4, and the mamba_ssm package.
    """
    activation = getattr(mixer, "activation", None)
    if activation not in ("silu", "swish"):
        raise CaptureError(
            f"layer {layer}: the activation of {type(mixer).__name__} is {activation!r}; 'silu' is known"
        )
    in_proj, x_proj, dt_proj, out_proj = (
        part(mixer, layer, name, nn.Linear) for name in ("in_proj", "x_proj", "dt_proj", "out_proj")
    )
    conv = part(mixer, layer, "conv1d", nn.Conv1d)
    log_rates, skip = parameter(mixer, layer, "A_log"), parameter(mixer, layer, "D")
    x, z = rearrange(in_proj(hidden), "b l (two d) -> two b d l", two=2)
    taps = rearrange(conv.weight, "d 1 w -> d w")
    u = F.silu(F.conv1d(F.pad(x, (taps.shape[1] - 1, 0)), conv.weight, conv.bias, groups=taps.shape[0]))
    states = log_rates.shape[1]
    low_rank, B, C = x_proj(u.transpose(1, 2)).split([dt_proj.in_features, states, states], dim=-1)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    terms = DirectionTerms(
        direction="forward",
        delta=F.softplus(dt_proj(low_rank).to(wide)).transpose(1, 2),
        A=-torch.exp(log_rates.to(wide)),
        B=B.transpose(1, 2),
        C=C.transpose(1, 2),
        D=skip,
        u=u,
        x=x,
        conv_weight=taps,
        conv_bias=conv.bias,
        conv_reversed=False,
        z=z,
        scale=1.0,
        scan_input="convolved",
        residual="none",
        mask_diagonal=False,
        reverse=False,
        masked_first_step="carry",
    )
    bias = None if out_proj.bias is None else out_proj.bias.detach()
    layout = TokenLayout.sequence(hidden.shape[1])
    return Capture(layer, terms.detached(), layout, hidden.detach(), out_proj.weight.detach(), bias)


def whole_sequence(layer: int) -> Callable[[tuple[Any, ...], Mapping[str, Any]], Tensor]:
    """Takes the input of one layer from its arguments, where that is a whole sequence.

    The function that is returned raises CaptureError where an attention mask hides tokens, or the layer continues a
    state that is cached in `cache_params` (transformers) or `inference_params` (mamba_ssm).
    """

    def hidden(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
        mask, cache = keywords.get("attention_mask"), keywords.get("cache_params")
        if mask is not None and not bool(mask.all()):
            raise CaptureError(
                f"layer {layer}: attention_mask hides padding; captures are of whole sequences"
            )
        state = arguments[1] if len(arguments) > 1 else keywords.get("inference_params")
        if state is not None or (cache is not None and cache.has_previous_state(layer)):
            raise CaptureError(f"layer {layer}: continues a cached state; captures are of whole sequences")
        return first_argument(arguments, keywords)

    return hidden
