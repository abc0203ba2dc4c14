"""Clips made once and held in memory, for runs that read each of them many times."""

import functools
from typing import final

import numpy as np
from jaxtyping import UInt8

from experiments.data.clip import ClipDataset
from experiments.data.tasks import task_dataset


@final
class HeldClips(ClipDataset):
    """The clips of another dataset, bit for bit, their frames made here and now: T * H * W * 3 bytes a clip."""

    def __init__(self, source: ClipDataset) -> None:
        self.classes = source.classes
        self._source = source
        self._frames = [source.frames(index) for index in range(len(source))]

    @property
    def blind(self) -> float:
        return self._source.blind

    def __len__(self) -> int:
        return len(self._frames)

    def label(self, index: int) -> int:
        return self._source.label(index)

    def name(self, index: int) -> str:
        return self._source.name(index)

    def conditions(self, index: int) -> dict[str, int | str]:
        return self._source.conditions(index)

    def frames(self, index: int) -> UInt8[np.ndarray, "T H W 3"]:
        return self._frames[index]


@functools.lru_cache(maxsize=2)
def held_clips(task: str, split: str, num_frames: int, image_size: int, seed: int, size: int) -> HeldClips:
    """`task_dataset` of a task that makes its clips, held; the last two asked for in this process are kept."""
    return HeldClips(task_dataset(task, split, num_frames, image_size, seed, size))
