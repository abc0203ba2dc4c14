"""One scan to hold a claim against, and how far two tensors are apart."""

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
"""Tokens of the shortest scan that every claim, and every case against it, can be put to."""


@final
@dataclass(frozen=True, eq=False)
class Case:
    """One scan: its terms, its input and its options, in the letters of math.md section 1.

    ``h0`` is the state before the first step, or None for zero; ``masked_first_step`` as in `ImplicitAttention`.
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
        residual: str = "none",
        mask_diagonal: bool = False,
        reverse: bool = False,
        start: bool = False,
    ) -> Case:
        """Float64: normal u, B, C and D; steps in (0, 1); rates in (-4, 0).

        ``start`` draws h_0 too, except with residual "initial", which sets it. Raises ValueError for a ``length``
        under `SHORTEST`.
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

        return cls(
            u=normal(batch, channels, length),
            delta=uniform(batch, channels, length),
            A=-4 * uniform(channels, states),
            B=normal(batch, states, length),
            C=normal(batch, states, length),
            D=normal(channels),
            residual=residual,
            mask_diagonal=mask_diagonal,
            reverse=reverse,
            h0=normal(batch, channels, states) if start and residual != "initial" else None,
        )

    @classmethod
    def captured(cls, capture: Capture, steps: int, channels: int) -> Case:
        """The first ``steps`` steps of a captured direction, on at most ``channels`` channels, evenly spaced.

        A scan never looks ahead, so these steps alone are the leading block of its whole matrix, exactly.
        """
        D, L = capture.terms.u.shape[1:]
        steps = min(steps, L)
        at = slice(L - steps, L) if capture.reversed else slice(0, steps)
        chosen = torch.linspace(0, D - 1, min(channels, D)).round().long().to(capture.terms.u.device)
        skip = torch.zeros_like(capture.terms.u[0, :, 0]) if capture.terms.D is None else capture.terms.D
        return cls(
            u=capture.terms.u[:, chosen, at],
            delta=capture.terms.delta[:, chosen, at],
            A=capture.terms.A[chosen],
            B=capture.terms.B[..., at],
            C=capture.terms.C[..., at],
            D=skip[chosen],
            residual=capture.terms.residual,
            mask_diagonal=capture.terms.mask_diagonal,
            reverse=capture.reversed,
            masked_first_step=capture.terms.masked_first_step,
        )

    @property
    def length(self) -> int:
        return self.u.shape[-1]

    @property
    def states(self) -> int:
        return self.A.shape[-1]

    @property
    def silent_start(self) -> bool:
        """Whether the first step outputs D u alone."""
        return self.mask_diagonal and self.masked_first_step == "skip_only"

    @property
    def first(self) -> int:
        """Position of the token whose step comes first."""
        return self.length - 1 if self.reverse else 0

    def to(self, dtype: torch.dtype) -> Case:
        """The same scan with its numbers rounded to ``dtype``."""
        tensors: dict[str, Any] = {
            name: value.to(dtype) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)

    def ordered(self, x: Tensor) -> Tensor:
        """A sequence, from the order of the tokens to that of the steps, or back."""
        return x.flip(-1) if self.reverse else x

    def by_state(self) -> Case:
        """Every state as a channel of its own with N = 1: channel d N + n is state n of channel d."""
        D, N = self.A.shape
        B, C = (x[:, None, :, None].expand(-1, D, -1, 1, -1).flatten(1, 2) for x in (self.B, self.C))
        u, delta = (x.repeat_interleave(N, dim=1) for x in (self.u, self.delta))
        A, D_ = self.A.reshape(-1, 1), self.D.repeat_interleave(N)
        h0 = None if self.h0 is None else self.h0.flatten(1, 2)[..., None]
        return replace(self, u=u, delta=delta, A=A, B=B, C=C, D=D_, h0=h0)

    def operator(self) -> ImplicitAttention:
        """alpha and beta, by the code that is under test."""
        return ImplicitAttention(
            self.delta, self.A, self.B, self.C, self.D, self.h0, self.residual, self.mask_diagonal, self.reverse,
            masked_first_step=self.masked_first_step,
        )  # fmt: skip

    def matrix(self) -> Float[Tensor, "B D L L"]:
        """alpha, dense, by the formula."""
        return self.operator().dense()

    def scan(self, u: Float[Tensor, "B D L"] | None = None) -> Float[Tensor, "B D L"]:
        """y, by the definition."""
        u = self.u if u is None else u
        y = selective_scan(u, self.delta, self.A, self.B, self.C, self.D, h0=self.h0, **self.options())
        return self.started(y, u)

    def started(self, y: Float[Tensor, "B D L"], u: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
        """y with its first step D u alone, where the case says so."""
        if not self.silent_start:
            return y
        is_first = torch.arange(self.length, device=u.device) == self.first
        return torch.where(is_first, self.D[:, None] * u, y)

    def options(self) -> dict[str, Any]:
        """The keywords of `selective_scan` that make it the definition of this scan."""
        return {
            "residual": self.residual,
            "mask_diagonal": self.mask_diagonal,
            "reverse": self.reverse,
            "backend": "spec",
        }

    def responses(self) -> Float[Tensor, "B D L L"]:
        """alpha by its meaning, dy_i / du_j less the skip term: what the definition answers to one unit at token j."""
        batch, channels, L = self.u.shape
        unit = torch.eye(L, dtype=self.u.dtype, device=self.u.device)
        units = unit[:, None, None].expand(-1, batch, channels, -1).flatten(0, 1)
        terms = [x.repeat(L, *(1,) * (x.ndim - 1)) for x in (self.delta, self.B, self.C)]
        delta, B, C = terms
        no_skip = torch.zeros_like(self.D)
        y = selective_scan(units, delta, self.A, B, C, no_skip, **self.options())
        y = replace(self, D=no_skip).started(y, units)
        return y.unflatten(0, (L, batch)).permute(1, 2, 3, 0)


def apart(a: Tensor, b: Tensor, scale: Tensor | None = None) -> float:
    """Largest difference, relative to the largest entry of ``scale`` (of ``b`` where None); inf where not finite.

    0 where there is nothing to compare or all of it is zero.
    """
    if not a.numel():
        return 0.0
    size, gap = (b if scale is None else scale).abs().max(), (a - b).abs().max()
    if gap == 0:
        return 0.0
    return _number(gap / size)


def entrywise(a: Tensor, b: Tensor) -> float:
    """Largest of abs(a - b) / (abs(a) + abs(b)), in [0, 1]; entries too small to hold their digits are left out."""
    total = a.abs() + b.abs()
    smallest = torch.finfo(a.dtype).tiny / torch.finfo(a.dtype).eps ** 2
    gap = torch.where(total > smallest, (a - b).abs() / total.clamp(min=smallest), torch.zeros_like(total))
    gap = torch.where(torch.isfinite(total), gap, torch.inf)
    return _number(gap.max()) if gap.numel() else 0.0


def _number(x: Tensor) -> float:
    return x.item() if torch.isfinite(x) else float("inf")


def held(x: Float[Tensor, "B N L"], constant: bool) -> Float[Tensor, "B N L"]:
    """``x`` as it is, or its first entry at every token."""
    return x[..., :1].expand_as(x) if constant else x


def cuts(length: int) -> Iterator[int]:
    """Where to part a sequence: after a quarter, a half and three quarters of it, each once."""
    yield from dict.fromkeys(max(1, round(length * part / 4)) for part in (1, 2, 3))
