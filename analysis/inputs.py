"""What a model is shown: clips from sources that packages register, or random tokens for a language model.

A source is an entry point of the group "analysis.clips", called as
``source(num_frames=, image_size=, count=, seed=, paths=)``, that yields objects with ``video``, float32 (3,
T, H, W) normalised as the models expect, ``name`` and ``label``. This package imports none of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUP = "analysis.clips"
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

    Raises InputError for an unknown source at once, and for a file that cannot be read when its turn comes.
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


def random_tokens(*, vocabulary: int, length: int, count: int, seed: int) -> Iterator[Sample]:
    """Sequences of token ids drawn uniformly: no text, so what they show is the model's decay on noise."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        ids = torch.randint(vocabulary, (length,), generator=generator)
        yield Sample(ids, f"random tokens {index}")
