"""The labelled tasks that models are trained and judged on, by name."""

import functools
from collections.abc import Mapping

from experiments.data.clip import MadeClips
from experiments.data.digits import Digits
from experiments.data.direction import Direction
from experiments.data.photo_pan import PhotoPan
from experiments.data.recall import Recall
from experiments.data.relation import Relation

CONTROLLED = ("recall", "relation", "direction")
"""The tasks of the controlled comparison, in their order."""

_MAKERS: Mapping[str, type[Recall] | type[Relation] | type[Direction] | type[PhotoPan]] = {
    "recall": Recall,
    "relation": Relation,
    "direction": Direction,
    "photo-pan": PhotoPan,
}
TASKS = (*_MAKERS, "digits-direction", "digits-digit")


def task_dataset(
    task: str, split: str, num_frames: int, image_size: int, seed: int = 0, size: int = 6000
) -> MadeClips:
    """The clips of one split of a task, which makes them.

    Args:
        task: one of TASKS.
        split, num_frames, image_size, seed, size: as `MadeClips` takes them.

    Raises:
        ValueError: if there is no such task or split, or a number is out of range.
    """
    if task in _MAKERS:
        return _MAKERS[task](split, num_frames, image_size, seed, size)
    if task in TASKS:
        return Digits(split, task.removeprefix("digits-"), num_frames, image_size, seed, size)
    raise ValueError(f"task {task!r}: it must be one of {', '.join(TASKS)}")


@functools.lru_cache(maxsize=2)
def held_clips(task: str, split: str, num_frames: int, image_size: int, seed: int, size: int) -> MadeClips:
    """`task_dataset`, held in memory; the last two that a process asked for are kept."""
    clips = task_dataset(task, split, num_frames, image_size, seed, size)
    clips.hold()
    return clips
