"""Adapter for transformers' Mamba language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from analysis.capture.capture import Capture
from analysis.capture.mamba_layer import mamba_capture
from analysis.capture.parts import Site, first_argument, is_of

NAME = "transformers Mamba (MambaModel, MambaForCausalLM)"
MODULE = "transformers.models.mamba.modeling_mamba"


def recognises(model: nn.Module) -> bool:
    return is_of(model, MODULE, "MambaModel", "MambaForCausalLM")


def mixers(model: Any) -> Sequence[nn.Module]:
    return [block.mixer for block in model.base_model.layers]


def sites(model: Any, layer: int) -> Sequence[Site]:
    def hidden(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
        mask, cache = keywords.get("attention_mask"), keywords.get("cache_params")
        if mask is not None and not bool(mask.all()):
            raise TypeError(f"layer {layer}: attention_mask hides padding; captures are of whole sequences")
        if cache is not None and cache.has_previous_state(layer):
            raise TypeError(f"layer {layer}: continues a cached state; captures are of whole sequences")
        return first_argument(arguments, keywords)

    return [Site(mixers(model)[layer], hidden)]


def captures(model: Any, layer: int, hidden: Tensor) -> list[Capture]:
    return [mamba_capture(mixers(model)[layer], layer, hidden)]


def run(model: Any, inputs: Tensor) -> Tensor:
    out = model(input_ids=inputs, use_cache=False)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state
