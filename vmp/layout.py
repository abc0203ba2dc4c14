"""Where tokens lie in a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """Where class tokens and patches lie in a sequence.

    Patch tokens fill the positions that class tokens leave: frames in time order, each in raster order.

    Attributes:
        class_positions: 0-based positions of class tokens, ascending
        frames: T, temporal positions (frames of the clip over the tubelet size); 0 for a plain sequence
        grid: patches down and across a frame
        plain: tokens that belong to no frame and are no class token: all those of a text

    Raises:
        ValueError: where a class position is outside the sequence or positions do not ascend.
    """

    class_positions: tuple[int, ...]
    frames: int
    grid: tuple[int, int]
    plain: int = 0

    def __post_init__(self) -> None:
        positions = self.class_positions
        ascending = all(a < b for a, b in pairwise(positions))
        inside = all(0 <= position < self.length for position in positions)
        if not (ascending and inside):
            raise ValueError(
                f"class_positions {positions} must ascend and lie in a sequence of {self.length} tokens"
            )
        if min(self.frames, self.plain, *self.grid) < 0 or (self.plain and self.frames):
            raise ValueError(
                f"frames {self.frames}, grid {self.grid}, plain {self.plain}: frames or plain tokens, not both"
            )

    @classmethod
    def video(cls, frames: int, grid: tuple[int, int], class_token: str) -> TokenLayout:
        """The layout of a clip.

        Raises:
            ValueError: for an unknown `class_token` (see `ModelConfig`).
        """
        patches = frames * grid[0] * grid[1]
        places = {"first": (0,), "middle": (patches // 2,), "both_ends": (0, patches + 1), "none": ()}
        if class_token not in places:
            raise ValueError(f"class_token is {class_token!r}; one of {', '.join(places)} is needed")
        return cls(places[class_token], frames, grid)

    @classmethod
    def sequence(cls, length: int) -> TokenLayout:
        """A plain sequence of `length` tokens, such as a text."""
        return cls((), 0, (0, 0), length)

    @property
    def is_video(self) -> bool:
        """Whether there are frames."""
        return self.frames > 0

    @property
    def patches(self) -> int:
        """P, patches a frame."""
        return self.grid[0] * self.grid[1]

    @property
    def length(self) -> int:
        """L, tokens in the sequence."""
        return len(self.class_positions) + self.frames * self.patches + self.plain

    def patch_positions(self) -> Int[Tensor, " patches"]:
        """0-based sequence positions of the patches, frames in time order, each in raster order."""
        is_patch = torch.ones(self.length, dtype=torch.bool)
        is_patch[list(self.class_positions)] = False
        return is_patch.nonzero().flatten()[: self.frames * self.patches]

    @property
    def frame_index(self) -> Int[Tensor, " L"]:
        """The frame of each token, 0-based; -1 for class tokens and plain ones."""
        return self._spread(torch.arange(self.frames * self.patches) // max(self.patches, 1))

    @property
    def row_index(self) -> Int[Tensor, " L"]:
        """The patch row of each token, 0-based; -1 for class tokens and plain ones."""
        return self._spread(torch.arange(self.patches).repeat(self.frames) // max(self.grid[1], 1))

    @property
    def col_index(self) -> Int[Tensor, " L"]:
        """The patch column of each token, 0-based; -1 for class tokens and plain ones."""
        return self._spread(torch.arange(self.patches).repeat(self.frames) % max(self.grid[1], 1))

    def _spread(self, per_patch: Int[Tensor, " patches"]) -> Int[Tensor, " L"]:
        index = torch.full((self.length,), -1)
        index[self.patch_positions()] = per_patch
        return index
