"""The labelled tasks that models are trained and judged on, by name."""

from experiments.data.clip import ClipDataset
from experiments.data.digits import Digits
from experiments.data.direction import Direction
from experiments.data.photo_pan import PhotoPan
from experiments.data.recall import Recall
from experiments.data.relation import Relation

CONTROLLED: dict[str, type[Recall] | type[Relation] | type[Direction]] = {
    "recall": Recall,
    "relation": Relation,
    "direction": Direction,
}
"""The tasks of the controlled comparison, in their order."""
TASKS = (*CONTROLLED, "photo-pan", "digits-direction", "digits-digit")


def task_dataset(
    task: str, split: str, num_frames: int, image_size: int, seed: int = 0, size: int = 6000
) -> ClipDataset:
    """The clips of one split of a task, which makes them.

    Args:
        task: one of TASKS.
        split: "train" or "held-out".
        num_frames: T.
        image_size: H = W, pixels.
        seed: of the clips.
        size: number of clips.

    Raises:
        ValueError: for another task or split, or a number out of range.
    """
    if task in CONTROLLED:
        return CONTROLLED[task](split, num_frames, image_size, seed, size)
    if task == "photo-pan":
        return PhotoPan(split, num_frames, image_size, seed, size)
    if task in TASKS:
        return Digits(split, task.removeprefix("digits-"), num_frames, image_size, seed, size)
    raise ValueError(f"task {task!r}: it must be one of {', '.join(TASKS)}")
