"""Fitting stored weights to another image size, number of frames or classes, and images' weights to video."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vmp.config import ModelConfig
from vmp.layout import TokenLayout


def inflate(kernel: Float[Tensor, "M channels H W"], tubelet: int) -> Float[Tensor, "M channels tubelet H W"]:
    """A 2-D patch kernel at the centre, `tubelet // 2`, of the temporal axis; zeros elsewhere.

    Source: VideoMamba's code, after Carreira and Zisserman, arXiv 1705.07750.
    """
    inflated = kernel.new_zeros(*kernel.shape[:2], tubelet, *kernel.shape[2:])
    inflated[:, :, tubelet // 2] = kernel
    return inflated


def resize_positions(
    positions: Float[Tensor, "1 stored M"], side: int, class_token: str
) -> Float[Tensor, "1 wanted M"]:
    """Spatial positions for a grid of `side` x `side` patches, bicubic; those of class tokens as they are.

    Positions come in the order of one frame's sequence, with class tokens where `class_token` places them.
    """
    classes = len(TokenLayout.video(1, (1, 1), class_token).class_positions)
    stored_side = math.isqrt(positions.shape[1] - classes)
    old = TokenLayout.video(1, (stored_side, stored_side), class_token)
    new = TokenLayout.video(1, (side, side), class_token)
    grid = rearrange(positions[:, old.patch_positions()], "1 (h w) m -> 1 m h w", h=stored_side)
    grid = F.interpolate(_wide(grid), (side, side), mode="bicubic", align_corners=False)
    resized = positions.new_empty(1, new.length, positions.shape[2])
    resized[:, new.patch_positions()] = rearrange(grid, "1 m h w -> 1 (h w) m").to(positions.dtype)
    resized[:, list(new.class_positions)] = positions[:, list(old.class_positions)]
    return resized


def resize_frames(positions: Float[Tensor, "1 stored M"], frames: int) -> Float[Tensor, "1 wanted M"]:
    """Temporal positions for another number of frames, linear between the centres of the stored ones."""
    resized = F.interpolate(_wide(positions).transpose(1, 2), frames, mode="linear", align_corners=False)
    return resized.transpose(1, 2).to(positions.dtype)


def _wide(tensor: Tensor) -> Tensor:
    """In float32, or as it is where it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def adapt(
    tensors: dict[str, Tensor], stored: ModelConfig, wanted: ModelConfig
) -> tuple[dict[str, Tensor], list[str], set[str]]:
    """Fit weights stored under one configuration to another.

    Returns the weights, remarks on what was done, and names of parameters that start afresh by intent.
    """
    tensors = dict(tensors)
    notes: list[str] = []
    fresh: set[str] = set()
    if stored.kind == "language":
        return tensors, notes, fresh
    head = {"head.weight", "head.bias"}
    to_video = stored.kind == "image" and wanted.kind == "video"
    if to_video and "patch_embed.proj.weight" in tensors:
        tensors["patch_embed.proj.weight"] = inflate(tensors["patch_embed.proj.weight"], wanted.tubelet_size)
        fresh.add("temporal_pos_embedding")
        notes.append(f"inflated to video of {wanted.num_frames} frames, temporal positions 0, head dropped")
    if to_video or wanted.num_classes != stored.num_classes:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
        if wanted.num_classes:
            fresh |= head
            notes.append(f"a fresh head for {wanted.num_classes} classes")
    if wanted.grid != stored.grid and "pos_embed" in tensors:
        side = wanted.grid[0]
        tensors["pos_embed"] = resize_positions(tensors["pos_embed"], side, wanted.class_token)
        notes.append(f"spatial positions resized from {stored.grid[0]} x {stored.grid[0]} to {side} x {side}")
    frames, before = (config.token_layout().frames for config in (wanted, stored))
    if not to_video and frames != before and "temporal_pos_embedding" in tensors:
        tensors["temporal_pos_embedding"] = resize_frames(tensors["temporal_pos_embedding"], frames)
        notes.append(f"temporal positions resized from {before} to {frames}")
    return tensors, notes, fresh
