"""This project's own mixers: what a layer's scans, or its self-attention, use for an input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture
from analysis.capture.parts import CaptureError, parameter, part
from vmp.attention import SelfAttentionMixer
from vmp.layout import TokenLayout
from vmp.mixer import MambaMixer


def captures_of_mixer(
    mixer: nn.Module, layer: int, hidden: Tensor, layout: TokenLayout
) -> list[Capture] | list[AttentionCapture]:
    """The directions of one mixer for its input (B, L, M).

    Raises:
        CaptureError: The mixer is of another class, or hides a part that it computes with.
    """
    if isinstance(mixer, SelfAttentionMixer):
        return [_attention(mixer, layer, hidden, layout)]
    if not isinstance(mixer, MambaMixer):
        raise CaptureError(
            f"layer {layer} is a {type(mixer).__name__}; MambaMixer and SelfAttentionMixer are known"
        )
    _check_readable(mixer, layer)
    weight, bias = _output_projection(mixer)
    return [
        Capture(layer, terms.detached(), layout, hidden.detach(), weight, bias)
        for terms in mixer.directions(hidden)
    ]


def _check_readable(mixer: MambaMixer, layer: int) -> None:
    """Raise CaptureError where a part that a direction is computed from is hidden."""
    ends = ("", "_b") if mixer.config.separate_backward else ("",)
    linear = ("in_proj", "out_proj", *(f"{name}{end}" for name in ("x_proj", "dt_proj") for end in ends))
    for name in linear:
        part(mixer, layer, name, nn.Linear)
    for end in ends:
        part(mixer, layer, f"conv1d{end}", nn.Conv1d)
    for name in ("A_log", *(("A_b_log",) if mixer.config.directions == "both" else ())):
        parameter(mixer, layer, name)


def _attention(
    mixer: SelfAttentionMixer, layer: int, hidden: Tensor, layout: TokenLayout
) -> AttentionCapture:
    for name in ("qkv", "out_proj"):
        part(mixer, layer, name, nn.Linear)
    q, k, v = (x.detach() for x in mixer.heads(hidden))
    causal = mixer.config.directions == "forward"
    length = hidden.shape[1]
    return AttentionCapture(
        layer=layer,
        direction="forward" if causal else "both",
        q=q,
        k=k,
        v=v,
        scale=q.shape[-1] ** -0.5,
        allowed=torch.ones(length, length, dtype=torch.bool, device=q.device).tril() if causal else None,
        layout=layout,
        hidden=hidden.detach(),
        out_weight=mixer.out_proj.weight.detach(),
        out_bias=None,
    )


def _output_projection(mixer: MambaMixer) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the mixer's last linear map, its layer scale folded in."""
    linear = mixer.out_proj
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if not mixer.config.layer_scale:
        return weight, bias
    gamma = mixer.gamma.detach()
    return gamma[:, None] * weight, None if bias is None else gamma * bias
