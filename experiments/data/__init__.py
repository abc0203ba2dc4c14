"""Real clips for training and for probes: moving digits, pans over photographs, video files.

The functions below are the entry points of the group `analysis.clips`. Each is called with the same
arguments and yields `Clip`s; those that make clips give them from the held-out split, that no model here
was trained on.
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence

from analysis.inputs import denormalise
from experiments.data.clip import Clip, ClipDataset, normalise
from experiments.data.digits import Digits
from experiments.data.direction import Direction
from experiments.data.lists import ListedVideo, read_list
from experiments.data.photo_pan import PhotoPan
from experiments.data.recall import Recall
from experiments.data.relation import Relation
from experiments.data.tasks import task_dataset
from experiments.data.video import read_clip
from experiments.data.views import VideoViews

__all__ = [
    "Clip",
    "ClipDataset",
    "Digits",
    "Direction",
    "ListedVideo",
    "PhotoPan",
    "Recall",
    "Relation",
    "VideoViews",
    "denormalise",
    "digits_clips",
    "direction_clips",
    "normalise",
    "photo_pan_clips",
    "read_clip",
    "read_list",
    "recall_clips",
    "relation_clips",
    "video_clips",
]


def _held_out(task: str) -> Callable[..., Iterator[Clip]]:
    """The entry point that gives `count` held-out clips of a task of `task_dataset`; `paths` is not used."""

    def clips(
        num_frames: int = 8,
        image_size: int = 64,
        count: int = 8,
        seed: int = 0,
        paths: Sequence[str | pathlib.Path] = (),
    ) -> Iterator[Clip]:
        dataset = task_dataset(task, "held-out", num_frames, image_size, seed, count)
        return (dataset.clip(index) for index in range(len(dataset)))

    return clips


photo_pan_clips = _held_out("photo-pan")
digits_clips = _held_out("digits-direction")
recall_clips = _held_out("recall")
relation_clips = _held_out("relation")
direction_clips = _held_out("direction")


def video_clips(
    num_frames: int = 8,
    image_size: int = 64,
    count: int = 8,
    seed: int = 0,
    paths: Sequence[str | pathlib.Path] = (),
) -> Iterator[Clip]:
    """A clip of every video file or folder of images in `paths`; `count` and `seed` are not used.

    Raises:
        ValueError: if `paths` is empty; and as `read_clip`, when the clip's turn comes.
    """
    if not paths:
        raise ValueError("no video given: name at least one video file or folder of images")
    return _read_clips(paths, num_frames, image_size)


def _read_clips(paths: Sequence[str | pathlib.Path], num_frames: int, image_size: int) -> Iterator[Clip]:
    for path in paths:
        yield Clip(normalise(read_clip(path, num_frames, image_size)), pathlib.Path(path).name)
