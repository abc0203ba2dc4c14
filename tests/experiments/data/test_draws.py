"""Draws of training clips: what they depend on, views apart, and bad files replaced, counted and refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from experiments.data import ListedVideo
from experiments.data.augment import ClipAugment
from experiments.data.draws import ATTEMPTS, BadVideos, Draw, VideoDraws, collate
from tests.experiments.videos import numbered, write_video

PLAIN = ClipAugment(16, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, operations=0)
TOTAL = 24


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Nine videos, of which 3 is missing, 5 is damaged and 7 has images of two sizes; labels are places."""
    folder = tmp_path_factory.mktemp("videos")
    for k in (0, 1, 2, 4, 6, 8):
        frames = numbered(TOTAL)
        frames[..., 2] = 20 * k  # blue tells which video it is
        write_video(folder / f"{k}.mp4", frames)
    (folder / "5.mp4").write_bytes(b"no video")
    (folder / "7.mp4").mkdir()
    for number, size in enumerate((32, 32, 40)):
        Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(folder / "7.mp4" / f"{number}.png")
    return [ListedVideo(folder / f"{k}.mp4", k) for k in range(9)]


BAD = {3, 5, 7}


def frame_numbers(video: torch.Tensor) -> list[int]:
    red = 255 * (video[0].mean((1, 2)) * 0.229 + 0.485)
    return [round((float(level) - 4) / 8) for level in red]


def which(video: torch.Tensor) -> int:
    return round(float(255 * (video[2].mean() * 0.225 + 0.406)) / 20)


def test_sparse_frames_are_drawn_anew_in_each_epoch(samples):
    draws = VideoDraws(samples, PLAIN, num_frames=4)
    chosen = []
    for epoch in range(12):
        drawn = draws[Draw(2, epoch)]
        assert drawn.videos.shape == (1, 3, 4, 16, 16)
        assert drawn.labels.tolist() == [2]
        assert drawn.bad == {}
        chosen.append(frame_numbers(drawn.videos[0]))
        assert [number // 6 for number in chosen[-1]] == [0, 1, 2, 3]
    assert len({tuple(numbers) for numbers in chosen}) > 8


def test_a_stride_takes_a_stretch(samples):
    draws = VideoDraws(samples, PLAIN, num_frames=4, stride=3)
    starts = set()
    for epoch in range(12):
        numbers = frame_numbers(draws[Draw(0, epoch)].videos[0])
        assert np.diff(numbers).tolist() == [3, 3, 3]
        starts.add(numbers[0])
    assert len(starts) > 5


def test_repeats_are_views_of_the_same_frames(samples):
    draws = VideoDraws(samples, ClipAugment(16, flip=0.0, operations=0), num_frames=4, repeats=3)
    drawn = draws[Draw(4, 0)]
    assert drawn.videos.shape == (3, 3, 4, 16, 16)
    assert drawn.labels.tolist() == [4, 4, 4]
    assert len({tuple(frame_numbers(video)) for video in drawn.videos}) == 1
    augmented = VideoDraws(samples, ClipAugment(16), num_frames=4, repeats=3)[Draw(4, 0)].videos
    assert not torch.equal(augmented[0], augmented[1])


def test_a_draw_depends_on_neither_order_nor_workers(samples):
    draws = VideoDraws(samples, ClipAugment(16), num_frames=4, seed=3)
    keys = [Draw(clip, epoch) for epoch in range(2) for clip in range(9)]
    batches = [keys[k : k + 4] for k in range(0, len(keys), 4)]
    expected = [collate([draws[key] for key in batch]) for batch in batches]
    for first, workers in ((0, 0), (2, 2)):  # started again at the third batch, and with workers
        loader = DataLoader(draws, batch_sampler=batches[first:], num_workers=workers, collate_fn=collate)
        for drawn, wanted in zip(loader, expected[first:], strict=True):
            assert torch.equal(drawn.videos, wanted.videos)
            assert torch.equal(drawn.labels, wanted.labels)
            assert drawn.bad == wanted.bad
    assert {index for batch in expected for index in batch.bad} == BAD
    other = VideoDraws(samples, ClipAugment(16), num_frames=4, seed=4)[keys[0]]
    assert not torch.equal(other.videos, draws[keys[0]].videos)


def test_bad_files_are_replaced_and_named(samples):
    draws = VideoDraws(samples, PLAIN, num_frames=4)
    stand_ins = set()
    for epoch in range(20):
        for clip in BAD:
            drawn = draws[Draw(clip, epoch)]
            (label,) = drawn.labels.tolist()
            assert label not in BAD
            assert which(drawn.videos[0]) == label  # the label is that of what is shown
            assert clip in drawn.bad
            assert drawn.bad.keys() <= BAD
            stand_ins.add(label)
    assert len(stand_ins) > 3
    problems = {clip: draws[Draw(clip, 0)].bad[clip] for clip in BAD}
    assert problems[3] == f"{samples[3].path}: no such file or folder"
    assert problems[5].startswith(f"{samples[5].path}: damaged, or not a video")
    assert problems[7].startswith(f"{samples[7].path}: frames of different sizes: 32 x 32, 40 x 40")


def test_a_draw_gives_up_where_nothing_can_be_read(samples):
    draws = VideoDraws([samples[3], samples[5]], PLAIN, num_frames=4)
    with pytest.raises(
        ValueError, match=rf"^{ATTEMPTS} videos of the list in a row cannot be read"
    ) as caught:
        draws[Draw(0, 0)]
    assert str(samples[3].path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_videos_are_counted_once_up_to_the_share(samples):
    counted = BadVideos(total=250, max_bad=0.01)
    assert counted.limit == 2
    counted.note({4: "four.mp4: gone"})
    counted.note({})
    counted.note({4: "four.mp4: gone", 9: "nine.mp4: gone"})
    again = BadVideos(250, 0.01, counted.found)  # as from a checkpoint
    assert again.found == {4: "four.mp4: gone", 9: "nine.mp4: gone"}
    with pytest.raises(ValueError, match=r"^3 of 250 videos .* max_bad allows 2: .*seven\.mp4: gone$"):
        again.note({7: "seven.mp4: gone"})
    assert len(counted.found) == 2
    with pytest.raises(ValueError, match=r"^1 of 5 videos of the list are .* max_bad allows 0"):
        BadVideos(5).note({0: "gone"})
    with pytest.raises(ValueError, match=r"max_bad = 1\.5"):
        BadVideos(5, 1.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 0}, "num_frames = 0"),
        ({"repeats": 0}, "repeats = 0"),
        ({"stride": 0}, "stride = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"samples": []}, "size = 0"),
    ],
)
def test_numbers_out_of_range_are_refused(samples, fields, message):
    with pytest.raises(ValueError, match=message):
        VideoDraws(**{"samples": samples, "augment": PLAIN, **fields})
