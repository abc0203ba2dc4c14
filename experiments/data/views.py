"""Several views of each video of a list, for a multi-view test: clips over its time, crops along its long side."""

import pathlib
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.data.clip import check_shape, normalise
from experiments.data.list_files import PathLike
from experiments.data.lists import ListedVideo
from experiments.data.sampling import dense_views, sparse_views
from experiments.data.video import crop_squares, read_frames


@final
class VideoViews:
    """Labelled videos, each as `clips` times `crops` views; nothing about them is random.

    With one clip and one crop, a view is what `read_clip` reads.

    Args:
        samples: as `experiments.data.lists` gives them.
        classes: what labels 0, 1, ... mean.
        num_frames: T.
        image_size: S, pixels: the short side of a frame, and either side of a crop.
        clips: K, the number of clips of a video. Each has one frame of each of T equal segments, at another place of
            the segments than the other clips (`sparse_views`).
        crops: C, the number of squares, spread evenly along the long side; a single one is the middle.
        stride: take clips of every stride-th frame instead, with starts spread evenly over the video (`dense_views`).
        root: the folder from which videos are named by their path.

    Raises:
        ValueError: if there are no samples or a number is below 1; on making views, as `read_frames`.
    """

    def __init__(
        self,
        samples: Sequence[ListedVideo],
        classes: Sequence[str],
        num_frames: int = 8,
        image_size: int = 224,
        clips: int = 1,
        crops: int = 1,
        stride: int | None = None,
        root: PathLike = "",
    ) -> None:
        check_shape(num_frames, image_size, len(samples))
        for name, value in (("clips", clips), ("crops", crops), ("stride", stride)):
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: it must be at least 1")
        self.samples, self.classes = tuple(samples), tuple(classes)
        self.num_frames, self.image_size = num_frames, image_size
        self.clips, self.crops, self.stride, self.root = clips, crops, stride, pathlib.Path(root)

    def __len__(self) -> int:
        return len(self.samples)

    def label(self, index: int) -> int:
        """The class of video `index`."""
        return self.samples[index].label

    def name(self, index: int) -> str:
        """The path of video `index` from the root."""
        path = self.samples[index].path
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def views(self, index: int) -> Float[Tensor, "V 3 T S S"]:
        """The K * C views of video `index`, normalised; the C crops of a clip follow each other."""
        sample = self.samples[index]
        frames = read_frames(
            sample.path,
            self._choose,
            lambda image: crop_squares(image, self.image_size, self.crops),
            sample.total_frames,
        )
        by_clip = np.stack(frames).reshape(self.clips, self.num_frames, self.crops, *frames[0].shape[1:])
        return torch.stack([normalise(clip[:, crop]) for clip in by_clip for crop in range(self.crops)])

    def _choose(self, total: int) -> Int[np.ndarray, " n"]:
        if self.stride is None:
            return sparse_views(total, self.num_frames, self.clips).flatten()
        return dense_views(total, self.num_frames, self.stride, self.clips).flatten()
