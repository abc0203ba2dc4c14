"""Adapter for any model that holds known mixers: mamba_ssm's `Mamba`, transformers' `MambaMixer`, or this project's.

Such a model's tokens are a plain sequence, unless the caller gives their layout. Each mixer is a layer, numbered in the
order of `model.modules()`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture
from analysis.capture.mamba_layer import mamba_capture, whole_sequence
from analysis.capture.parts import CaptureError, Site, is_of
from analysis.capture.vmp_layer import captures_of_mixer
from vmp.attention import SelfAttentionMixer
from vmp.layout import TokenLayout
from vmp.mixer import MambaMixer

NAME = "modules"
PACKAGE = "mamba_ssm.modules.mamba_simple"
TRANSFORMERS = "transformers.models.mamba.modeling_mamba"
OTHER_FORMS = ("A_b_log", "bimamba_type")
"""What forks with a backward direction, such as VideoMamba's and Vim's, add to the package's `Mamba`."""


def recognises(model: nn.Module) -> bool:
    return any(map(_is_mixer, model.modules()))


def mixers(model: nn.Module) -> Sequence[nn.Module]:
    return [module for module in model.modules() if _is_mixer(module)]


def sites(model: nn.Module, layer: int) -> Sequence[Site]:
    return [Site(mixers(model)[layer], whole_sequence(layer))]


def captures(model: nn.Module, layer: int, hidden: Tensor) -> list[Capture] | list[AttentionCapture]:
    mixer, layout = mixers(model)[layer], TokenLayout.sequence(hidden.shape[1])
    if isinstance(mixer, MambaMixer | SelfAttentionMixer):
        return captures_of_mixer(mixer, layer, hidden, layout)
    for name in OTHER_FORMS:
        if hasattr(mixer, name):
            raise CaptureError(
                f"layer {layer}: Mamba has {name}, so a fork's; save its weights and load them with vmp.load_checkpoint"
            )
    return [mamba_capture(mixer, layer, hidden)]


def run(model: nn.Module, inputs: Tensor) -> Tensor:
    out = model(inputs)
    return out.logits if hasattr(out, "logits") else out


def _is_mixer(module: nn.Module) -> bool:
    return (
        isinstance(module, MambaMixer | SelfAttentionMixer)
        or is_of(module, PACKAGE, "Mamba")
        or is_of(module, TRANSFORMERS, "MambaMixer")
    )
