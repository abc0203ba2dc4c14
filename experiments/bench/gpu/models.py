"""Whole models that are timed: VideoMambaPro, and self-attention of as many parameters on the same tokens."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench.peers import scan_left_out
from vmp.config import ModelConfig, matched_config, named_config
from vmp.model import VideoModel

CLASSES = 400
"""Outputs of the head, as of Kinetics-400."""
APART = 0.02
"""How far the parameters of the two may differ, as a fraction."""


def configs(name: str, **fields: Any) -> tuple[ModelConfig, ModelConfig]:
    """The named Mamba model, and self-attention of as many parameters within `APART`.

    Fused attention kernels want heads of a multiple of 8 wide, or pad them, so the control's heads are that where the
    parameters allow it: a width such as 122 would slow it for no reason of its own.
    """
    mamba = named_config(name, num_classes=CLASSES, **fields)
    control = matched_config(name, "attention", num_classes=CLASSES, **fields)
    heads = control.num_heads
    aligned = replace(control, attention_width=heads * max(8, 8 * round(control.attention_inner / heads / 8)))
    apart = abs(parameters(aligned) / parameters(mamba) - 1)
    return mamba, aligned if apart <= APART else control


def on_meta(config: ModelConfig) -> VideoModel:
    """The model without storage, to count on."""
    with torch.device("meta"):
        return VideoModel(config)


def by_depth(count: Callable[[VideoModel], int], config: ModelConfig) -> int:
    """What `count` gives of the whole model, from one of one block and one of two: every block counts alike.

    Making 32 blocks takes longer than timing them.
    """
    one, two = (count(on_meta(replace(config, depth=depth))) for depth in (1, 2))
    return one + (config.depth - 1) * (two - one)


@functools.cache
def parameters(config: ModelConfig) -> int:
    """How many numbers the model learns."""
    return by_depth(lambda model: sum(parameter.numel() for parameter in model.parameters()), config)


def random_clips(config: ModelConfig, batch: int, device: str) -> Tensor:
    """Random clips, (batch, channels, T, H, W), float32."""
    size = config.image_size
    return torch.randn(batch, config.channels, config.num_frames, size, size, device=device)


def flops(config: ModelConfig) -> tuple[int, int]:
    """Floating point operations of a clip: those of products of matrices and convolutions, and those of the scans.

    The first are torch's count, 2 for a multiplication and addition, attention's two products of L x L among them;
    norms and activations are left out. The second are `scan_flops` of every layer and direction.
    """
    products = by_depth(_products, config)
    if config.mixer == "attention":
        return products, 0
    directions = 2 if config.directions == "both" else 1
    return products, config.depth * directions * scan_flops(config)


def _products(model: VideoModel) -> int:
    with scan_left_out(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(random_clips(model.config, 1, "meta"))
    return counter.get_total_flops()


def scan_flops(config: ModelConfig) -> int:
    """Operations of one scan over a clip, L D ((7 or 8) N + 8), counted from the recurrence.

    A state and step: delta A, its exponential (counted as one), B times delta u, decay times state, their sum, C times
    state, the sum over states; 8 with the elemental residual's addition. A channel and step: delta u, the direct
    path's 2, the gate's 5. The papers' tables use 9 L D N for the same work.
    """
    a_state = 8 if config.residual == "elemental" else 7
    return config.token_layout().length * config.d_inner * (a_state * config.d_state + 8)


def autocast(device: str) -> torch.autocast:
    """bfloat16 where torch thinks it safe, over weights in float32."""
    return torch.autocast(device, torch.bfloat16)


def in_a_line(error: BaseException) -> str:
    """What a row says of a subject that failed."""
    lines = str(error).strip().splitlines()
    return f"FAILED: {type(error).__name__}: {lines[0] if lines else ''}"[:300]


def synchronised(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()
