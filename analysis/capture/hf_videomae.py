"""Adapter for transformers' VideoMAE encoders: joint attention over tubelets, no class token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture
from analysis.capture.attention_layer import Projections, attention_capture, pair, run_video
from analysis.capture.parts import Site, is_of, needs_evaluation, part
from vmp.layout import TokenLayout

NAME = "videomae"
MODULE = "transformers.models.videomae.modeling_videomae"


def recognises(model: nn.Module) -> bool:
    return is_of(model, MODULE, "VideoMAEModel", "VideoMAEForVideoClassification")


def mixers(model: Any) -> Sequence[nn.Module]:
    return [block.attention for block in model.base_model.encoder.layer]


def sites(model: Any, layer: int) -> Sequence[Site]:
    return [Site(mixers(model)[layer])]


def captures(model: Any, layer: int, hidden: Tensor) -> list[AttentionCapture]:
    mixer, config = mixers(model)[layer], model.config
    needs_evaluation(layer, mixer)
    q, k, v, out = (
        part(mixer, layer, path, nn.Linear)
        for path in ("attention.query", "attention.key", "attention.value", "output.dense")
    )
    (height, width), (down, across) = pair(config.image_size), pair(config.patch_size)
    layout = TokenLayout.video(
        config.num_frames // config.tubelet_size, (height // down, width // across), "none"
    )
    parts = Projections.through(hidden, q, k, v, out)
    return [attention_capture(layer, hidden, parts, config.num_attention_heads, layout)]


def run(model: Any, inputs: Tensor) -> Tensor:
    return run_video(model, inputs)
