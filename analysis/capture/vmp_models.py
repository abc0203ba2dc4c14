"""Adapter for the models of this package: video, image and language models with Mamba or self-attention mixers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture
from analysis.capture.parts import CaptureError, Site, parameter, part
from vmp.attention import SelfAttentionMixer
from vmp.layout import TokenLayout
from vmp.mixer import MambaMixer
from vmp.model import LanguageModel, VideoModel

NAME = "vmp (VideoModel, LanguageModel)"


def recognises(model: nn.Module) -> bool:
    return isinstance(model, VideoModel | LanguageModel)


def mixers(model: VideoModel | LanguageModel) -> Sequence[nn.Module]:
    return [model.get_submodule(f"layers.{layer}.mixer") for layer in range(model.config.depth)]


def sites(model: VideoModel | LanguageModel, layer: int) -> Sequence[Site]:
    return [Site(mixers(model)[layer])]


def captures(
    model: VideoModel | LanguageModel, layer: int, hidden: Tensor
) -> list[Capture] | list[AttentionCapture]:
    layout = model.token_layout(hidden.shape[1]) if isinstance(model, LanguageModel) else model.token_layout()
    mixer = mixers(model)[layer]
    if isinstance(mixer, SelfAttentionMixer):
        return [_attention(mixer, layer, hidden, layout)]
    if not isinstance(mixer, MambaMixer):
        raise CaptureError(
            f"layer {layer} is a {type(mixer).__name__}; MambaMixer and SelfAttentionMixer are known"
        )
    _check_readable(mixer, layer)
    weight, bias = _output_projection(mixer)
    return [
        Capture(
            layer=layer,
            layout=layout,
            hidden=hidden.detach(),
            out_weight=weight,
            out_bias=bias,
            # Every term of the scan under its own name; parameters among them would drag the graph along.
            **{name: _detached(value) for name, value in vars(terms).items()},
        )
        for terms in mixer.directions(hidden)
    ]


def run(model: VideoModel | LanguageModel, inputs: Tensor) -> Tensor:
    return model(inputs)


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


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _output_projection(mixer: MambaMixer) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the mixer's last linear map, its layer scale folded in."""
    weight, bias = _detached(mixer.out_proj.weight), _detached(mixer.out_proj.bias)
    if not mixer.config.layer_scale:
        return weight, bias
    gamma = mixer.gamma.detach()
    return gamma[:, None] * weight, None if bias is None else gamma * bias
