"""Clips for a device that has no decoder of videos and no photographs: noise, the same numbers on every machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

NUDGE = 8
"""By how many eps of float32 `nudged` changes a number at most: about what layers of float32 sums add up to."""


@dataclass(frozen=True, eq=False)
class NoiseClip:
    """A clip as `analysis.inputs` wants it, drawn as if normalised."""

    video: Float[Tensor, "3 T H W"]
    name: str
    label: str | None = None


def noise(
    num_frames: int, image_size: int, count: int, seed: int, paths: Sequence[Path] = ()
) -> Iterator[NoiseClip]:
    """An entry point of `analysis.clips`: normal noise; `paths` is not used."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        video = torch.randn(3, num_frames, image_size, image_size, generator=generator)
        yield NoiseClip(video, f"noise {index}")


def nudged(
    num_frames: int, image_size: int, count: int, seed: int, paths: Sequence[Path] = ()
) -> Iterator[NoiseClip]:
    """The clips of `noise`, each number larger or smaller by a random part of at most `NUDGE` eps of it."""
    generator = torch.Generator().manual_seed(seed + 1)
    most = NUDGE * torch.finfo(torch.float32).eps
    for clip in noise(num_frames, image_size, count, seed):
        part = 2 * torch.rand(clip.video.shape, generator=generator, dtype=torch.float64) - 1
        yield NoiseClip((clip.video * (1 + most * part)).float(), clip.name)
