"""Direction: labels by the centre of brightness and by matching shifted frames; order is all that tells them."""

import numpy as np
import pytest

from experiments.data import Direction
from experiments.data.direction import TRAVEL
from experiments.data.photo_pan import SPLIT_PHOTOGRAPHS, photograph

STEP = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


def centre(frame: np.ndarray) -> np.ndarray:
    """(row, column) of the centre of brightness."""
    places = np.indices(frame.shape).reshape(2, -1)
    return (places * frame.ravel()).sum(1) / frame.sum()


def mismatch(before: np.ndarray, after: np.ndarray, rows: int, columns: int) -> float:
    """Mean squared difference where `before`, moved by so many pixels, overlaps `after`."""
    height, width = before.shape
    old = before[max(0, -rows) : height - max(0, rows), max(0, -columns) : width - max(0, columns)]
    new = after[max(0, rows) : height - max(0, -rows), max(0, columns) : width - max(0, -columns)]
    return float(((old - new) ** 2).mean())


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_digits_move_as_labelled(split):
    dataset = Direction(split, 6, 40, seed=1, size=64)
    digits = [i for i in range(64) if dataset.source(i) == "digit"]
    assert len(digits) == 32
    for index in digits:
        grey = dataset.frames(index).astype(float).mean(-1)
        steps = np.diff([centre(frame) for frame in grey], axis=0)
        travel = steps.sum(0) @ STEP[dataset.classes[dataset.label(index)]]
        assert TRAVEL[0] * 40 - 0.1 < travel < TRAVEL[1] * 40 + 0.1
        expected = np.array(STEP[dataset.classes[dataset.label(index)]]) * travel / 5
        np.testing.assert_allclose(steps, np.tile(expected, (5, 1)), atol=0.1)
        # It is whole in every frame.
        assert np.ptp(grey.sum((1, 2))) < 0.01 * grey[0].sum()


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_photographs_move_as_labelled(split):
    dataset = Direction(split, 2, 48, seed=1, size=80)
    right = 0
    for index in (i for i in range(80) if dataset.source(i) == "photograph"):
        before, after = dataset.frames(index).astype(float).mean(-1)
        reach = range(round(TRAVEL[0] * 48), round(TRAVEL[1] * 48) + 1)
        best = min(
            (mismatch(before, after, *(length * np.array(step))), name)
            for name, step in STEP.items()
            for length in reach
        )
        right += best[1] == dataset.classes[dataset.label(index)]
    assert right == 40


@pytest.fixture
def relabelled(monkeypatch):
    """A clip of the same index, seed and split, but of another class."""

    def frames(dataset: Direction, index: int, label: int) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setattr(Direction, "label", lambda self, index: label)
            return dataset.frames(index)

    return frames


@pytest.mark.parametrize("frames", [2, 5, 8])
def test_a_clip_backwards_is_the_clip_of_the_opposite_class(frames, relabelled):
    dataset = Direction("train", frames, 17, seed=3, size=24)
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for index in range(24):
        other = dataset.classes.index(opposite[dataset.classes[dataset.label(index)]])
        forward, backward = dataset.frames(index), relabelled(dataset, index, other)
        assert np.array_equal(forward[::-1], backward)
        assert not np.array_equal(forward, backward)


def test_the_middle_frame_is_the_same_whatever_the_class(relabelled):
    dataset = Direction("train", 9, 17, seed=3, size=24)
    for index in range(24):
        clips = [relabelled(dataset, index, label) for label in range(4)]
        assert all(np.array_equal(clip[4], clips[0][4]) for clip in clips)
        assert len({clip[0].tobytes() for clip in clips}) == 4


def test_sources_and_labels_come_equally_often_and_photographs_are_of_the_split(monkeypatch):
    dataset = Direction("held-out", 2, 16, size=240)
    pairs = [(dataset.label(i), dataset.conditions(i)["source"]) for i in range(240)]
    assert {pairs.count(pair) for pair in set(pairs)} == {30}
    assert len(set(pairs)) == 8
    used = set()

    def note(name: str, side: int) -> np.ndarray:
        used.add(name)
        return photograph(name)

    monkeypatch.setattr("experiments.data.direction.scaled_photograph", note)
    for index in range(240):
        dataset.frames(index)
    assert used == set(SPLIT_PHOTOGRAPHS["held-out"])
