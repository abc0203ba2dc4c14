"""Adapter for transformers' ViViT (its model 1): joint attention over tubelets, the class token first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture
from analysis.capture.attention_layer import Projections, attention_capture, pair, run_video
from analysis.capture.parts import CaptureError, Site, first_argument, is_of, needs_evaluation, part
from vmp.layout import TokenLayout

NAME = "vivit"
MODULE = "transformers.models.vivit.modeling_vivit"


def recognises(model: nn.Module) -> bool:
    return is_of(model, MODULE, "VivitModel", "VivitForVideoClassification")


def mixers(model: Any) -> Sequence[nn.Module]:
    return [block.attention for block in model.base_model.layers]


def sites(model: Any, layer: int) -> Sequence[Site]:
    def hidden(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
        mask = arguments[1] if len(arguments) > 1 else keywords.get("attention_mask")
        if mask is not None:
            raise CaptureError(f"layer {layer}: attention_mask hides tokens; captures are of whole clips")
        return first_argument(arguments, keywords)

    return [Site(mixers(model)[layer], hidden)]


def captures(model: Any, layer: int, hidden: Tensor) -> list[AttentionCapture]:
    mixer, config = mixers(model)[layer], model.config
    needs_evaluation(layer, mixer)
    q, k, v, out = (part(mixer, layer, name, nn.Linear) for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
    (height, width), (span, down, across) = pair(config.image_size), config.tubelet_size
    layout = TokenLayout.video(config.num_frames // span, (height // down, width // across), "first")
    parts = Projections.through(hidden, q, k, v, out)
    return [attention_capture(layer, hidden, parts, config.num_attention_heads, layout)]


def run(model: Any, inputs: Tensor) -> Tensor:
    return run_video(model, inputs)
