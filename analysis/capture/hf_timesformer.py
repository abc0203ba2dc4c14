"""Adapter for transformers' TimeSformer with divided, joint or space-only attention (arXiv 2102.05095, section 3).

Its tokens run through time first, patch by patch; captures have them frame by frame, as this project does.

- divided: in time, a patch sees the same place in all frames, and the class token takes no part. In space, a patch
  sees its frame and the class token; the class token attends to each frame on its own and averages the results.
- joint: every token sees every token.
- space-only: frames are a batch of images to the model, each with a class token; here they are one sequence in which a
  token sees its own frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture
from analysis.capture.attention_layer import Projections, attention_capture, pair, run_video
from analysis.capture.parts import CaptureError, Site, first_argument, is_of, needs_evaluation, part
from vmp.layout import TokenLayout

NAME = "timesformer"
MODULE = "transformers.models.timesformer.modeling_timesformer"


def recognises(model: nn.Module) -> bool:
    return is_of(model, MODULE, "TimesformerModel", "TimesformerForVideoClassification")


def mixers(model: Any) -> Sequence[nn.Module]:
    return list(model.base_model.encoder.layer)


def sites(model: Any, layer: int) -> Sequence[Site]:
    block: Any = mixers(model)[layer]
    kind = model.config.attention_type
    if kind == "divided_space_time":
        return [
            Site(block.temporal_attention, partial(_from_time, model, layer), "time"),
            Site(block.attention, partial(_from_space, model, layer), "space"),
        ]
    order = _from_joint if kind == "joint_space_time" else _from_frames
    return [Site(block.attention, partial(order, model, layer))]


def captures(model: Any, layer: int, hidden: Tensor) -> list[AttentionCapture]:
    block: Any = mixers(model)[layer]
    kind = model.config.attention_type
    needs_evaluation(layer, block)
    layout = _layout(model)
    take = partial(attention_capture, layer, hidden, heads=model.config.num_attention_heads, layout=layout)
    space = _projections(block, layer, "attention", hidden)
    if kind == "joint_space_time":
        return [take(space)]
    frame = layout.frame_index
    if kind == "space_only":
        # A class token belongs to the frame whose patches come after it.
        frame = torch.arange(layout.length) // (1 + layout.patches)
        return [take(space, direction="space", allowed=frame[:, None] == frame)]
    place = torch.where(frame < 0, -1, layout.row_index * layout.grid[1] + layout.col_index)
    same_place = (place[:, None] == place) & (place >= 0)
    sees_frame = (frame[:, None] == frame) | (frame < 0)
    sets = (torch.arange(layout.frames)[:, None] == frame) | (frame < 0)
    time = _projections(block, layer, "temporal_attention", hidden)
    last = part(block, layer, "temporal_dense", nn.Linear)
    bias = last.bias if time.out_bias is None else F.linear(time.out_bias, last.weight, last.bias)
    time = time._replace(out_weight=last.weight @ time.out_weight, out_bias=bias)
    return [
        take(time, direction="time", allowed=same_place),
        take(space, direction="space", allowed=sees_frame, class_sets=sets),
    ]


def run(model: Any, inputs: Tensor) -> Tensor:
    return run_video(model, inputs)


def _layout(model: Any) -> TokenLayout:
    config = model.config
    (height, width), (down, across) = pair(config.image_size), pair(config.patch_size)
    grid = (height // down, width // across)
    if config.attention_type != "space_only":
        return TokenLayout.video(config.num_frames, grid, "first")
    step = 1 + grid[0] * grid[1]
    return TokenLayout(tuple(range(0, config.num_frames * step, step)), config.num_frames, grid)


def _projections(block: nn.Module, layer: int, name: str, hidden: Tensor) -> Projections:
    qkv = part(block, layer, f"{name}.attention.qkv", nn.Linear)
    out = part(block, layer, f"{name}.output.dense", nn.Linear)
    q, k, v = qkv(hidden).chunk(3, dim=-1)
    return Projections(q, k, v, out.weight, out.bias)


def _from_joint(model: Any, layer: int, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    tokens = first_argument(arguments, keywords)
    _check(layer, tokens.shape[1], _layout(model).length)
    patches = rearrange(tokens[:, 1:], "b (p t) m -> b (t p) m", t=model.config.num_frames)
    return torch.cat([tokens[:, :1], patches], 1)


def _from_frames(model: Any, layer: int, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    tokens, layout = first_argument(arguments, keywords), _layout(model)
    _check(layer, tokens.shape[1], 1 + layout.patches)
    if tokens.shape[0] % layout.frames:
        raise CaptureError(
            f"layer {layer}: sees {tokens.shape[0]} frames, which are no clips of {layout.frames}"
        )
    return rearrange(tokens, "(b t) p m -> b (t p) m", t=layout.frames)


def _from_time(model: Any, layer: int, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    tokens, layout = first_argument(arguments, keywords), _layout(model)
    _check(layer, tokens.shape[1], layout.frames)
    patches = rearrange(tokens, "(b p) t m -> b (t p) m", p=layout.patches)
    # The class token takes no part; its place is kept so that time and space have one layout.
    return F.pad(patches, (0, 0, 1, 0))


def _from_space(model: Any, layer: int, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    tokens, layout = first_argument(arguments, keywords), _layout(model)
    _check(layer, tokens.shape[1], 1 + layout.patches)
    tokens = rearrange(tokens, "(b t) p m -> b t p m", t=layout.frames)
    # Every frame has a copy of the class token.
    return torch.cat([tokens[:, 0, :1], rearrange(tokens[:, :, 1:], "b t p m -> b (t p) m")], 1)


def _check(layer: int, tokens: int, expected: int) -> None:
    if tokens != expected:
        raise CaptureError(
            f"layer {layer}: attends over {tokens} tokens and the configuration has {expected}; show the model clips "
            "of the configuration's shape"
        )
