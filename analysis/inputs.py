"""What a model is shown: clips from sources that packages register, or random tokens for a language model.

A source is an entry point of the group "analysis.clips", called as
`source(num_frames=, image_size=, count=, seed=, paths=)`, that yields objects with `video`, float32 (3,
T, H, W) normalised by `MEAN` and `STD`, `name` and `label`. This package imports none of them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

GROUP = "analysis.clips"
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Per-channel statistics of ImageNet on [0, 1], with which every source normalises, as VideoMamba and VideoMambaPro do
on Kinetics too."""
DEFAULT_SOURCE = "photo-pan"
VIDEO_SOURCE = "video"


class InputError(ValueError):
    """An input that is unknown or cannot be read; the message is one line for the user."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One input of a model, without a batch axis."""

    tokens: Float[Tensor, "3 T H W"] | Int[Tensor, "L"]
    name: str
    label: str | None = None


def clip_sources() -> tuple[str, ...]:
    """Names of the installed sources."""
    return tuple(sorted(entry_points(group=GROUP).names))


def clips(
    source: str,
    *,
    num_frames: int,
    image_size: int,
    count: int,
    seed: int,
    paths: Sequence[Path] = (),
) -> Iterator[Sample]:
    """Clips of a source, one at a time.

    Raises:
        InputError: for an unknown source at once, and for a file that cannot be read when its turn comes.
    """
    found = entry_points(group=GROUP, name=source)
    if not found:
        known = ", ".join(clip_sources()) or "none; install the toolkit with pip"
        raise InputError(f"no clips named {source!r}; there are: {known}")
    make = next(iter(found)).load()

    def produce() -> Iterator[Sample]:
        try:
            for clip in make(
                num_frames=num_frames, image_size=image_size, count=count, seed=seed, paths=tuple(paths)
            ):
                yield Sample(clip.video, clip.name, clip.label)
        except ValueError as error:
            raise InputError(str(error)) from error

    return produce()


@final
class DistinctFrames:
    """Passes samples on and counts, in each clip, the frames that differ in any bit from the one before.

    A video of fewer frames than the model takes is shown with copies, and so is a still one.
    """

    def __init__(self, samples: Iterable[Sample]):
        self._samples = samples
        self._copied: list[str] = []

    def __iter__(self) -> Iterator[Sample]:
        for sample in self._samples:
            if sample.tokens.ndim == 4:
                video = sample.tokens
                frames = video.shape[1]
                distinct = 1 + sum(not torch.equal(video[:, t], video[:, t - 1]) for t in range(1, frames))
                if distinct < frames:
                    self._copied.append(f"{sample.name} shows {distinct} distinct frames of {frames}")
            yield sample

    def notes(self) -> tuple[str, ...]:
        """One note that names every clip with copies among those passed on, or none."""
        if not self._copied:
            return ()
        return (f"Clip {', clip '.join(self._copied)}; lags between copies say nothing of motion.",)


def denormalise(video: Float[Tensor, "3 T H W"]) -> UInt8[np.ndarray, "T H W 3"]:
    """A normalised clip as RGB, rounded and clipped to 8 bits: frames to look at."""
    pixels = video * torch.tensor(STD)[:, None, None, None] + torch.tensor(MEAN)[:, None, None, None]
    return (255 * pixels).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()


def random_tokens(*, vocabulary: int, length: int, count: int, seed: int) -> Iterator[Sample]:
    """Sequences of token ids drawn uniformly: no text, so what they show is the model's decay on noise."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        ids = torch.randint(vocabulary, (length,), generator=generator)
        yield Sample(ids, f"random tokens {index}")


def as_samples(clips: Tensor | Iterable[Sample | Tensor]) -> list[Sample]:
    """Samples of one shape, from samples or from clips without names.

    Raises:
        ValueError: where there are none, or they have several shapes.
    """
    found = [
        one if isinstance(one, Sample) else Sample(one, f"clip {index}") for index, one in enumerate(clips)
    ]
    if not found:
        raise ValueError("clips: there are none; show the model one or more")
    for sample in found:
        tokens = sample.tokens
        if not isinstance(tokens, Tensor) or not (
            (tokens.ndim == 4 and tokens.is_floating_point()) or tokens.ndim == 1
        ):
            met = (
                f"{tuple(tokens.shape)} of {tokens.dtype}"
                if hasattr(tokens, "shape")
                else type(tokens).__name__
            )
            raise ValueError(
                f"clips: {sample.name} is {met}; wanted floating point tensors (n, 3, T, H, W), or token ids (n, L)"
            )
    shapes = {tuple(sample.tokens.shape) for sample in found}
    if len(shapes) > 1:
        raise ValueError(f"clips: have shapes {' and '.join(map(str, sorted(shapes)))}; all must have one")
    return found


def digest_of(samples: Sequence[Sample]) -> str:
    """SHA-256 of the samples' names and contents."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.name.encode())
        digest.update(sample.tokens.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
