"""Clips cut from still photographs by a window that pans or zooms: the class is how the window moves.

The photographs are those that the wheels of scikit-learn and scikit-image carry, so nothing is downloaded. Of
those only photographs of things are used: no drawings, documents, microscopy or medical images, one of the
stereo pair, and not `clock`, which is blurred by a moving camera on purpose and so shows a direction of its
own.
"""

import dataclasses
import functools
import math
from typing import final

import numpy as np
import skimage.data
from jaxtyping import Float, UInt8
from PIL import Image

from experiments.data.clip import MadeClips, frame_times

CLASSES = ("pan left", "pan right", "pan up", "pan down", "zoom in", "zoom out")
_PAN = {"pan left": (-1, 0), "pan right": (1, 0), "pan up": (0, -1), "pan down": (0, 1)}
_ZOOM = {"zoom in": -1, "zoom out": 1}

PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "china",
    "coffee",
    "coins",
    "flower",
    "grass",
    "gravel",
    "hubble_deep_field",
    "moon",
    "motorcycle",
    "rocket",
)
# Every third name of the alphabet's order, so that no result could choose them.
SPLIT_PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "train": tuple(name for i, name in enumerate(PHOTOGRAPHS) if i % 3 != 2),
    "held-out": PHOTOGRAPHS[2::3],
}

# Ranges that a clip's path is drawn from. Lengths are in sides of the window halfway through the clip.
TRAVEL = (0.25, 0.65)  # how far a pan goes from the first frame to the last
ZOOM = (1.3, 2.0)  # the larger side of a zoom over the smaller
SMALLEST = 1 / 3  # the smallest window over the largest that fits the photograph with every path
CONTRAST = 0.05  # least standard deviation of the grey values under the window, of a range of 1
ATTEMPTS = 16


@functools.cache
def photograph(name: str) -> UInt8[np.ndarray, "H W 3"]:
    """One of PHOTOGRAPHS as RGB; grey ones have three equal channels.

    Raises:
        ValueError: for any other name.
    """
    if name not in PHOTOGRAPHS:
        raise ValueError(f"no photograph {name!r}: there are {', '.join(PHOTOGRAPHS)}")
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")
    elif name == "motorcycle":
        pixels = skimage.data.stereo_motorcycle()[0]
    else:
        pixels = getattr(skimage.data, name)()
    return pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1)


@final
@dataclasses.dataclass(frozen=True)
class WindowPath:
    """Where the window is halfway through a clip (source pixels), and how far it moves if it pans or zooms.

    Nothing here depends on the class: halfway, clips of all six classes show the same thing, and the
    class is in the motion alone.
    """

    x: float
    y: float
    side: float
    travel: float
    zoom: float

    def boxes(self, label: str, num_frames: int) -> Float[np.ndarray, "T 4"]:
        """The window (left, top, right, bottom) in each frame; the speed of a pan or zoom is constant."""
        times = frame_times(num_frames)
        across, down = _PAN.get(label, (0, 0))
        half = self.side / 2 * self.zoom ** (_ZOOM.get(label, 0) * times)
        x = self.x + across * self.travel * self.side * times
        y = self.y + down * self.travel * self.side * times
        return np.stack([x - half, y - half, x + half, y + half], axis=1)


def _draw_path(rng: np.random.Generator, width: int, height: int) -> WindowPath:
    reach = 1 + TRAVEL[1]  # of every path, in sides; zooms stay within it as sqrt(ZOOM[1]) is less
    side = min(width, height) / reach * SMALLEST ** rng.random()
    margin = side * reach / 2
    x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
    return WindowPath(x, y, side, rng.uniform(*TRAVEL), math.exp(rng.uniform(*np.log(ZOOM))))


def _textured_path(rng: np.random.Generator, grey: Float[np.ndarray, "H W"]) -> WindowPath:
    """The first path drawn whose middle window is not a flat piece of sky, or the least flat of ATTEMPTS."""

    def contrast(path: WindowPath) -> float:
        left, top, right, bottom = path.boxes("", 1)[0].astype(int)
        return float(grey[top:bottom, left:right].std())

    height, width = grey.shape
    best = _draw_path(rng, width, height)
    for _ in range(ATTEMPTS - 1):
        if contrast(best) >= CONTRAST:
            break
        best = max(best, _draw_path(rng, width, height), key=contrast)
    return best


@final
class PhotoPan(MadeClips):
    """Pans and zooms over photographs, ours: six classes, constant speed, and random place, size and speed.

    Every frame is resampled from the photograph at full precision of the window's place by Pillow's
    antialiased bicubic filter, so a window moves by fractions of a pixel and shrinks without aliasing. The
    path depends on neither `num_frames` nor `image_size`: another number or size of frames is the same clip,
    sampled differently.

    Consecutive clips go through all pairs of class and photograph. In the train split the photograph is also
    mirrored and transposed at random (the class is that of the clip as seen).

    Splits are disjoint, fixed sets of photographs (SPLIT_PHOTOGRAPHS); arguments are those of `MadeClips`.
    """

    classes = CLASSES

    def __init__(
        self, split: str, num_frames: int = 8, image_size: int = 64, seed: int = 0, size: int = 6000
    ) -> None:
        super().__init__(split, num_frames, image_size, seed, size)
        self.photographs = SPLIT_PHOTOGRAPHS[split]
        self._images = [Image.fromarray(photograph(name)) for name in self.photographs]
        self._grey = [np.asarray(image.convert("L"), np.float32) / 255 for image in self._images]

    def name(self, index: int) -> str:
        return f"{self.photographs[self._photo(index)]}-{index}"

    def frames(self, index: int) -> UInt8[np.ndarray, "T H W 3"]:
        photo, label = self._photo(index), CLASSES[self.label(index)]
        rng = self.generator(index)
        path = _textured_path(rng, self._grey[photo])
        mirror, transpose = rng.random(2) < (0.5 if self.split == "train" else 0)
        if mirror:
            label = _MIRRORED.get(label, label)
        if transpose:
            label = _TRANSPOSED.get(label, label)
        frames = self._render(photo, path, label)
        frames = frames.swapaxes(1, 2) if transpose else frames
        return np.ascontiguousarray(frames[:, :, ::-1] if mirror else frames)

    def _photo(self, index: int) -> int:
        photos = len(self.photographs)
        return (index + index // math.lcm(len(CLASSES), photos)) % photos

    def _render(self, photo: int, path: WindowPath, label: str) -> UInt8[np.ndarray, "T H W 3"]:
        image, size = self._images[photo], (self.image_size, self.image_size)
        boxes = path.boxes(label, self.num_frames)
        windows = [image.resize(size, Image.Resampling.BICUBIC, tuple(box)) for box in boxes]
        return np.stack([np.asarray(window) for window in windows])


_MIRRORED = {"pan left": "pan right", "pan right": "pan left"}
_TRANSPOSED = {"pan left": "pan up", "pan up": "pan left", "pan right": "pan down", "pan down": "pan right"}
