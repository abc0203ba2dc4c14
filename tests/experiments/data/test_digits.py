"""Moving digits: the direction by centre of mass, the digit by its own pixels, disjoint samples."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.data.digits import DIRECTIONS, TRAVEL, Digits, split_samples

VECTOR = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def centre(frame: np.ndarray) -> np.ndarray:
    """(x, y) of the centre of brightness."""
    rows, columns = np.indices(frame.shape)
    return np.array([(frame * columns).sum(), (frame * rows).sum()]) / frame.sum()


def invariants(picture: np.ndarray) -> np.ndarray:
    """Normalised central moments of orders 2 to 4: the same for a shape at any place and of any size."""
    scaled = picture / picture.sum()
    middle = centre(picture)
    rows, columns = np.indices(picture.shape)
    x, y = columns - middle[0], rows - middle[1]
    spread = (scaled * (x**2 + y**2)).sum()
    orders = [(p, q) for p in range(5) for q in range(5) if 2 <= p + q <= 4]
    return np.array([(scaled * x**p * y**q).sum() / spread ** ((p + q) / 2) for p, q in orders])


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_directions_agree_with_the_centre_of_brightness(split):
    dataset = Digits(split, num_frames=6, image_size=48, seed=2, size=64)
    for index in range(64):
        grey = dataset.frames(index).astype(float)[..., 0]
        steps = np.diff([centre(frame) for frame in grey], axis=0)
        expected = np.sum([VECTOR[word] for word in DIRECTIONS[dataset.label(index)].split()], axis=0)
        expected = expected / np.linalg.norm(expected)
        travel = np.linalg.norm(steps.sum(0)) / 48
        assert TRAVEL[0] - 0.01 < travel < TRAVEL[1] + 0.01
        np.testing.assert_allclose(steps, np.tile(expected * travel * 48 / 5, (5, 1)), atol=0.15)


def test_the_digit_is_whole_in_every_frame():
    dataset = Digits("train", num_frames=5, image_size=48, size=40)
    for index in range(40):
        brightness = dataset.frames(index).astype(float).sum((1, 2, 3))
        assert np.ptp(brightness) < 0.05 * brightness.mean()


def test_digit_is_the_sample_it_names():
    digits = load_digits()
    dataset = Digits("held-out", "digit", num_frames=1, image_size=96, size=40)
    known = np.array([invariants(image) for image in digits.images])
    ranks = []
    for index in range(40):
        sample = dataset.sample(index)
        assert digits.target[sample] == dataset.label(index)
        assert dataset.name(index) == f"digit-{sample}-{index}"
        distances = np.abs((known - invariants(dataset.frames(index)[0, ..., 0])) / known.std(0)).sum(1)
        ranks.append((distances < distances[sample]).sum())
    assert ranks == [0] * 40  # of 1797 samples none is nearer


def test_splits_share_no_sample_and_hold_every_digit():
    train, held_out = split_samples("train"), split_samples("held-out")
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 1797
    for split in (train, held_out):
        assert set(load_digits().target[split]) == set(range(10))
    for name, samples in (("train", train), ("held-out", held_out)):
        for target in ("direction", "digit"):
            dataset = Digits(name, target, 1, 8, size=100)
            assert {dataset.sample(i) for i in range(100)} <= set(samples)


def test_target_is_checked():
    with pytest.raises(ValueError, match="target 'colour'"):
        Digits("train", "colour")
