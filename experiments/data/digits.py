"""Clips of a handwritten digit that moves over a dark frame in one of eight directions."""

import functools
import math
from typing import Literal, final

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from experiments.data.clip import MadeClips, frame_times

Target = Literal["direction", "digit"]

DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")
DIGITS = tuple("0123456789")

# Ranges that a clip is drawn from, in sides of the frame.
SIDE = (0.25, 0.4)  # of the digit
TRAVEL = (0.2, 0.45)  # from the first frame to the last
_PAD = 2  # empty pixels put around a digit, so that its edges fade out rather than being cut


@functools.cache
def digit_images() -> tuple[UInt8[np.ndarray, "K 8 8"], Int[np.ndarray, " K"]]:
    """Scikit-learn's digits, bright on black, and which digit each is."""
    from sklearn.datasets import load_digits  # Takes a second, that other clips need not wait for.

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target


@functools.cache
def _padded(sample: int) -> Image.Image:
    return Image.fromarray(np.pad(digit_images()[0][sample], _PAD))


def split_samples(split: str) -> Int[np.ndarray, " K"]:
    """Indices into scikit-learn's digits: every fifth is held out, the rest is for training."""
    indices = np.arange(len(digit_images()[1]))
    return indices[(indices % 5 == 0) == (split == "held-out")]


@final
class Digits(MadeClips):
    """A digit of scikit-learn's bundled set (8x8 pixels, 1797 samples) in straight, steady motion, ours.

    Its size, speed and place are random; it stays inside the frame and is resampled bicubically at fractions
    of a pixel. Halfway through the clip its place is independent of the direction.

    Splits are disjoint, fixed sets of handwritten samples (`split_samples`). From an image_size of 32 on, the digit is
    not reduced below its own 8 pixels.

    Args:
        target: what the label is: "direction" (8 classes) or "digit" (10).
        split, num_frames, image_size, seed, size: as `MadeClips` takes them; an item depends on seed and index.
    """

    def __init__(
        self,
        split: str,
        target: str = "direction",
        num_frames: int = 8,
        image_size: int = 64,
        seed: int = 0,
        size: int = 6000,
    ) -> None:
        if target not in ("direction", "digit"):
            raise ValueError(f"target {target!r}: it must be one of 'direction', 'digit'")
        super().__init__(split, num_frames, image_size, seed, size)
        self.target = target
        self.classes = DIRECTIONS if target == "direction" else DIGITS
        self._samples = split_samples(split)

    def name(self, index: int) -> str:
        return f"digit-{self.sample(index)}-{index}"

    def sample(self, index: int) -> int:
        """Which of scikit-learn's digits clip `index` shows."""
        return self._draw(index)[0]

    def frames(self, index: int) -> UInt8[np.ndarray, "T H W 3"]:
        sample, direction, rng = self._draw(index)
        side, travel = rng.uniform(*SIDE), rng.uniform(*TRAVEL)
        margin = (side + travel) / 2
        x, y = rng.uniform(margin, 1 - margin, 2)
        times = travel * frame_times(self.num_frames)
        lefts = x - side / 2 + times * math.cos(direction * math.pi / 4)
        tops = y - side / 2 + times * math.sin(direction * math.pi / 4)
        grey = np.stack([self._draw_digit(sample, side, *place) for place in zip(lefts, tops, strict=True)])
        return np.repeat(grey[..., None], 3, axis=-1)

    def _draw(self, index: int) -> tuple[int, int, np.random.Generator]:
        """The sample and the direction of clip `index`, and the generator that its path is drawn from."""
        rng = np.random.default_rng([self.seed, index])
        if self.target == "direction":
            return int(rng.choice(self._samples)), self.label(index), rng
        of_class = self._samples[digit_images()[1][self._samples] == self.label(index)]
        return int(rng.choice(of_class)), int(rng.integers(len(DIRECTIONS))), rng

    def _draw_digit(self, sample: int, side: float, left: float, top: float) -> UInt8[np.ndarray, "H W"]:
        """The frame with the digit's 8x8 pixels in a square at (left, top); lengths in sides of the frame."""
        step = 8 / (side * self.image_size)  # source pixels for one of the frame's
        x, y = (_PAD - corner * self.image_size * step for corner in (left, top))
        size = (self.image_size, self.image_size)
        moved = _padded(sample).transform(
            size, Image.Transform.AFFINE, (step, 0, x, 0, step, y), resample=Image.Resampling.BICUBIC
        )
        return np.asarray(moved)
