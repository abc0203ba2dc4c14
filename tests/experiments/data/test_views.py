"""Views of a video for a multi-view test: which frames and squares of it they show."""

import numpy as np
import pytest
import torch

from experiments.data import ListedVideo, VideoViews, normalise, read_clip
from tests.experiments.videos import numbered, write_video


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """24 frames, three times as wide as high; red tells the frame, blue the third of its width."""
    frames = numbered(24, 16, 48)
    frames[:, :, :, 2] = np.repeat([20, 120, 220], 16)
    return write_video(tmp_path_factory.mktemp("views") / "wide.mp4", frames)


def seen(video: torch.Tensor) -> tuple[list[int], int]:
    """The frames and the third that a view shows."""
    red = 255 * (video[0, :, 4:-4, 4:-4].mean((1, 2)) * 0.229 + 0.485)
    blue = 255 * (video[2, :, 4:-4, 4:-4].mean() * 0.225 + 0.406)
    return [round((float(level) - 4) / 8) for level in red], round((float(blue) - 20) / 100)


def test_sparse_clips_and_three_crops(path):
    views = VideoViews([ListedVideo(path, 1)], "ab", 4, 16, clips=2, crops=3).views(0)
    assert views.shape == (6, 3, 4, 16, 16)
    early, late = [1, 7, 13, 19], [4, 10, 16, 22]  # middles of the halves of each six frames
    assert [seen(view) for view in views] == [
        (frames, third) for frames in (early, late) for third in range(3)
    ]


def test_dense_clips(path):
    views = VideoViews([ListedVideo(path, 1)], "ab", 4, 16, clips=3, stride=2).views(0)
    assert [seen(view) for view in views] == [([s, s + 2, s + 4, s + 6], 1) for s in (0, 8, 17)]


def test_one_view_is_the_clip_that_is_read_elsewhere(path):
    (view,) = VideoViews([ListedVideo(path, 1)], "ab", 4, 16).views(0)
    assert torch.equal(view, normalise(read_clip(path, 4, 16)))


def test_names_are_paths_from_the_root(path):
    samples = [ListedVideo(path, 0), ListedVideo(path.parent.parent / "other.mp4", 1)]
    views = VideoViews(samples, "ab", root=path.parent)
    assert [views.name(k) for k in range(2)] == ["wide.mp4", str(samples[1].path)]
    assert [views.label(k) for k in range(2)] == [0, 1]
    assert views.classes == ("a", "b")


@pytest.mark.parametrize("field", ["clips", "crops", "stride", "num_frames", "image_size"])
def test_numbers_below_one_are_refused(path, field):
    with pytest.raises(ValueError, match=f"{field} = 0: it must be at least 1"):
        VideoViews([ListedVideo(path, 0)], "a", **{field: 0})
