"""Hypothesis strategies for scans: arguments of `vmp.selective_scan` that meet its preconditions, edge cases included.

Torch draws the values from a seed that hypothesis draws. Hypothesis itself draws shapes and options, so a failing case
shrinks to its smallest shape and fewest options. Inputs are of order one.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

RESIDUALS = ("none", "initial", "elemental")
LENGTHS = (0, 1, 2, 3, 7, 31, 63, 64, 65, 130)
# Step sizes: as a trained layer has them; zero, at every other step; from 0.1 to 10, which with A down to -16
# underflows; and small, where the state remembers everything.
STEPS = ("usual", "zeros", "wide", "small")


@st.composite
def scan_arguments(
    draw: st.DrawFn,
    *,
    dtype: torch.dtype = torch.float64,
    lengths: Sequence[int] = LENGTHS,
    raw_delta: bool = True,
) -> dict[str, Any]:
    """Draw the arguments of one scan, by name; without `raw_delta`, delta is the step size itself."""
    make = Maker(draw(st.integers(0, 2**31 - 1)), dtype, draw(st.booleans()))
    batch = draw(st.integers(1, 3))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    channels = groups * draw(st.sampled_from((1, 2, 5, 16, 17, 35)))
    states = draw(st.sampled_from((1, 2, 3, 8, 16, 64)))
    length = draw(st.sampled_from(tuple(lengths)))
    softplus = raw_delta and draw(st.booleans())
    residual = draw(st.sampled_from(RESIDUALS))
    steps = make.normal(batch, channels, length) if softplus else make.steps(draw, batch, channels, length)
    return {
        "u": make.normal(batch, channels, length),
        "delta": steps,
        "A": make.rates(channels, states),
        "B": make.rows(draw, batch, groups, channels, states, length),
        "C": make.rows(draw, batch, groups, channels, states, length),
        "D": make.normal(channels) if draw(st.booleans()) else None,
        "z": make.normal(batch, channels, length) if draw(st.booleans()) else None,
        "delta_bias": make.normal(channels) if softplus and draw(st.booleans()) else None,
        "delta_softplus": softplus,
        "h0": make.normal(batch, channels, states) if residual != "initial" and draw(st.booleans()) else None,
        "residual": residual,
        "mask_diagonal": draw(st.booleans()),
        "masked_first_step": draw(st.sampled_from(("carry", "skip_only"))),
        "reverse": draw(st.booleans()),
    }


class Maker:
    """Tensors from one seed, contiguous or as views with gaps and a permuted order in memory."""

    def __init__(self, seed: int, dtype: torch.dtype, strided: bool = False) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.strided = strided

    def normal(self, *shape: int) -> Tensor:
        return self._laid_out(torch.randn(shape, generator=self.generator, dtype=torch.float64))

    def rates(self, channels: int, states: int) -> Tensor:
        """A in [-16, 0)."""
        uniform = torch.rand(channels, states, generator=self.generator, dtype=torch.float64)
        return self._laid_out(-16 * (uniform**3).clamp(min=1e-4))

    def steps(self, draw: st.DrawFn, *shape: int) -> Tensor:
        kind = draw(st.sampled_from(STEPS))
        normal = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return self._laid_out(
            {
                "usual": F.softplus(normal - 2),
                "zeros": F.softplus(normal - 2) * (torch.arange(shape[-1]) % 2),
                "wide": 0.1 * 100**uniform,
                "small": 1e-3 * uniform,
            }[kind]
        )

    def rows(
        self, draw: st.DrawFn, batch: int, groups: int, channels: int, states: int, length: int
    ) -> Tensor:
        """B or C in one of its three forms; (B, N, L) only where there is one group."""
        forms = [(channels, states), (batch, groups, states, length)]
        if groups == 1:
            forms.append((batch, states, length))
        return self.normal(*draw(st.sampled_from(forms)))

    def _laid_out(self, values: Tensor) -> Tensor:
        values = values.to(self.dtype)
        if not self.strided:
            return values
        # Twice the length in memory, last axis first.
        gaps = torch.repeat_interleave(values, 2, dim=-1).movedim(-1, 0).contiguous()
        return gaps.movedim(0, -1)[..., ::2]
