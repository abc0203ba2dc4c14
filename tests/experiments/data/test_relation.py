"""Relation: pairs, mediators and gaps as told, read off the pixels, and no way to the label but the pair's relation."""

import collections
import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from experiments.data import Relation
from experiments.data.relation import MEDIATORS
from tests.experiments.data import decode


@dataclasses.dataclass
class Seen:
    """A clip as read: samples (None for no digit), classes (-1 for none), frames with an orange and a blue edge."""

    samples: list[int | None]
    classes: list[int]
    orange: list[int]
    blue: list[int]

    @property
    def pair(self) -> list[int]:
        return [self.classes[t] for t in self.orange]

    @property
    def between(self) -> list[int]:
        """Classes of the frames without an edge between the pair."""
        inside = range(self.orange[0] + 1, self.orange[1])
        return [self.classes[t] for t in inside if t not in self.blue]


def read(dataset: Relation) -> list[Seen]:
    clips = []
    for index in range(len(dataset)):
        frames = dataset.frames(index)
        samples, colours = decode.samples(frames), decode.edges(frames)
        classes = [-1 if sample is None else int(decode.TARGET[sample]) for sample in samples]
        where = {c: [t for t, colour in enumerate(colours) if colour == c] for c in ("orange", "blue")}
        clips.append(Seen(samples, classes, where["orange"], where["blue"]))
    return clips


@pytest.fixture(scope="module")
def many() -> tuple[Relation, list[Seen]]:
    dataset = Relation("train", 8, decode.SIZE, seed=7, size=960, digits=4)
    return dataset, read(dataset)


@pytest.mark.parametrize(("split", "frames"), [("train", 9), ("held-out", 5)])
def test_clips_hold_what_their_conditions_say(split, frames):
    dataset = Relation(split, frames, decode.SIZE, seed=2, size=96)
    for index, seen in enumerate(read(dataset)):
        conditions = dataset.conditions(index)
        first, second = seen.orange
        assert second - first - 1 == conditions["gap"]
        assert -1 not in seen.pair
        same = dataset.classes[dataset.label(index)] == "same"
        assert (seen.pair[0] == seen.pair[1]) is same
        outside = [seen.classes[t] for t in range(frames) if not first <= t <= second and t not in seen.blue]
        assert set(outside) <= {-1}
        others = set(seen.between)
        match conditions["mediator"]:
            case "neutral":
                assert others == {-1}
            case "similar to one":
                assert len(others) == 1
                assert -1 not in others
                assert same or others < set(seen.pair)
            case "similar to both":
                assert len(others) == 2
                assert -1 not in others
                assert seen.pair[0] in others
                assert same or others == set(seen.pair)
                assert np.ptp([seen.between.count(class_) for class_ in others]) <= 1
            case "interleaved":
                assert others <= {-1}
                assert -1 not in [seen.classes[t] for t in seen.blue]
                inside = [first < t < second for t in seen.blue]
                assert sorted(inside) == [False, True]
        assert (len(seen.blue) == 2) == (conditions["mediator"] == "interleaved")
        shown = [sample for sample in seen.samples if sample is not None]
        assert len(set(shown)) == len(shown)
        assert {sample % 5 == 0 for sample in shown} == {split == "held-out"}


def test_labels_mediators_and_gaps_come_equally_often():
    dataset = Relation("train", 8, 8, size=2 * 4 * 4 * 3)
    triples = collections.Counter(
        (dataset.label(i), *dataset.conditions(i).values()) for i in range(len(dataset))
    )
    assert len(triples) == 2 * 4 * 4
    assert set(triples.values()) == {3}
    assert {gap for _, _, gap in triples} == {2, 3, 4, 5}


def p_value(labels: list[int], values: list[object]) -> float:
    """Of the independence of label and value (Pearson's test)."""
    kinds = sorted(set(map(str, values)))
    table = np.zeros((2, len(kinds)))
    for label, value in zip(labels, values, strict=True):
        table[label, kinds.index(str(value))] += 1
    return float(stats.chi2_contingency(table).pvalue) if len(kinds) > 1 else 1.0


def test_nothing_but_the_relation_of_the_pair_tells_the_label(many):
    dataset, clips = many
    everywhere = range(len(clips))
    for mediator in MEDIATORS:
        chosen = [i for i in everywhere if dataset.conditions(i)["mediator"] == mediator]
        labels, seen = [dataset.label(i) for i in chosen], [clips[i] for i in chosen]
        assert p_value(labels, [clip.pair[0] == clip.pair[1] for clip in seen]) < 1e-30  # what does tell it
        told = {
            **{f"class in frame {t}": [clip.classes[t] for clip in seen] for t in range(8)},
            "first class": [clip.pair[0] for clip in seen],
            "second class": [clip.pair[1] for clip in seen],
            "first frame": [clip.orange[0] for clip in seen],
            "number of classes without an edge": [len(set(clip.between)) for clip in seen],
            "first among the rest": [clip.pair[0] in clip.between for clip in seen],
            "second among the rest": [clip.pair[1] in clip.between for clip in seen],
            "second, next to it": [clip.pair[1] == clip.classes[clip.orange[1] - 1] for clip in seen],
            "most frequent class without an edge": [
                collections.Counter(clip.between).most_common(1)[0][0] for clip in seen
            ],
            "second pair's relation": [len({clip.classes[t] for t in clip.blue}) for clip in seen],
        }
        p_values = {name: p_value(labels, values) for name, values in told.items()}
        # Some 60 tests in all: less than 1e-3 in none of them is expected of chance, and the clips are fixed.
        assert {name: p for name, p in p_values.items() if p < 1e-3} == {}


def test_pixels_tell_a_linear_classifier_nothing(many):
    dataset, _ = many
    pixels = np.stack([dataset.frames(i)[..., 1].ravel() for i in range(len(dataset))]) / 255
    labels = np.array([dataset.label(i) for i in range(len(dataset))])
    fitted = LogisticRegression(C=0.01, max_iter=200).fit(pixels[:480], labels[:480])
    right = int((fitted.predict(pixels[480:]) == labels[480:]).sum())
    assert stats.binomtest(right, 480, 0.5).pvalue > 1e-2


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match="num_frames = 4: relation needs at least 5"):
        Relation("train", 4)
    with pytest.raises(ValueError, match="digits = 1: it must be from 2 to 10"):
        Relation("train", digits=1)
