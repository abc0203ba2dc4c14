"""Reading videos: which frames are taken, how they are cropped, and what is said of files that are no good.

Every file is made here. Frame k of a video is grey of level 8 k + 4, so that a frame tells its own index.
"""

import fractions
import pathlib

import av
import numpy as np
import pytest
from PIL import Image

from experiments.data import read_clip, video_clips
from tests.experiments.videos import indices, numbered, write_video


def write_sound(path: pathlib.Path) -> pathlib.Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.time_base = 16000, fractions.Fraction(1, 16000)
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize(
    ("total", "wanted", "expected"),
    [(24, 4, [3, 9, 15, 21]), (5, 5, [0, 1, 2, 3, 4]), (2, 4, [0, 0, 1, 1]), (1, 2, [0, 0])],
)
def test_the_frames_taken_are_the_uniform_ones(tmp_path, suffix, total, wanted, expected):
    path = write_video(tmp_path / f"clip.{suffix}", numbered(total))
    clip = read_clip(path, wanted, 16)
    assert clip.shape == (wanted, 16, 16, 3)
    assert clip.dtype == np.uint8
    assert indices(clip) == expected


def test_the_middle_square_is_kept(tmp_path):
    frames = np.zeros((3, 32, 64, 3), np.uint8)
    frames[:, :, 16:32, 0] = 250  # the left half of the middle square is red, its right half blue
    frames[:, :, 32:48, 2] = 250
    clip = read_clip(write_video(tmp_path / "wide.mp4", frames), 2, 16).astype(int)
    assert np.abs(clip[:, 1:-1, 1:7] - (250, 0, 0)).max() < 12
    assert np.abs(clip[:, 1:-1, 9:-1] - (0, 0, 250)).max() < 12
    tall = read_clip(write_video(tmp_path / "tall.mp4", frames.swapaxes(1, 2)), 2, 16)
    assert np.abs(tall - clip.swapaxes(1, 2)).max() <= 6


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_the_rotation_that_a_phone_writes_is_applied(tmp_path, rotation):
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[:, :10, :10] = 250  # the top left corner is lit
    upright = read_clip(write_video(tmp_path / "plain.mp4", frames), 1, 32)[0]
    turned = read_clip(write_video(tmp_path / "turned.mp4", frames, rotation), 1, 32)[0]
    # A display rotation is counter-clockwise in degrees, as a picture is turned by np.rot90.
    expected = np.rot90(upright.astype(int), rotation // 90)
    assert np.abs(turned - expected).max() <= 6


def test_folder_of_images_in_natural_order(tmp_path):
    for k, frame in enumerate(numbered(12)):
        Image.fromarray(frame).save(tmp_path / f"img_{k + 1}.png")  # img_10 after img_9, not after img_1
    (tmp_path / "notes.txt").write_text("not an image")
    assert indices(read_clip(tmp_path, 12, 16)) == list(range(12))
    assert indices(read_clip(tmp_path, 4, 16, total_frames=8)) == [1, 3, 5, 7]
    with pytest.raises(ValueError, match=r"holds 12 images; 13 are needed"):
        read_clip(tmp_path, 4, 16, total_frames=13)


def damaged_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), dtype=np.uint8)
    whole = write_video(folder / "whole.mp4", noise).read_bytes()
    streamable = write_video(folder / "streamable.mp4", noise, movflags="faststart").read_bytes()
    matroska = write_video(folder / "whole.mkv", noise).read_bytes()
    scrambled = bytearray(streamable)
    middle = len(scrambled) // 2
    scrambled[middle : middle + 4000] = bytes(4000)
    contents = {
        "unknown-codec.mp4": whole.replace(b"avc1", b"zzzz"),
        "empty.mp4": b"",
        "text.mp4": b"This is no video.\n" * 40,
        "cut.mp4": whole[: len(whole) // 2],
        "cut-streamable.mp4": streamable[: len(streamable) * 7 // 10],
        "cut-header.mp4": streamable[:300],
        "cut.mkv": matroska[: len(matroska) * 6 // 10],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "empty-folder").mkdir()
    (folder / "bad-image").mkdir()
    (folder / "bad-image" / "1.png").write_bytes(b"no image")
    for name, content in (("bad-header", b"P6 4x 4 255\n"), ("huge-image", b"P6 99999 99999 255\n")):
        (folder / name).mkdir()
        (folder / name / "1.ppm").write_bytes(content)
    write_sound(folder / "sound.mp4")
    expected = {
        "missing.mp4": "no such file or folder",
        "unknown-codec.mp4": "of a video codec that there is no decoder for",
        "empty.mp4": "the file is empty",
        "text.mp4": "damaged, or not a video",
        "cut.mp4": "damaged, or not a video",
        "cut-streamable.mp4": "cut short",
        "cut-header.mp4": "damaged, or not a video|no video stream|cut short",
        "cut.mkv": "cut short",
        "empty-folder": "holds 0 images",
        "bad-image": "1.png: damaged, or not an image",
        "bad-header": "1.ppm: damaged, or not an image",
        "huge-image": "1.ppm: damaged, or not an image: .* exceeds limit",
        "sound.mp4": "no video stream in it, only audio",
    }
    return {name: (folder / name, message) for name, message in expected.items()}


def test_files_that_are_no_good_are_named_in_one_line(tmp_path):
    for name, (path, message) in damaged_files(tmp_path).items():
        with pytest.raises(ValueError, match=message) as caught:
            read_clip(path, 4, 16)
        assert str(caught.value).startswith(str(path)), name
        assert "\n" not in str(caught.value), name


def test_a_title_in_another_encoding_makes_no_video_bad(tmp_path):
    path = write_video(tmp_path / "clip.mkv", numbered(12), title="a title xxx")
    content = path.read_bytes()
    assert b"a title xxx" in content
    path.write_bytes(content.replace(b"a title xxx", b"a title \xe9\xe8\xea"))
    assert indices(read_clip(path, 4, 16)) == [1, 4, 7, 10]


def test_entry_point_reads_the_paths_in_turn(tmp_path):
    first, second = (write_video(tmp_path / f"{name}.mp4", numbered(8)) for name in "ab")
    clips = list(video_clips(num_frames=2, image_size=16, count=1, paths=[first, second]))
    assert [(clip.name, clip.label) for clip in clips] == [("a.mp4", None), ("b.mp4", None)]
    assert clips[0].video.shape == (3, 2, 16, 16)
    with pytest.raises(ValueError, match="at least one video"):
        video_clips(paths=())
    with pytest.raises(ValueError, match=r"gone\.mp4: no such file"):
        list(video_clips(paths=[tmp_path / "gone.mp4"]))
