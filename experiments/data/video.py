"""Clips from video files, and from folders that hold a video's frames as images."""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import final

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Int, UInt8
from PIL import Image

from experiments.data.clip import ClipDataset, check_shape

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# A stream that ends before this share of the duration its header declares was cut off.
_WHOLE = 0.9


def sample_uniformly(total: int, num_frames: int) -> Int[np.ndarray, " T"]:
    """Indices of `num_frames` frames of `total`: the middle of each of num_frames equal parts.

    Fewer frames than asked for are repeated: indices never decrease and stay within range.
    """
    return ((np.arange(num_frames) + 0.5) * total / num_frames).astype(np.int64)


def read_clip(
    path: str | pathlib.Path, num_frames: int, image_size: int, total_frames: int | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """Uniformly sampled RGB frames of a video file or of a folder of images, resized and centre-cropped.

    The short side becomes `image_size` by an antialiased bicubic filter and the middle square is kept. The
    rotation that phones write in a file is applied. Frames of a folder are its images in natural order (2
    before 10).

    Args:
        path: a file that PyAV decodes, or a folder of images.
        num_frames: T.
        image_size: H = W, pixels.
        total_frames: for a folder, how many of its images make the video; all of them if None.

    Raises:
        ValueError: naming the file, if it is missing, empty, damaged, cut short, or has no pictures.
    """
    check_shape(num_frames, image_size)
    path = pathlib.Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if path.is_dir():
        return _read_folder(path, num_frames, image_size, total_frames)
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    with _naming(path):
        return _read_video(path, num_frames, image_size)


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Turn what the decoders raise into a ValueError of one line that begins with the path."""
    try:
        yield
    except av.FFmpegError as error:
        raise ValueError(f"{path}: damaged, or not a video: {error.strerror}") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: damaged, or not an image: {error}") from error


def _crop(image: Image.Image, image_size: int) -> UInt8[np.ndarray, "H W 3"]:
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.convert("RGB").resize((image_size, image_size), Image.Resampling.BICUBIC, box))


def _read_folder(
    path: pathlib.Path, num_frames: int, image_size: int, total_frames: int | None
) -> UInt8[np.ndarray, "T H W 3"]:
    def natural(file: pathlib.Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]

    files = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=natural)
    if len(files) < (total_frames or 1):
        raise ValueError(f"{path}: the folder holds {len(files)} images; {total_frames or 1} are needed")
    frames = []
    for index in sample_uniformly(total_frames or len(files), num_frames):
        with _naming(files[index]), Image.open(files[index]) as image:
            frames.append(_crop(image, image_size))
    return np.stack(frames)


def _read_video(path: pathlib.Path, num_frames: int, image_size: int) -> UInt8[np.ndarray, "T H W 3"]:
    packets = _count_packets(path)
    wanted = sample_uniformly(packets, num_frames)
    frames, decoded = _decode(path, set(wanted.tolist()), image_size)
    if 0 < decoded <= wanted[-1]:  # some packets carry no picture of their own: sample what there is
        wanted = sample_uniformly(decoded, num_frames)
        frames, _ = _decode(path, set(wanted.tolist()), image_size)
    if not frames:
        raise ValueError(f"{path}: no frame could be decoded")
    return np.stack([frames[index] for index in wanted.tolist()])


def _video_stream(path: pathlib.Path, container: av.container.InputContainer) -> av.VideoStream:
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not pictures:
        kinds = sorted({stream.type for stream in container.streams})
        raise ValueError(f"{path}: no video stream in it, only {' and '.join(kinds) or 'an empty container'}")
    return pictures[0]


def _count_packets(path: pathlib.Path) -> int:
    """The number of packets of the video stream; ValueError if the file ends before the video does."""
    with av.open(str(path)) as container:
        stream = _video_stream(path, container)
        packets = [packet for packet in container.demux(stream) if packet.size]
        if not packets:
            raise ValueError(f"{path}: cut short: it holds no frame")
        if any(packet.is_corrupt for packet in packets):
            raise ValueError(f"{path}: cut short: frame {len(packets)} is not all there")
        _check_duration(path, container, stream, packets)
        return len(packets)


def _check_duration(
    path: pathlib.Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Sequence[av.Packet],
) -> None:
    """ValueError unless the packets last about as long as the header says, as far as it says anything."""
    stamps = [packet.pts for packet in packets if packet.pts is not None]
    if len(stamps) < 2 or stream.time_base is None:
        return
    span = max(stamps) - min(stamps)
    lasting = float((span + span / (len(stamps) - 1)) * stream.time_base)
    declared = float((stream.duration or 0) * stream.time_base)
    if not declared and container.duration and len(container.streams) == 1:
        declared = container.duration / av.time_base
    if lasting < _WHOLE * declared:
        raise ValueError(f"{path}: cut short: {lasting:.2f} s are there of {declared:.2f} s of video")


def _decode(
    path: pathlib.Path, wanted: set[int], image_size: int
) -> tuple[dict[int, UInt8[np.ndarray, "H W 3"]], int]:
    """The wanted frames, cropped, by index; and how many were decoded to get to the last of them."""
    frames, decoded = {}, 0
    with av.open(str(path)) as container:
        stream = _video_stream(path, container)
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if decoded in wanted:
                upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                frames[decoded] = _crop(Image.fromarray(np.ascontiguousarray(upright)), image_size)
            decoded += 1
            if decoded > max(wanted):
                break
    return frames, decoded


@final
@dataclasses.dataclass(frozen=True)
class Sample:
    """One line of a list: a video file, or a folder of images whose first `total_frames` are the video."""

    path: pathlib.Path
    label: int
    total_frames: int | None = None


_LINE = re.compile(r"(?P<path>\S.*?)(?:[\s,]+(?P<total>\d+))?[\s,]+(?P<label>\d+)")


def read_list(path: str | pathlib.Path, root: str | pathlib.Path = "") -> list[Sample]:
    """The samples of a list file, with lines `path label` or `frame_folder total_frames label`.

    Fields are apart by spaces, tabs or commas, and a path may hold spaces. Blank lines are passed over.
    Whether a line is of the second form is told by its path being a folder under `root`, so `clip 12 3` may
    be either.

    Args:
        path: the list.
        root: what paths in it are relative to; the working directory by default.

    Raises:
        ValueError: naming the list and the line, if it cannot be read, has a line of neither form, names a
            file that does not exist, or has no lines.
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise ValueError(f"{path}: the list cannot be read: {reason}") from error
    samples = [
        _parse_line(line.strip(), pathlib.Path(root), f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not samples:
        raise ValueError(f"{path}: the list is empty")
    return samples


def _parse_line(line: str, root: pathlib.Path, where: str) -> Sample:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(
            f"{where}: {line!r} is neither `path label` nor `frame_folder total_frames label`, "
            "where labels are 0, 1, ..."
        )
    label, folder = int(match["label"]), root / match["path"]
    if match["total"] is not None and folder.is_dir():
        return Sample(folder, label, int(match["total"]))
    file = root / line[: match.start("label")].rstrip(" \t,")
    if not file.exists():
        raise ValueError(f"{where}: no such file or folder: {file}")
    return Sample(file, label)


@final
class VideoFiles(ClipDataset):
    """Labelled videos of a list, each read by `read_clip`; nothing about an item is random.

    Args:
        samples: as from `read_list`.
        num_frames: T.
        image_size: H = W, pixels.
        classes: the names of the labels; their numbers, up to the largest there is, by default.

    Raises:
        ValueError: for no samples, a label without a name, a number below 1; on reading an item, as
        `read_clip`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        num_frames: int = 8,
        image_size: int = 224,
        classes: Sequence[str] | None = None,
    ) -> None:
        check_shape(num_frames, image_size, len(samples))
        largest = max(samples, key=lambda sample: sample.label)
        self.classes = tuple(map(str, range(largest.label + 1))) if classes is None else tuple(classes)
        if largest.label >= len(self.classes):
            raise ValueError(f"{largest.path}: label {largest.label}: there are {len(self.classes)} classes")
        self.samples, self.num_frames, self.image_size = tuple(samples), num_frames, image_size

    def __len__(self) -> int:
        return len(self.samples)

    def label(self, index: int) -> int:
        return self.samples[index].label

    def name(self, index: int) -> str:
        return self.samples[index].path.name

    def frames(self, index: int) -> UInt8[np.ndarray, "T H W 3"]:
        sample = self.samples[index]
        return read_clip(sample.path, self.num_frames, self.image_size, sample.total_frames)
