"""Attention rollout over layers, for mixers of any kind and any number of directions.

With W the weights of one layer in one scope (math.md section 2), never negative, summed over its directions,

    P = W, each row divided by its sum              A = s I + (1 - s) P              R = A_last ... A_2 A_1

R_ij is the share of token i's last state that paths over the layers lead back to input token j. s is the share that the
residual stream keeps: 1/2 in Abnar and Zuidema (arXiv 2005.00928, section 3), and so here by default. A share measured
by norms would need contributions in the units of the stream, which `contribution` has only after the projection; and
what the projection makes of a sum of directions is not what it makes of each. A row without weight has A_ii = 1: the
layer adds nothing to that token.

Signs: W is a mean over channels of abs(M), or a norm, so a path that the model subtracts counts as one that it adds.
Directions of a scan add up before the last projection, so their weights are summed before rows are divided.
Attention in time and in space follow each other in the stream, so each is a factor of its own.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.capture import Captured
from analysis.matrix.scopes import Scope, normalise, scoped
from analysis.matrix.strips import strips
from vmp.layout import TokenLayout

COLUMNS = 256
"""Columns of R that one step multiplies."""

KEPT = 0.5
"""Share of the residual stream in Abnar and Zuidema's rollout."""


@final
class Rollout:
    """Takes captures as layers run, such as the `sink` of `analysis.capture.record`, and multiplies them up.

    Memory is two matrices (B, L, L) in float64, R and the layer's W, whatever depth, channels and states are.

    Args:
        scope: The scope whose weights W are.
        kept: s, the residual stream's share, in [0, 1].

    Raises:
        ValueError: The share is out of range.
    """

    def __init__(self, scope: Scope, kept: float = KEPT):
        if not 0 <= kept <= 1:
            raise ValueError(f"kept is {kept}; the residual stream's share is in [0, 1]")
        self._scope, self._kept = scope, kept
        self._factor: tuple[int, str] | None = None
        self._weight: Tensor | None = None
        self._product: Tensor | None = None

    def take(self, capture: Captured) -> None:
        """Take one direction of one layer; layers come in the order in which they run."""
        factor = (capture.layer, "scan" if capture.is_scan else capture.direction)
        if factor != self._factor:
            self._multiply()
            self._factor = factor
        matrix = scoped(capture, self._scope)
        if self._weight is None:
            shape = (matrix.batch, matrix.length, matrix.length)
            self._weight = torch.zeros(shape, dtype=torch.float64, device=matrix.device)
        for rows, weight, _ in strips(matrix, False):
            self._weight[:, rows] += weight

    def last(self) -> Float[Tensor, "B L L"]:
        """P of the factor taken last, directions summed; rows without weight are 0.

        Raises:
            ValueError: No layer was taken since the product was.
        """
        if self._weight is None:
            raise ValueError("no layer was taken")
        return normalise(self._weight)[0]

    def matrix(self) -> Float[Tensor, "B L L"]:
        """R of the layers taken so far.

        Raises:
            ValueError: No layer was taken, or weights are not finite.
        """
        self._multiply()
        if self._product is None:
            raise ValueError("no layer was taken: there is nothing to roll out")
        if not torch.isfinite(self._product).all():
            raise ValueError("rollout: weights are not finite")
        return self._product

    def _multiply(self) -> None:
        """R <- A R, some columns at a time, and W is let go."""
        if self._weight is None:
            return
        weight, self._weight = self._weight, None
        share, valid = normalise(weight)
        del weight
        share *= 1 - self._kept
        share.diagonal(dim1=1, dim2=2).add_(1 - (1 - self._kept) * valid.double())
        if self._product is None:
            self._product = share
            return
        for start in range(0, share.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            self._product[..., columns] = share @ self._product[..., columns]


def read_out(matrix: Float[Tensor, "B L L"], layout: TokenLayout) -> Float[Tensor, "B L"]:
    """The row that the model reads: the mean of its class tokens' rows, or of all rows where it has none."""
    rows = matrix[:, list(layout.class_positions)] if layout.class_positions else matrix
    return rows.mean(1)
