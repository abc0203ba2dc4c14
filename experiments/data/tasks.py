"""The labelled tasks that models are trained and judged on, by name."""

import pathlib

from experiments.data.clip import ClipDataset
from experiments.data.digits import Digits
from experiments.data.direction import Direction
from experiments.data.lists import read_list
from experiments.data.photo_pan import PhotoPan
from experiments.data.recall import Recall
from experiments.data.relation import Relation
from experiments.data.video import VideoFiles

_CONTROLLED: dict[str, type[Recall] | type[Relation] | type[Direction]] = {
    "recall": Recall,
    "relation": Relation,
    "direction": Direction,
}
TASKS = (*_CONTROLLED, "photo-pan", "digits-direction", "digits-digit", "video")


def task_dataset(
    task: str,
    split: str,
    num_frames: int,
    image_size: int,
    seed: int = 0,
    size: int = 6000,
    listing: str | pathlib.Path | None = None,
    root: str | pathlib.Path = "",
) -> ClipDataset:
    """The clips of one split of a task.

    Args:
        task: one of TASKS.
        split: "train" or "held-out"; of the task "video", whatever `listing` names.
        num_frames: T.
        image_size: H = W, pixels.
        seed: of the tasks that make their clips.
        size: number of clips, of the tasks that make them.
        listing: of the task "video": the list of files (`read_list`), relative to `root`.
        root: the folder that the paths in `listing` start from.

    Raises:
        ValueError: for another task or split, a number out of range, or a list that is absent or no good.
    """
    if task in _CONTROLLED:
        return _CONTROLLED[task](split, num_frames, image_size, seed, size)
    if task == "photo-pan":
        return PhotoPan(split, num_frames, image_size, seed, size)
    if task in ("digits-direction", "digits-digit"):
        return Digits(split, task.removeprefix("digits-"), num_frames, image_size, seed, size)
    if task != "video":
        raise ValueError(f"task {task!r}: it must be one of {', '.join(TASKS)}")
    if listing is None:
        raise ValueError("the task 'video' needs a list of files: lines `path label`")
    return VideoFiles(read_list(listing, root), num_frames, image_size)
