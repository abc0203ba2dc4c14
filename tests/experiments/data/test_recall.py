"""Recall: the marked frame holds a digit of the label's class, and nothing but the mark says which frame it is."""

import collections

import numpy as np
import pytest
from scipy import stats

from experiments.data import Recall
from experiments.data.recall import blind_guess
from tests.experiments.data import decode


def read(dataset: Recall) -> tuple[np.ndarray, list[int], list[list[int]]]:
    """Of each clip: the classes its frames show, its marked frame, the samples; all read off the pixels."""
    classes, cues, shown = [], [], []
    for index in range(len(dataset)):
        frames = dataset.frames(index)
        found, colours = decode.samples(frames), decode.edges(frames)
        assert None not in found
        assert sorted(colours) == ["none"] * (len(frames) - 1) + ["orange"]
        classes.append(decode.TARGET[found])
        cues.append(colours.index("orange"))
        shown.append(found)
    return np.array(classes), cues, shown


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_the_marked_digit_is_of_the_labels_class_and_of_the_split(split):
    dataset = Recall(split, 6, decode.SIZE, seed=3, size=120)
    classes, cues, shown = read(dataset)
    for index, cue in enumerate(cues):
        assert dataset.classes[dataset.label(index)] == str(classes[index][cue])
        assert dataset.conditions(index) == {"cue_frame": cue}
    assert {sample % 5 == 0 for clip in shown for sample in clip} == {split == "held-out"}


def test_every_frame_is_the_cue_of_every_class_equally_often():
    dataset = Recall("train", 7, 8, size=7 * 10 * 3)
    pairs = collections.Counter((dataset.label(i), dataset.cue_frame(i)) for i in range(len(dataset)))
    assert set(pairs.values()) == {3}
    assert len(pairs) == 70


@pytest.mark.parametrize(("frames", "digits"), [(8, 4), (10, 10), (6, 4), (3, 10)])
def test_half_of_the_classes_are_spread_evenly_over_the_frames(frames, digits):
    classes, _, _ = read(Recall("train", frames, decode.SIZE, seed=1, size=40, digits=digits))
    for clip in classes:
        counts = np.bincount(clip, minlength=digits)
        assert np.count_nonzero(counts) == min(frames, digits // 2)
        assert np.ptp(counts[counts > 0]) <= 1


@pytest.mark.parametrize(("frames", "digits"), [(16, 10), (7, 4)])
def test_a_guess_that_is_blind_to_the_mark_is_right_as_often_as_told(frames, digits):
    dataset = Recall("train", frames, decode.SIZE, seed=4, size=320, digits=digits)
    classes, _, _ = read(dataset)
    counts = [np.bincount(clip, minlength=digits) for clip in classes]
    guesses = [
        int(np.random.default_rng(i).permutation(np.flatnonzero(n == n.max()))[0])
        for i, n in enumerate(counts)
    ]
    right = sum(guess == dataset.label(i) for i, guess in enumerate(guesses))
    assert stats.binomtest(right, 320, blind_guess(frames, digits)).pvalue > 1e-3
    assert stats.binomtest(right, 320, 1 / digits).pvalue < 1e-3


def test_no_frame_without_the_mark_tells_the_label():
    dataset = Recall("train", 8, decode.SIZE, seed=5, size=800, digits=4)
    classes, cues, _ = read(dataset)
    labels, cues = np.array([dataset.label(i) for i in range(800)]), np.array(cues)

    def p_value(shown: np.ndarray, of: np.ndarray) -> float:
        table = np.zeros((4, 4))
        np.add.at(table, (labels[of], shown[of]), 1)
        return float(stats.chi2_contingency(table).pvalue)

    for t in range(8):
        assert p_value(classes[:, t], cues == t) < 1e-30  # what does tell it
        assert stats.chisquare(np.bincount(classes[:, t], minlength=4)).pvalue > 1e-3
        # A frame that is not the cue: of both classes in a clip four frames, of the label's one less are left.
        rate = (classes[cues != t, t] == labels[cues != t]).mean()
        assert rate == pytest.approx(3 / 7, abs=4 * np.sqrt(3 / 7 * 4 / 7 / 700))
    alike = classes[:, 0] == classes[:, 1]
    assert stats.chi2_contingency([np.bincount(labels[alike]), np.bincount(labels[~alike])]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"digits": 2}, "digits = 2: it must be from 3 to 10"), ({"digits": 11}, "= 11")],
)
def test_the_number_of_classes_is_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Recall("train", **arguments)
