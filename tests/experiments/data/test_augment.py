"""Augmentation is one draw a clip, a function of its seed; mixtures by what pixels and labels have to add up to."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

from experiments.data import normalise
from experiments.data.augment import ClipAugment, mix
from experiments.data.photo_pan import photograph


def still(frames: int = 4, height: int = 60, width: int = 80) -> np.ndarray:
    """A clip that shows one piece of a photograph in every frame."""
    picture = photograph("astronaut")[100 : 100 + height, 150 : 150 + width]
    return np.repeat(picture[None], frames, 0)


PLAIN = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "operations": 0}


@pytest.mark.parametrize("operations", [0, 1, 3, 15])
def test_all_frames_get_the_same(operations):
    augment = ClipAugment(24, operations=operations)
    for seed in range(8 if operations < 15 else 2):
        video = augment(still(), [seed, 5])
        assert (video == video[:, :1]).all(), seed


@pytest.mark.parametrize("name", [policy[0][0] for policy in default_policy])
def test_every_operation_is_drawn_once_for_all_frames(name, monkeypatch):
    """Each of the 15 alone: those with a random sign would turn frames to either side if drawn for each."""
    from experiments.data import augment

    policy = next(policy for policy in default_policy if policy[0][0] == name)
    one = augment.RandAugment(1, 9, [policy], transformation_matrix_mode="skip")
    monkeypatch.setattr(augment, "_policy", lambda operations, magnitude: one)
    results = []
    for seed in range(6):
        video = ClipAugment(24, **{**PLAIN, "operations": 1})(still(8, 60, 60), seed)
        assert (video == video[:, :1]).all()
        results.append(video)
    unchanged = ClipAugment(24, **PLAIN)(still(8, 60, 60), 0)
    assert any(not torch.equal(video, unchanged) for video in results)


def test_a_clip_is_a_function_of_its_seed_and_leaves_the_global_generators_alone():
    augment = ClipAugment(24)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = [augment(still(), [3, index]) for index in range(6)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    np.random.default_rng(1)
    for index in reversed(range(6)):
        assert torch.equal(augment(still(), [3, index]), first[index])
    assert not any(torch.equal(first[0], other) for other in first[1:])


def test_without_any_augmentation_it_is_the_resized_clip():
    frames = still(2, 60, 60)
    # Rounded in another order: RandAugment needs the pixels in [0, 1] first.
    torch.testing.assert_close(ClipAugment(60, **PLAIN)(frames, 0), normalise(frames))


def test_crops_are_windows_of_the_share_and_shape_asked_for():
    """Pixels tell their own place: red is the column, green the row."""
    height, width = 120, 200
    frames = np.zeros((1, height, width, 3), np.uint8)
    frames[..., 0], frames[..., 1] = np.arange(width), np.arange(height)[:, None]
    augment = ClipAugment(32, (0.1, 0.5), (0.75, 4 / 3), flip=0.0, operations=0)
    shares, ratios = [], []
    for seed in range(60):
        video = augment(frames, seed)
        red, green = (255 * (video[c, 0] * s + m) for c, m, s in ((0, 0.485, 0.229), (1, 0.456, 0.224)))
        # Of a window of w columns, the middles of the outer output pixels are w / 32 of it inside either edge.
        w, h = ((x[16, -2] - x[16, 1]) * 32 / 29 for x in (red, green.T))
        shares.append(float(w * h) / (height * width))
        ratios.append(float(w / h))
        assert red.min() > -1
        assert red.max() < width
    assert 0.08 < min(shares) < 0.2
    assert 0.4 < max(shares) < 0.55
    assert 0.7 < min(ratios) < 0.9
    assert 1.1 < max(ratios) < 1.45


def test_the_probability_of_a_flip():
    frames = still(1, 60, 60)
    plain = ClipAugment(60, **PLAIN)(frames, 0)

    def flipped(flip: float, seed: int) -> bool:
        video = ClipAugment(60, **{**PLAIN, "flip": flip})(frames, seed)
        assert torch.equal(video, plain) or torch.equal(video, plain.flip(-1))
        return torch.equal(video, plain.flip(-1))

    assert not any(flipped(0.0, seed) for seed in range(20))
    assert all(flipped(1.0, seed) for seed in range(20))
    # 60 fair throws: four standard deviations are 16.
    assert 14 <= sum(flipped(0.5, seed) for seed in range(60)) <= 46


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 0}, "image_size = 0"),
        ({"scale": (0.5, 1.5)}, r"scale = \(0\.5, 1\.5\)"),
        ({"scale": (0.0, 1.0)}, r"scale = \(0\.0, 1\.0\)"),
        ({"ratio": (2.0, 1.0)}, r"ratio = \(2\.0, 1\.0\)"),
        ({"flip": 1.5}, r"flip = 1\.5"),
        ({"operations": 16}, "operations = 16: there are 15"),
        ({"magnitude": 30}, "magnitude = 30"),
    ],
)
def test_numbers_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ClipAugment(**fields)


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip b is of level b everywhere, so that a mixture tells its parts; labels are b mod 3."""
    levels = torch.arange(float(size))[:, None, None, None, None].expand(size, 3, 2, 12, 20)
    return levels.clone(), torch.arange(size) % 3


