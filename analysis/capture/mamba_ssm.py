"""Adapter for whatever holds the mamba_ssm package's `Mamba`: its language models, or a model of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from analysis.capture.capture import Capture
from analysis.capture.mamba_layer import mamba_capture
from analysis.capture.parts import Site, first_argument, is_of

NAME = "mamba_ssm (models with its Mamba)"
MODULE = "mamba_ssm.modules.mamba_simple"
OTHER_FORMS = ("A_b_log", "bimamba_type")
"""What forks with a backward direction, such as VideoMamba's and Vim's, add to the package's `Mamba`."""


def recognises(model: nn.Module) -> bool:
    return bool(mixers(model))


def mixers(model: nn.Module) -> Sequence[nn.Module]:
    return [module for module in model.modules() if is_of(module, MODULE, "Mamba")]


def sites(model: nn.Module, layer: int) -> Sequence[Site]:
    def hidden(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
        if keywords.get("inference_params") is not None or (len(arguments) > 1 and arguments[1] is not None):
            raise TypeError(f"layer {layer}: continues a cached state; captures are of whole sequences")
        return first_argument(arguments, keywords)

    return [Site(mixers(model)[layer], hidden)]


def captures(model: nn.Module, layer: int, hidden: Tensor) -> list[Capture]:
    mixer = mixers(model)[layer]
    for name in OTHER_FORMS:
        if hasattr(mixer, name):
            raise TypeError(
                f"layer {layer}: Mamba has {name}, so a fork's; save its weights and load them with vmp.load_checkpoint"
            )
    return [mamba_capture(mixer, layer, hidden)]


def run(model: nn.Module, inputs: Tensor) -> Tensor:
    out = model(inputs)
    return out.logits if hasattr(out, "logits") else out
