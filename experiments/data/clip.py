"""What every source of clips gives: a `Clip` to a probe, a `ClipDataset` to a training loop."""

import abc
import dataclasses
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from analysis.inputs import MEAN, STD

SPLITS = ("train", "held-out")
"""The splits of a task that makes its clips. What one of them shows, the other never shows."""

_SCALE = 255 * torch.tensor(STD)[:, None, None, None]
_SHIFT = (torch.tensor(MEAN) / torch.tensor(STD))[:, None, None, None]


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """One clip to probe: `video` comes from `normalise`; `label` is None where the source knows none."""

    video: Float[Tensor, "3 T H W"]
    name: str
    label: str | None = None


def normalise(frames: UInt8[np.ndarray, "T H W 3"]) -> Float[Tensor, "3 T H W"]:
    """RGB frames as the models take them: (frames / 255 - MEAN) / STD by channel, float32, channels first."""
    return (torch.from_numpy(frames).permute(3, 0, 1, 2).float() / _SCALE - _SHIFT).contiguous()


class ClipDataset(Dataset[tuple[Tensor, int]], abc.ABC):
    """Labelled clips. Item `index` is a function of the arguments and the index alone.

    Neither the order in which items are read nor the number of workers that read them changes a bit of any item.
    """

    classes: tuple[str, ...]
    """What each label means, for labels 0, 1, 2, ..."""

    @property
    def blind(self) -> float:
        """The accuracy of the best guess that does not do what the task asks; chance, unless a task says otherwise."""
        return 1 / len(self.classes)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def label(self, index: int) -> int:
        """The class of clip `index`, known without making its frames."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """A short name of clip `index` that says where it comes from."""

    @abc.abstractmethod
    def frames(self, index: int) -> UInt8[np.ndarray, "T H W 3"]:
        """The RGB frames of clip `index`, before normalisation."""

    def conditions(self, index: int) -> dict[str, int | str]:
        """The conditions that the accuracy is broken down by, and their values for clip `index`."""
        return {}

    @final
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The normalised video (3, T, H, W) and the label of clip `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}: indices run from 0 to {len(self) - 1}")
        frames = self.frames(index) if self._held is None else self._held[index]
        return normalise(frames), self.label(index)

    @final
    def clip(self, index: int) -> Clip:
        """Clip `index` with its name and the name of its class."""
        video, label = self[index]
        return Clip(video, self.name(index), self.classes[label])

    _held: tuple[UInt8[np.ndarray, "T H W 3"], ...] | None = None

    @final
    def hold(self) -> None:
        """Make the frames of every clip now and keep them: T * H * W * 3 bytes for each. No bit of them changes."""
        self._held = tuple(self.frames(index) for index in range(len(self)))


class MadeClips(ClipDataset):
    """Clips that a task makes: label `index` modulo the number of classes.

    Args:
        split: one of SPLITS.
        num_frames: T.
        image_size: H = W, pixels.
        seed: the seed of the random draws; an item depends on seed, split and index.
        size: the number of clips.

    Raises:
        ValueError: if there is no such split, or a number is out of range.
    """

    def __init__(
        self, split: str, num_frames: int = 8, image_size: int = 64, seed: int = 0, size: int = 6000
    ) -> None:
        check_shape(num_frames, image_size, size, seed)
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: it must be one of {', '.join(map(repr, SPLITS))}")
        self.split, self.num_frames, self.image_size, self.seed = split, num_frames, image_size, seed
        self._size = size

    def __len__(self) -> int:
        return self._size

    def label(self, index: int) -> int:
        return index % len(self.classes)

    def generator(self, index: int) -> np.random.Generator:
        """The generator of the random draws of clip `index`."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), index])


def check_shape(num_frames: int, image_size: int, size: int = 1, seed: int = 0) -> None:
    """Raise ValueError unless there can be `size` clips of this shape, drawn from this seed."""
    for name, value in (("num_frames", num_frames), ("image_size", image_size), ("size", size)):
        if value < 1:
            raise ValueError(f"{name} = {value}: it must be at least 1")
    if seed < 0:
        raise ValueError(f"seed = {seed}: it must not be negative")


def frame_times(num_frames: int) -> Float[np.ndarray, " T"]:
    """Instants of evenly spaced frames on a path that runs from -1/2 to 1/2; a single frame is its middle."""
    return np.linspace(-0.5, 0.5, num_frames) if num_frames > 1 else np.zeros(1)
