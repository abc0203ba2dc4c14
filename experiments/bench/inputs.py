"""The inputs that scans are timed on."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NAMES = ("u", "delta", "A", "B", "C", "D")
"""Arguments of a scan, in their order."""


@final
@dataclass(frozen=True, eq=False)
class ScanInputs:
    """Arguments of a scan, and the gradient dy that reaches its output."""

    u: Float[Tensor, "B D L"]
    delta: Float[Tensor, "B D L"]
    A: Float[Tensor, "D N"]
    B: Float[Tensor, "B N L"]
    C: Float[Tensor, "B N L"]
    D: Float[Tensor, " D"]
    dy: Float[Tensor, "B D L"]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the arguments, in the order of `NAMES`."""
        return self.u, self.delta, self.A, self.B, self.C, self.D

    def double(self) -> "ScanInputs":
        """Return the same numbers in float64."""
        return ScanInputs(*(x.double() for x in (*self.tensors(), self.dy)))

    @property
    def says(self) -> str:
        """Sizes and dtype, in words."""
        batch, channels, length = self.u.shape
        return in_words(batch, channels, self.A.shape[1], length, self.u.dtype)


def in_words(batch: int, channels: int, states: int, length: int, dtype: torch.dtype = torch.float32) -> str:
    """Return the sizes and dtype of inputs in words."""
    return f"B={batch}, D={channels}, N={states}, L={length}, {str(dtype).removeprefix('torch.')}"


def draw(
    batch: int,
    channels: int,
    states: int,
    length: int,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    kind: str = "usual",
) -> ScanInputs:
    """Draw inputs as a layer has them: A[n] = -(n + 1), delta = softplus(normal - 2), and all else normal.

    The draw is the same on every device, and A and D stay float32 where `dtype` is narrower. Of the kind "decaying",
    delta is 0.1 to 10, so that exp(delta A) underflows; of the kind "silent", u is 0 except at every 128th token, so
    that states decay through the denormal numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    u, raw = normal(batch, channels, length), normal(batch, channels, length)
    delta = F.softplus(raw - 2)
    if kind == "decaying":
        delta = 0.1 * 100 ** torch.special.ndtr(raw)
    if kind == "silent":
        u = u * (torch.arange(length) % 128 == 0)
        delta = delta + 0.5
    wide = torch.promote_types(dtype, torch.float32)
    A = -torch.arange(1, states + 1, dtype=wide).repeat(channels, 1)
    B, C = normal(batch, states, length), normal(batch, states, length)
    D, dy = normal(channels), normal(batch, channels, length)
    u, delta, B, C, dy = (x.to(device, dtype) for x in (u, delta, B, C, dy))
    return ScanInputs(u, delta, A.to(device), B, C, D.to(device, wide), dy)
