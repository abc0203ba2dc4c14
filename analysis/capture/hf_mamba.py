"""Adapter for transformers' Mamba language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from analysis.capture.capture import Capture
from analysis.capture.mamba_layer import mamba_capture, whole_sequence
from analysis.capture.parts import Site, is_of

NAME = "mamba"
MODULE = "transformers.models.mamba.modeling_mamba"


def recognises(model: nn.Module) -> bool:
    return is_of(model, MODULE, "MambaModel", "MambaForCausalLM")


def mixers(model: Any) -> Sequence[nn.Module]:
    return [block.mixer for block in model.base_model.layers]


def sites(model: Any, layer: int) -> Sequence[Site]:
    return [Site(mixers(model)[layer], whole_sequence(layer))]


def captures(model: Any, layer: int, hidden: Tensor) -> list[Capture]:
    return [mamba_capture(mixers(model)[layer], layer, hidden)]


def run(model: Any, inputs: Tensor) -> Tensor:
    out = model(input_ids=inputs, use_cache=False)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state
