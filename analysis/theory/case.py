"""A case is one scan that a claim is held against; the functions below it measure how far two tensors are apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.capture import Capture
from analysis.matrix.implicit import ImplicitAttention
from vmp.scan import selective_scan

SHORTEST = 6
"""The shortest scan, in tokens, to which every claim can be put with each assumption met or dropped."""

OPTIONS = ("residual", "mask_diagonal", "reverse", "masked_first_step")
"""The options of a scan that `selective_scan` takes too."""


@final
@dataclass(frozen=True, eq=False)
class Case:
    """One scan: its terms, its input and its options, in the letters of math.md section 1.

    `h0` is the state before the first step, or None for zero.
    """

    u: Float[Tensor, "B D L"]
    delta: Float[Tensor, "B D L"]
    A: Float[Tensor, "D N"]
    B: Float[Tensor, "B N L"] | Float[Tensor, "B D N L"]
    C: Float[Tensor, "B N L"] | Float[Tensor, "B D N L"]
    D: Float[Tensor, " D"]
    residual: str = "none"
    mask_diagonal: bool = False
    reverse: bool = False
    h0: Float[Tensor, "B D N"] | None = None
    masked_first_step: str = "carry"

    @classmethod
    def random(
        cls,
        seed: int,
        batch: int = 2,
        channels: int = 3,
        states: int = 4,
        length: int = 12,
        start: bool = False,
        **options: Any,
    ) -> Case:
        """Draw a scan in float64: u, B, C and D are normal, steps lie in (0, 1) and rates in (-4, 0).

        Args:
            seed: The seed of all that is drawn.
            batch, channels, states, length: The sizes B, D, N and L.
            start: Whether h_0 is drawn too. The residual "initial" sets h_0 itself, so none is drawn beside it.
            options: Fields of those names in `OPTIONS`.

        Raises:
            ValueError: The length is below `SHORTEST`.
        """
        if length < SHORTEST:
            raise ValueError(
                f"length: {length}; wanted at least {SHORTEST}, so that there are triples to tell apart"
            )
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g, dtype=torch.float64) + 1e-3

        case = cls(
            u=normal(batch, channels, length),
            delta=uniform(batch, channels, length),
            A=-4 * uniform(channels, states),
            B=normal(batch, states, length),
            C=normal(batch, states, length),
            D=normal(channels),
            **options,
        )
        drawn = start and case.residual != "initial"
        return replace(case, h0=normal(batch, channels, states)) if drawn else case

    @classmethod
    def captured(cls, capture: Capture, steps: int, channels: int) -> Case:
        """Take the first steps of a captured direction, on at most `channels` channels that are evenly spaced.

        A scan never looks ahead, so these steps alone are exactly the leading block of its whole matrix.
        """
        terms = capture.terms
        D, L = terms.u.shape[1:]
        steps = min(steps, L)
        at = slice(L - steps, L) if capture.reversed else slice(0, steps)
        chosen = torch.linspace(0, D - 1, min(channels, D)).round().long().to(terms.u.device)
        skip = torch.zeros_like(terms.u[0, :, 0]) if terms.D is None else terms.D
        return cls(
            u=terms.u[:, chosen, at],
            delta=terms.delta[:, chosen, at],
            A=terms.A[chosen],
            B=terms.B[..., at],
            C=terms.C[..., at],
            D=skip[chosen],
            **{name: getattr(terms, name) for name in OPTIONS},
        )

    @property
    def length(self) -> int:
        return self.u.shape[-1]

    @property
    def states(self) -> int:
        return self.A.shape[-1]

    @property
    def first(self) -> int:
        """The position of the token whose step comes first."""
        return self.length - 1 if self.reverse else 0

    @property
    def silent_start(self) -> bool:
        """Whether the first step outputs D u alone."""
        return self.mask_diagonal and self.masked_first_step == "skip_only"

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of `selective_scan` that make it the definition of this scan."""
        return {name: getattr(self, name) for name in OPTIONS} | {"backend": "spec"}

    def to(self, dtype: torch.dtype) -> Case:
        """Return the same scan with its numbers rounded to `dtype`."""
        tensors: dict[str, Any] = {
            name: value.to(dtype) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)

    def ordered(self, x: Tensor) -> Tensor:
        """Turn a sequence from the order of the tokens to that of the steps, or back."""
        return x.flip(-1) if self.reverse else x

    def by_state(self) -> Case:
        """Make every state a channel of its own with N = 1: channel d N + n is state n of channel d."""
        D, N = self.A.shape
        B, C = (x[:, None, :, None].expand(-1, D, -1, 1, -1).flatten(1, 2) for x in (self.B, self.C))
        u, delta = (x.repeat_interleave(N, dim=1) for x in (self.u, self.delta))
        A, D_ = self.A.reshape(-1, 1), self.D.repeat_interleave(N)
        h0 = None if self.h0 is None else self.h0.flatten(1, 2)[..., None]
        return replace(self, u=u, delta=delta, A=A, B=B, C=C, D=D_, h0=h0)

    def operator(self) -> ImplicitAttention:
        """Build alpha and beta by the code that is under test."""
        return ImplicitAttention(**{name: value for name, value in vars(self).items() if name != "u"})

    def scan(self) -> Float[Tensor, "B D L"]:
        """Compute y by the definition."""
        return selective_scan(self.u, self.delta, self.A, self.B, self.C, self.D, h0=self.h0, **self.options)

    def responses(self) -> Float[Tensor, "B D L L"]:
        """Read alpha off the definition: its answer to one unit at token j is column j, without the skip term."""
        batch, channels, L = self.u.shape
        unit = torch.eye(L, dtype=self.u.dtype, device=self.u.device)
        units = unit[:, None, None].expand(-1, batch, channels, -1).flatten(0, 1)
        delta, B, C = (x.repeat(L, *(1,) * (x.ndim - 1)) for x in (self.delta, self.B, self.C))
        alone = replace(self, u=units, delta=delta, B=B, C=C, D=torch.zeros_like(self.D), h0=None)
        return alone.scan().unflatten(0, (L, batch)).permute(1, 2, 3, 0)

    def in_steps(self) -> Float[Tensor, "B D L L"]:
        """Return `responses` with rows and columns in the order of the steps, which makes them lower triangular."""
        alpha = self.responses()
        return alpha.flip((-2, -1)) if self.reverse else alpha


