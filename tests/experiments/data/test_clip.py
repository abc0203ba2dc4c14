"""What all datasets of clips promise: determinism, shapes, names, and a normalisation that can be undone."""

import pathlib
import tomllib

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import experiments.data
from experiments.data import Digits, Direction, PhotoPan, Recall, Relation, denormalise, normalise
from experiments.data.clip import ClipDataset, frame_times
from experiments.data.tasks import task_dataset
from experiments.train import TrainConfig

MAKERS = {
    "photo-pan": lambda split, seed: PhotoPan(split, 4, 24, seed, 60),
    "digits": lambda split, seed: Digits(split, "direction", 4, 24, seed, 60),
    "digits by digit": lambda split, seed: Digits(split, "digit", 4, 24, seed, 60),
    "recall": lambda split, seed: Recall(split, 4, 24, seed, 60),
    "relation": lambda split, seed: Relation(split, 5, 24, seed, 60),
    "direction": lambda split, seed: Direction(split, 4, 24, seed, 60),
}


@pytest.fixture(params=MAKERS, scope="module")
def make(request):
    return MAKERS[request.param]


def test_items_are_the_same_in_any_order_and_from_a_new_object(make):
    first = make("train", 3)
    forward = [first[i] for i in range(12)]
    again = make("train", 3)
    for i in reversed(range(12)):
        video, label = again[i]
        assert torch.equal(video, forward[i][0])
        assert label == forward[i][1]


def test_items_are_the_same_from_any_number_of_workers(make):
    dataset: ClipDataset = make("train", 0)
    loader = DataLoader(dataset, batch_size=10, num_workers=2)
    start = 0
    for videos, labels in loader:
        for k in range(len(videos)):
            video, label = dataset[start + k]
            assert torch.equal(videos[k], video)
            assert labels[k] == label
        start += len(videos)
    assert start == 60


def test_seed_and_split_change_the_clips_but_not_the_labels(make):
    clips = {(split, seed): make(split, seed) for split in ("train", "held-out") for seed in (0, 1)}
    reference = clips["train", 0]
    for key, other in clips.items():
        assert [other.label(i) for i in range(60)] == [reference.label(i) for i in range(60)]
        same = [torch.equal(other[i][0], reference[i][0]) for i in range(12)]
        assert all(same) if key == ("train", 0) else not any(same)


def test_classes_are_balanced(make):
    dataset = make("train", 0)
    counts = np.bincount([dataset.label(i) for i in range(60)], minlength=len(dataset.classes))
    assert counts.max() - counts.min() <= 1


def test_index_out_of_range(make):
    dataset = make("train", 0)
    for index in (-1, 60):
        with pytest.raises(IndexError, match=f"clip {index} of 60"):
            dataset[index]


@pytest.mark.parametrize(("frames", "size"), [(5, 1), (6, 7), (9, 33)])
@pytest.mark.parametrize("dataset", [Recall, Relation, Direction])
def test_odd_sizes_are_legal(dataset, frames, size):
    clips = dataset("train", frames, size, size=3)
    for index in range(3):
        assert clips.frames(index).shape == (frames, size, size, 3)
        assert clips.frames(index).dtype == np.uint8


@pytest.mark.parametrize("dataset", [PhotoPan, Digits, Recall, Relation, Direction])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split 'test'"),
        ({"split": "train", "num_frames": 0}, "num_frames = 0"),
        ({"split": "train", "image_size": -1}, "image_size = -1"),
        ({"split": "train", "size": 0}, "size = 0"),
        ({"split": "train", "seed": -1}, "seed = -1"),
    ],
)
def test_bad_arguments_are_named(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        dataset(**arguments)


def test_normalise_is_the_published_map_and_is_undone():
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    video = normalise(frames)
    assert video.shape == (3, 2, 5, 7)
    assert video.dtype == torch.float32
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        expected = (frames[..., channel].astype(np.float64) / 255 - mean) / std
        np.testing.assert_allclose(video[channel].numpy(), expected, atol=2e-6)
    assert np.array_equal(denormalise(video), frames)


def test_frame_times():
    assert frame_times(1).tolist() == [0.0]
    assert frame_times(5).tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("source", "dataset"),
    [
        ("photo_pan_clips", PhotoPan),
        ("digits_clips", Digits),
        ("recall_clips", Recall),
        ("relation_clips", Relation),
        ("direction_clips", Direction),
    ],
)
def test_entry_points_give_held_out_clips(source, dataset):
    clips = list(getattr(experiments.data, source)(num_frames=5, image_size=24, count=4, seed=5))
    expected = dataset("held-out", num_frames=5, image_size=24, seed=5)
    assert len(clips) == 4
    for index, clip in enumerate(clips):
        assert torch.equal(clip.video, expected[index][0])
        assert clip.label == expected.classes[expected.label(index)]
        assert clip.name == expected.name(index)


def test_sources_are_declared_as_entry_points():
    declared = tomllib.loads((pathlib.Path(__file__).parents[3] / "pyproject.toml").read_text())
    names = declared["project"]["entry-points"]["analysis.clips"]
    for task in ("recall", "relation", "direction"):
        assert names[task] == f"experiments.data:{task}_clips"


@pytest.mark.parametrize("task", ["recall", "relation", "direction"])
def test_tasks_are_known_by_name(task):
    clips = task_dataset(task, "held-out", 6, 16, seed=4, size=12)
    assert type(clips).__name__ == task.capitalize()
    assert (len(clips), clips.frames(0).shape) == (12, (6, 16, 16, 3))
    assert TrainConfig(task=task).task == task
