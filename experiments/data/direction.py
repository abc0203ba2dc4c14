"""Direction: which way does what is shown move? A digit over a dark frame, or a photograph that is panned over."""

import math
from typing import final

import numpy as np
from jaxtyping import UInt8

from experiments.data.clip import MadeClips, frame_times
from experiments.data.photo_pan import CONTRAST, SPLIT_PHOTOGRAPHS
from experiments.data.pieces import digit, digit_pools, scaled_photograph

CLASSES = ("left", "right", "up", "down")
SOURCES = ("digit", "photograph")
# Ranges that a clip is drawn from, in sides of the frame.
TRAVEL = (0.25, 0.45)  # from the first frame to the last
DIGIT = (0.4, 0.5)  # side of the digit; with TRAVEL, it stays within the frame
FRAMES_HIGH = (2, 3)  # the photograph's shorter side
ATTEMPTS = 4  # at a piece of a photograph that is not flat


@final
class Direction(MadeClips):
    """A digit or a photograph moves straight and steadily; the label is the way what is shown moves. Ours.

    The label is of the picture, not of the camera: as a camera pans to the right, what it shows moves across the frame
    to the left, and the label is "left". One label set serves both sources, which take turns.

    Everything is drawn before the way is settled, and halfway through the clip what is shown is where it was drawn to
    be: a clip's middle says nothing about its label, and the clip backwards is the same clip of the opposite class. It
    moves along the rows or the columns, by fractions of a pixel (linear interpolation). In the train split a photograph
    is also mirrored and transposed at random.

    Splits are disjoint, fixed sets of handwritten samples and photographs. Arguments are those of `MadeClips`; if a
    clip has a single frame, nothing tells its label.
    """

    classes = CLASSES

    def __init__(
        self, split: str, num_frames: int = 8, image_size: int = 64, seed: int = 0, size: int = 6000
    ) -> None:
        super().__init__(split, num_frames, image_size, seed, size)
        self._samples = np.concatenate(digit_pools(split, 10))
        self._photographs = SPLIT_PHOTOGRAPHS[split]

    def name(self, index: int) -> str:
        return f"direction-{self.classes[self.label(index)]}-{self.source(index)}-{index}"

    def source(self, index: int) -> str:
        """What moves. Consecutive clips go through all pairs of label and source."""
        return SOURCES[index // len(CLASSES) % len(SOURCES)]

    def conditions(self, index: int) -> dict[str, int | str]:
        return {"source": self.source(index)}

    def frames(self, index: int) -> UInt8[np.ndarray, "T H W 3"]:
        rng = self.generator(index)
        travel = float(rng.uniform(*TRAVEL)) * self.image_size
        draw = self._draw_digit if self.source(index) == "digit" else self._draw_photograph
        return self._move(draw(rng, travel), travel, self.classes[self.label(index)])

    def _move(
        self, field: UInt8[np.ndarray, "S S channels"], travel: float, way: str
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """The frames of a window that moves over a field, over its centre halfway; `travel` in pixels.

        What is shown goes the other way than the window.
        """
        size = self.image_size
        pad = (len(field) - size) // 2
        strip = (
            field[pad : pad + size] if way in ("left", "right") else field[:, pad : pad + size].swapaxes(0, 1)
        )
        starts = pad + (1 if way in ("left", "up") else -1) * travel * frame_times(self.num_frames)
        whole = np.floor(starts).astype(int)
        part = (starts - whole).astype(np.float32)[:, None, None]
        columns = whole[:, None] + np.arange(size + 1)
        pixels = strip[:, columns].astype(np.float32)
        moved = np.rint(pixels[:, :, :-1] * (1 - part) + pixels[:, :, 1:] * part).astype(np.uint8)
        frames = moved.transpose((1, 0, 2, 3) if way in ("left", "right") else (1, 2, 0, 3))
        return np.broadcast_to(frames, (*frames.shape[:3], 3)).copy()

    def _draw_digit(self, rng: np.random.Generator, travel: float) -> UInt8[np.ndarray, "S S 1"]:
        """A field with a digit where it stays within the frame whichever way it goes."""
        size = self.image_size
        side = max(1, round(float(rng.uniform(*DIGIT)) * size))
        pad, reach = _pad(travel), math.ceil(travel / 2)
        free = max(0, size - side - 2 * reach) + 1
        top, left = pad + (size - side - free + 1) // 2 + rng.integers(free, size=2)
        field = np.zeros((size + 2 * pad, size + 2 * pad, 1), np.uint8)
        field[top : top + side, left : left + side, 0] = digit(int(rng.choice(self._samples)), side)
        return field

    def _draw_photograph(self, rng: np.random.Generator, travel: float) -> UInt8[np.ndarray, "S S 3"]:
        """A piece of a photograph, the first drawn that is not flat or the least flat of ATTEMPTS."""
        name = self._photographs[int(rng.integers(len(self._photographs)))]
        image = scaled_photograph(
            name, int(rng.integers(FRAMES_HIGH[0], FRAMES_HIGH[1] + 1)) * self.image_size
        )
        side, best, contrast = self.image_size + 2 * _pad(travel), image[:0], -1.0
        for _ in range(ATTEMPTS):
            top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
            piece = image[top : top + side, left : left + side]
            if (found := float(piece[..., 1].std()) / 255) > contrast:
                best, contrast = piece, found
            if contrast >= CONTRAST:
                break
        mirror, transpose = rng.random(2) < (0.5 if self.split == "train" else 0)
        best = best[:, ::-1] if mirror else best
        return best.swapaxes(0, 1) if transpose else best


def _pad(travel: float) -> int:
    """Pixels around the middle window that the others reach, and one for the interpolation."""
    return math.ceil(travel / 2) + 1
