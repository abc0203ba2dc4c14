"""Which frames of a video a clip takes, and which squares of them."""

import numpy as np
from jaxtyping import Float, Int


def sample_uniformly(total: int, num_frames: int) -> Int[np.ndarray, " T"]:
    """Indices of `num_frames` frames of `total`: the middle of each of num_frames equal segments.

    Fewer frames than asked for are repeated: indices never decrease and stay within range.
    """
    return sparse_views(total, num_frames, 1)[0]


def sample_segments(total: int, num_frames: int, rng: np.random.Generator) -> Int[np.ndarray, " T"]:
    """One frame anywhere in each of num_frames equal segments: TSN's training clips (Wang et al., arXiv 1608.00859)."""
    return _places(total, num_frames, rng.random(num_frames))


def sample_stretch(
    total: int, num_frames: int, stride: int, rng: np.random.Generator
) -> Int[np.ndarray, " T"]:
    """Every `stride`-th frame from a random one on; where the video is too short, its last frame is repeated."""
    latest = max(0, total - ((num_frames - 1) * stride + 1))
    return _stretch(total, num_frames, stride, int(rng.integers(latest + 1)))


def sparse_views(total: int, num_frames: int, clips: int) -> Int[np.ndarray, "K T"]:
    """K clips of one frame a segment: clip c of K has the middle of the c-th of K equal parts of each segment."""
    return np.stack(
        [_places(total, num_frames, np.full(num_frames, (c + 0.5) / clips)) for c in range(clips)]
    )


def dense_views(total: int, num_frames: int, stride: int, clips: int) -> Int[np.ndarray, "K T"]:
    """K clips of every `stride`-th frame, their starts evenly spread from the first to the last there can be.

    A single clip is the middle one. Where the video is too short, its last frame is repeated.
    """
    latest = max(0, total - ((num_frames - 1) * stride + 1))
    starts = np.linspace(0, latest, clips) if clips > 1 else np.array([latest / 2])
    return np.stack([_stretch(total, num_frames, stride, int(start)) for start in starts])


def _places(total: int, num_frames: int, within: Float[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """The frame at the fraction `within` of each segment; fractions are in [0, 1)."""
    places = (np.arange(num_frames) + within) * total / num_frames
    return np.minimum(places.astype(np.int64), total - 1)  # rounding may take a fraction near 1 to the end


def _stretch(total: int, num_frames: int, stride: int, start: int) -> Int[np.ndarray, " T"]:
    return np.minimum(start + stride * np.arange(num_frames), total - 1)


def crop_boxes(width: int, height: int, crops: int) -> list[tuple[float, float, float, float]]:
    """Largest squares (left, top, right, bottom) of a frame, evenly spread along its long side; one is the middle."""
    side, spare = min(width, height), abs(width - height)
    starts = np.linspace(0, spare, crops) if crops > 1 else np.array([spare / 2])
    along = [float(start) for start in starts]
    if width >= height:
        return [(start, 0.0, start + side, float(side)) for start in along]
    return [(0.0, start, float(side), start + side) for start in along]