def partner_of(mixed: torch.Tensor, clip: int, size: int) -> int:
    return next(p for p in range(size) if p != clip and (mixed[clip] == p).any())


@given(st.integers(2, 6), st.integers(0, 2**32), st.floats(0.1, 3.0))
def test_cutmix_labels_are_shares_of_the_pixels(size, seed, alpha):
    videos, labels = batch(size)
    mixed, targets = mix(videos, labels, 3, seed, cutmix_alpha=alpha)
    assert torch.equal(videos, batch(size)[0])
    for clip in range(size):
        share = (mixed[clip] == clip).float().mean()
        expected = share * torch.eye(3)[labels[clip]]
        if share < 1:
            expected = expected + (1 - share) * torch.eye(3)[labels[partner_of(mixed, clip, size)]]
        torch.testing.assert_close(targets[clip], expected, rtol=0, atol=1e-6)
        foreign = mixed[clip] != clip
        assert (foreign == foreign[:1, :1]).all()  # the same box in all channels and frames
        rows, columns = foreign[0, 0].any(1).nonzero(), foreign[0, 0].any(0).nonzero()
        assert foreign.sum() == 6 * len(rows) * len(columns)
        if len(rows):
            assert foreign[0, 0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


@given(st.integers(2, 6), st.integers(0, 2**32), st.floats(0.1, 3.0))
def test_mixup_labels_are_the_weights_of_the_clips(size, seed, alpha):
    # Levels 1, 2, 4, ...: a weighted mean of two of them has one pair and one weight that give all mixtures.
    levels = 2.0 ** torch.arange(size)
    videos, labels = levels[:, None, None, None, None].expand(size, 3, 1, 2, 2), torch.arange(size)
    mixed, targets = mix(videos, labels, size, seed, mixup_alpha=alpha)
    torch.testing.assert_close(mixed[:, 0, 0, 0, 0], targets @ levels)
    torch.testing.assert_close(targets.sum(1), torch.ones(size))
    assert (mixed == mixed[:, :1, :1, :1, :1]).all()
    assert len(set(targets.diagonal().tolist())) == 1
    assert ((targets > 0).sum(1) <= 2).all()


def test_the_share_has_the_distribution_asked_for():
    videos, labels = torch.zeros(2, 3, 1, 1, 1), torch.tensor([0, 1])
    shares = np.array([float(mix(videos, labels, 2, s, mixup_alpha=0.8)[1][0, 0]) for s in range(2000)])
    variance = 1 / (4 * (2 * 0.8 + 1))  # of Beta(a, a)
    assert abs(shares.mean() - 0.5) < 4 * np.sqrt(variance / 2000)
    assert abs(shares.var() / variance - 1) < 0.1


def test_either_is_chosen_and_neither_changes_nothing():
    videos, labels = batch(4)
    kinds = [bool((mix(videos, labels, 3, s, 0.8, 1.0)[0] % 1 == 0).all()) for s in range(200)]
    assert 70 <= sum(kinds) <= 130  # 200 fair throws, four standard deviations
    same, targets = mix(videos, labels, 3, 0)
    assert torch.equal(same, videos)
    assert torch.equal(targets, torch.eye(3)[labels])
    alone, targets = mix(videos[:1], labels[:1], 3, 0, 0.8, 1.0)
    assert torch.equal(alone, videos[:1])
    assert targets.tolist() == [[1, 0, 0]]
    for wrong, message in (
        ({"mixup_alpha": -1.0}, "neither may be negative"),
        ({"switch": 2.0}, "switch = 2"),
    ):
        with pytest.raises(ValueError, match=message):
            mix(videos, labels, 3, 0, **wrong)


def test_a_mixture_is_a_function_of_its_seed():
    videos, labels = batch(5)
    for seed in ([1, 2], [1, 3]):
        first, second = (mix(videos, labels, 3, seed, 0.8, 1.0) for _ in range(2))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert not torch.equal(mix(videos, labels, 3, [1, 2], 0.8)[1], mix(videos, labels, 3, [1, 3], 0.8)[1])
