"""Adapter for the models of this project: video, image and language models with Mamba or self-attention mixers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture
from analysis.capture.parts import Site
from analysis.capture.vmp_layer import captures_of_mixer
from vmp.model import LanguageModel, VideoModel

NAME = "vmp"


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
    return captures_of_mixer(mixers(model)[layer], layer, hidden, layout)


def run(model: VideoModel | LanguageModel, inputs: Tensor) -> Tensor:
    return model(inputs)
