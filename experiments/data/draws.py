"""Clips to train on from labelled video files: frames and augmentation drawn anew in each epoch, bad files replaced.

A draw of a clip is a function of (seed, epoch, clip) and of which files are good. Neither the order of the draws,
nor the number of workers, nor a restart changes a bit of any.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from experiments.data.augment import ClipAugment
from experiments.data.clip import check_shape
from experiments.data.decode import Choose
from experiments.data.lists import ListedVideo
from experiments.data.sampling import sample_segments, sample_stretch
from experiments.data.video import read_frames

ATTEMPTS = 16
"""Bad files in a row after which a draw gives up."""

_NAMED = 3  # of the bad files, in an error
_SAMPLING, _AUGMENTING, _REPLACING = range(3)  # random streams of a draw


class Draw(NamedTuple):
    """What a batch sampler asks `VideoDraws` for: video `clip` of the list as it is in `epoch`."""

    clip: int
    epoch: int


class Drawn(NamedTuple):
    """Clips of one draw, or of a batch. `bad` says what is wrong with the files that were replaced, by their index."""

    videos: Float[Tensor, "B 3 T S S"]
    labels: Int[Tensor, " B"]
    bad: dict[int, str]


def collate(draws: Sequence[Drawn]) -> Drawn:
    """One `Drawn` of several: `collate_fn` of a DataLoader over `VideoDraws`."""
    return Drawn(
        torch.cat([drawn.videos for drawn in draws]),
        torch.cat([drawn.labels for drawn in draws]),
        {index: problem for drawn in draws for index, problem in drawn.bad.items()},
    )


@final
class VideoDraws(Dataset[Drawn]):
    """Augmented clips of random frames of videos: one of each of T equal segments (Wang et al., arXiv 1608.00859).

    A file that cannot be read is replaced by another file of the list, drawn from (seed, epoch, clip, attempt), with
    the label of that file. It is named in `Drawn.bad`; `BadVideos` counts such files and says when there are too many.

    Args:
        samples: as `experiments.data.lists` gives them.
        augment: the random view of each clip; its `image_size` is the size of the clips.
        num_frames: T.
        seed: the seed of everything that is random.
        repeats: the number of views of each draw, each augmented from the same frames (repeated sampling: Hoffer et
            al., arXiv 1901.09335); a draw has that many clips.
        stride: take every stride-th frame from a random one on, instead of sparse frames.

    Raises:
        ValueError: if there are no samples or a number is below 1; on a draw, if ATTEMPTS files in a row cannot be
            read.
    """

    def __init__(
        self,
        samples: Sequence[ListedVideo],
        augment: ClipAugment,
        num_frames: int = 8,
        seed: int = 0,
        repeats: int = 1,
        stride: int | None = None,
    ) -> None:
        check_shape(num_frames, augment.image_size, len(samples), seed)
        if repeats < 1 or (stride is not None and stride < 1):
            raise ValueError(f"repeats = {repeats}, stride = {stride}: they must be at least 1")
        self.samples, self.augment = tuple(samples), augment
        self.num_frames, self.seed, self.repeats, self.stride = num_frames, seed, repeats, stride

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Drawn:
        key = [self.seed, draw.epoch, draw.clip]
        frames, label, bad = self._read(key)
        views = [self.augment(frames, [*key, _AUGMENTING, repeat]) for repeat in range(self.repeats)]
        return Drawn(torch.stack(views), torch.full((self.repeats,), label), bad)

    def _read(self, key: list[int]) -> tuple[UInt8[np.ndarray, "T H W 3"], int, dict[int, str]]:
        """The frames and label of the draw's clip, or of what replaces it, and what was wrong with the others."""
        bad: dict[int, str] = {}
        index = key[-1]
        for attempt in range(ATTEMPTS):
            sample = self.samples[index]
            try:
                frames = read_frames(sample.path, self._choose(key), total_frames=sample.total_frames)
                return _stack(sample.path, frames), sample.label, bad
            except ValueError as error:
                bad[index] = str(error)
            index = int(np.random.default_rng([*key, _REPLACING, attempt]).integers(len(self)))
        first = next(iter(bad.values()))
        raise ValueError(f"{ATTEMPTS} videos of the list in a row cannot be read; the first of them: {first}")

    def _choose(self, key: list[int]) -> Choose:
        def choose(total: int) -> Int[np.ndarray, " T"]:
            rng = np.random.default_rng([*key, _SAMPLING])
            if self.stride is None:
                return sample_segments(total, self.num_frames, rng)
            return sample_stretch(total, self.num_frames, self.stride, rng)

        return choose


def _stack(path: pathlib.Path, frames: Sequence[UInt8[np.ndarray, "H W 3"]]) -> UInt8[np.ndarray, "T H W 3"]:
    sizes = list(dict.fromkeys((frame.shape[1], frame.shape[0]) for frame in frames))
    if len(sizes) > 1:
        named = ", ".join(f"{width} x {height}" for width, height in sizes)
        raise ValueError(f"{path}: frames of different sizes: {named}")
    return np.stack(frames)


@final
class BadVideos:
    """Counts the bad files of a list, each once, and refuses more than a share of it.

    Args:
        total: the length of the list.
        max_bad: the largest share of it that may be bad.
        known: the bad files of the run so far, as `found` gave them, for instance from a checkpoint.

    Raises:
        ValueError: if `max_bad` is no share.
    """

    def __init__(self, total: int, max_bad: float = 0.01, known: Mapping[int, str] | None = None) -> None:
        if not 0 <= max_bad <= 1:
            raise ValueError(f"max_bad = {max_bad}: it must be a share of the list, from 0 to 1")
        self.found: dict[int, str] = dict(known or {})
        self.limit = int(max_bad * total + 1e-9)  # 0.29 * 100 falls short of 29
        self._total = total

    def note(self, bad: Mapping[int, str]) -> None:
        """Count these too.

        Raises:
            ValueError: if there are now more than allowed; it names some.
        """
        self.found |= bad
        if len(self.found) > self.limit:
            named = "; ".join(list(self.found.values())[-_NAMED:])
            raise ValueError(
                f"{len(self.found)} of {self._total} videos of the list are missing or damaged, and max_bad allows "
                f"{self.limit}: {named}"
            )
