"""Clips from video files, and from folders that hold a video's frames as images."""

import pathlib
import re

import av
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from experiments.data.clip import check_shape
from experiments.data.decode import Choose, View, read_video
from experiments.data.sampling import crop_boxes, sample_uniformly

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read_clip(
    path: str | pathlib.Path, num_frames: int, image_size: int, total_frames: int | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """Uniformly sampled RGB frames of a video file or of a folder of images, resized and centre-cropped.

    The short side becomes `image_size` by an antialiased bicubic filter and the middle square is kept.

    Args:
        path, total_frames: as `read_frames` takes them.
        num_frames: T.
        image_size: H = W, pixels.

    Raises:
        ValueError: as `read_frames`, and for a number below 1.
    """
    check_shape(num_frames, image_size)

    def choose(total: int) -> Int[np.ndarray, " T"]:
        return sample_uniformly(total, num_frames)

    return np.stack(read_frames(path, choose, lambda image: crop_squares(image, image_size)[0], total_frames))


def crop_squares(image: Image.Image, image_size: int, crops: int = 1) -> UInt8[np.ndarray, "C S S 3"]:
    """`crops` squares along the long side of an image (`crop_boxes`), resized by an antialiased bicubic filter."""
    size = (image_size, image_size)
    boxes = crop_boxes(*image.size, crops)
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC, box)) for box in boxes])


def read_frames(
    path: str | pathlib.Path,
    choose: Choose,
    view: View = np.asarray,
    total_frames: int | None = None,
) -> list[UInt8[np.ndarray, "..."]]:
    """Chosen RGB frames of a video file or of a folder of images.

    The rotation that phones write in a file is applied. Frames of a folder are its images in natural order (2
    before 10).

    Args:
        path: a file that PyAV decodes, or a folder of images.
        choose: given the number of frames, returns the indices of the wanted frames, in the order wanted.
        view: returns what is kept of a frame; by default all of its pixels. It is called once for each frame read.
        total_frames: for a folder, how many of its images make the video; all of them if None.

    Returns:
        What `view` gives for each index that `choose` gives.

    Raises:
        ValueError: if the file is missing, empty, damaged, cut short, or has no pictures.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if path.is_dir():
        return _read_folder(path, choose, view, total_frames)
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        return read_video(path, choose, view)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: damaged, or not a video: {error.strerror}") from error


def _read_folder(
    path: pathlib.Path, choose: Choose, view: View, total_frames: int | None
) -> list[UInt8[np.ndarray, "..."]]:
    def natural(file: pathlib.Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]

    files = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=natural)
    if len(files) < (total_frames or 1):
        raise ValueError(f"{path}: the folder holds {len(files)} images; {total_frames or 1} are needed")
    wanted = choose(total_frames or len(files)).tolist()
    frames = {}
    for index in sorted(set(wanted)):
        try:
            with Image.open(files[index]) as image:
                pixels = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{files[index]}: damaged, or not an image: {error}") from error
        frames[index] = view(pixels)
    return [frames[index] for index in wanted]
