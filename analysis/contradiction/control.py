"""Self-attention that contradiction is set against: fresh weights of a model's size, or a checkpoint of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from analysis.pretrained import is_folder
from analysis.request import CLIP_SHAPE, Opened, Request, RequestError, open_request
from vmp.config import ModelConfig, attention_control
from vmp.model import build_model

FRESH = (
    "fresh weights, as many as the checkpoint's mixers have, show what the form of self-attention gives, not what "
    "training makes of it; --control takes a trained one."
)
"""Note on a control of `untrained_control`; a result puts the control's name before it."""

NO_CONTROL = "The checkpoint is self-attention itself, so that it has no control unless --control names one."
"""Note on a checkpoint that is probed alone."""


def untrained_control(config: ModelConfig, device: torch.device | str, seed: int) -> tuple[str, nn.Module]:
    """Build self-attention of a model's size, with fresh weights.

    Args:
        config: The model's configuration.
        device: Where the control is put.
        seed: Seed of the weights. The generators of the caller are left as they were.

    Returns:
        What the control is called, and the control in evaluation mode.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = build_model(attention_control(config)).to(device).eval()
    return f"self-attention, untrained, seed {seed}", model


def control_request(opened: Opened, path: Path) -> Opened:
    """Read the checkpoint of a control, so that it takes the clips of the probed model.

    Args:
        opened: The probed model.
        path: Where the control's checkpoint lies.

    Raises:
        RequestError: The checkpoint cannot be read, or cannot stand beside the model.
    """
    fixed = opened.config.kind == "language" or is_folder(path)
    shape = () if fixed else tuple((name, getattr(opened.config, name)) for name in CLIP_SHAPE)
    control = open_request(Request(path, device=opened.request.device, overrides=shape))
    check_control(path, control.config, opened.config, opened.layers)
    return control


def check_control(path: Path, control: ModelConfig, probed: ModelConfig, layers: Sequence[int]) -> None:
    """Check that a checkpoint can stand beside a model.

    Args:
        path: Where the control's checkpoint lies, for the message.
        control: The configuration that was read there.
        probed: The model's configuration.
        layers: The layers that are probed, as indices from 0.

    Raises:
        RequestError: The control has no self-attention, is a model of another kind, takes other clips, or is too
            shallow.
    """
    if control.mixer != "attention":
        raise RequestError(f"--control {path}: its mixers are scans; a self-attention checkpoint is needed")
    if control.kind != probed.kind:
        raise RequestError(f"--control {path}: is a {control.kind} model; {probed.kind} is needed")
    theirs, wanted = ((config.num_frames, config.image_size) for config in (control, probed))
    if probed.kind != "language" and theirs != wanted:
        raise RequestError(
            f"--control {path}: takes {theirs[0]} frames of {theirs[1]} pixels; {wanted[0]} of {wanted[1]} are shown"
        )
    if max(layers) >= control.depth:
        raise RequestError(
            f"--control {path}: has layers 0 to {control.depth - 1}; layer {max(layers)} is probed"
        )