def apart(a: Tensor, b: Tensor, scale: Tensor | None = None) -> float:
    """Measure the largest difference, relative to the largest entry of `scale`, or of `b` where that is None.

    Returns:
        The relative difference; 0 where there is nothing to compare or all of it is zero; infinity where a number
        is not finite.
    """
    if not a.numel():
        return 0.0
    size, gap = (b if scale is None else scale).abs().max(), (a - b).abs().max()
    return 0.0 if gap == 0 else _number(gap / size)


def entrywise(a: Tensor, b: Tensor) -> float:
    """Measure the largest abs(a - b) / (abs(a) + abs(b)), which lies in [0, 1].

    Entries that are too small to hold their digits are left out. An entry that is not finite gives infinity.
    """
    total = a.abs() + b.abs()
    smallest = torch.finfo(a.dtype).tiny / torch.finfo(a.dtype).eps ** 2
    gap = torch.where(total > smallest, (a - b).abs() / total.clamp(min=smallest), torch.zeros_like(total))
    gap = torch.where(torch.isfinite(total), gap, torch.inf)
    return _number(gap.max()) if gap.numel() else 0.0


def _number(x: Tensor) -> float:
    return x.item() if torch.isfinite(x) else float("inf")


def cuts(length: int) -> Iterator[int]:
    """Yield where to part a sequence: after a quarter, a half and three quarters of it, each once."""
    yield from dict.fromkeys(max(1, round(length * part / 4)) for part in (1, 2, 3))
