"""What the tasks that are made of real images are made of: digits and photographs at the size needed, and marks.

Images are resized once and kept; frames are pasted and cut from them by numpy, so that a clip takes some tens of
microseconds and training need not wait for it.
"""

import functools

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from experiments.data.digits import digit_images, split_samples
from experiments.data.photo_pan import photograph

ORANGE, BLUE = (255, 128, 0), (0, 128, 255)  # tell apart by anyone, and by any channel's sum
_DIGIT = 3 / 4  # side of a digit in a frame, in sides of the frame
_MARK = 1 / 16  # width of a mark


@functools.lru_cache(maxsize=4096)
def digit(sample: int, side: int) -> UInt8[np.ndarray, "side side"]:
    """One of scikit-learn's digits, bright on black, resampled to `side` pixels by Pillow's bicubic filter."""
    image = Image.fromarray(digit_images()[0][sample])
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


@functools.lru_cache(maxsize=128)
def scaled_photograph(name: str, side: int) -> UInt8[np.ndarray, "H W 3"]:
    """A photograph of `photo_pan.PHOTOGRAPHS` whose shorter side is `side` pixels, antialiased."""
    image = Image.fromarray(photograph(name))
    factor = side / min(image.size)
    width, height = (max(side, round(length * factor)) for length in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@functools.lru_cache(maxsize=128)
def grey_photograph(name: str, side: int) -> UInt8[np.ndarray, "H W"]:
    """`scaled_photograph` without its colours, the mean of its channels."""
    return scaled_photograph(name, side).mean(-1).astype(np.uint8)


@functools.cache
def digit_pools(split: str, classes: int) -> tuple[Int[np.ndarray, " K"], ...]:
    """The samples of digits 0, ..., classes - 1 that a split may show."""
    samples, target = split_samples(split), digit_images()[1]
    return tuple(samples[target[samples] == digit] for digit in range(classes))


def check_classes(classes: int, least: int) -> None:
    """Raise ValueError unless the number of classes of digits is from `least` to 10."""
    if not least <= classes <= 10:
        raise ValueError(f"digits = {classes}: it must be from {least} to 10")


def paste_digit(
    frame: UInt8[np.ndarray, "H W 3"], sample: int, place: UInt8[np.ndarray, "2"] | tuple[float, float]
) -> None:
    """Draw a digit three quarters of the frame high, at `place`, each from 0 to 1 of the way that is free."""
    size = len(frame)
    side = max(1, int(_DIGIT * size))
    margin = min(mark_width(size), (size - side) // 2)  # so that a mark hides nothing of the digit
    free = size - side - 2 * margin + 1
    top, left = (margin + int(fraction * free) for fraction in place)
    frame[top : top + side, left : left + side] = digit(sample, side)[..., None]


def mark_width(image_size: int) -> int:
    """The width of a mark, pixels."""
    return max(1, int(_MARK * image_size))


def mark(frame: UInt8[np.ndarray, "H W 3"], colour: tuple[int, int, int]) -> None:
    """Draw a coloured edge around the frame: whatever the patches, each at the edge sees it."""
    width = mark_width(len(frame))
    frame[:width] = frame[-width:] = colour
    frame[:, :width] = frame[:, -width:] = colour
