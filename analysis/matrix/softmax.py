"""The matrices of self-attention, in parts, as `analysis.matrix.implicit` gives those of a scan.

    P^h_ij = exp(s_ij - log sum_j' exp s_ij'),  s_ij = scale q_i . k_j        over the keys that row i may see

A row without a key is zero. Some rows may be the mean of several softmaxes, each over a set of keys of its own, as
the class token's in TimeSformer's attention in space (Bertasius et al., arXiv 2102.05095, and its code).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, final

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.matrix.base import SCRATCH, AttentionMatrix, Entries, Rectangle

Side = Literal["j<=i", "j>=i"]


class _WholeRows(AttentionMatrix):
    """A matrix whose rectangles need no cutting: row strips that keep the scratch in bounds are enough."""

    _width: int

    def _take_shape(self, source: AttentionMatrix, channels: int) -> None:
        self.batch, self.channels, self.length = source.batch, channels, source.length
        self.dtype, self.device = source.dtype, source.device

    def allowed(self) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        return _hull(self.sees(slice(0, self.length)).cpu())

    def pieces(self, within: Rectangle) -> Iterator[Rectangle]:
        """Strips of rows, so many that all heads fit the scratch."""
        top, bottom, left, right = within
        if top >= bottom or left >= right:
            return
        step = max(1, SCRATCH // (self.batch * self._width * (right - left)))
        for start in range(top, bottom, step):
            yield Rectangle(start, min(start + step, bottom), left, right)

    def __repr__(self) -> str:
        return self._shown()


@final
class SoftmaxAttention(_WholeRows):
    """The softmax matrix of each head (scope `ssm` of self-attention); channels are heads.

    Args:
        q, k: Queries and keys, (B, H, L, d).
        scale: Factor of the logits, such as d^-0.5.
        allowed: Which keys (columns) each row may see, (L, L); all where None.
        averaged: Rows that are means of softmaxes, each over one of `sets`, (G, L). `allowed` does not touch them.

    Source: Vaswani et al., arXiv 1706.03762, equation 1.
    """

    scope = "ssm"

    def __init__(
        self,
        q: Float[Tensor, "B H L d"],
        k: Float[Tensor, "B H L d"],
        scale: float,
        allowed: Bool[Tensor, "L L"] | None = None,
        averaged: Sequence[int] = (),
        sets: Bool[Tensor, "G L"] | None = None,
    ):
        self.batch, self.channels, self.length, _ = q.shape
        self.dtype, self.device, self._width = q.dtype, q.device, self.channels
        self._q, self._k, self._scale, self._allowed = q, k, scale, allowed
        self._averaged, self._sets = tuple(averaged), sets

    def sees(self, rows: slice) -> Bool[Tensor, "r L"]:
        size = (rows.stop - rows.start, self.length)
        if self._allowed is None:
            seen = torch.ones(size, dtype=torch.bool, device=self.device)
        else:
            seen = self._allowed[rows].to(self.device)
        if self._sets is None:
            return seen
        seen = seen.clone()
        for row in self._averaged:
            if rows.start <= row < rows.stop:
                seen[row - rows.start] = self._sets.any(0).to(self.device)
        return seen

    def logits(self, rows: slice, columns: slice) -> Float[Tensor, "B H r c"]:
        """s[rows, columns], whether a row may see the key or not."""
        return self._logits(self._locate(rows, columns), slice(None))

    def logits_at(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Float[Tensor, "B H P"]:
        """s at (rows[p], columns[p]) for every p, in float64, whether a row may see the key or not."""
        rows, columns = self._steps(rows, columns)
        return self._scale * (self._q[:, :, rows].double() * self._k[:, :, columns].double()).sum(-1)

    def apply(self, u: Float[Tensor, "B H L *d"]) -> Float[Tensor, "B H L *d"]:
        """P u, head by head, a strip of rows at a time; u may be values of several numbers a token."""
        values = u if u.ndim == 4 else u[..., None]
        whole = Rectangle(0, self.length, 0, self.length)
        strips = [self.fill(piece, slice(0, self.channels)) @ values for piece in self.pieces(whole)]
        out = torch.cat(strips, 2) if strips else torch.zeros_like(values)
        return out.reshape(u.shape)

    def entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Entries:
        """P at (rows[p], columns[p]) for every p, (B, H, P): logits less the log of the row's sum, in float64."""
        rows, columns = self._steps(rows, columns)
        s = self.logits_at(rows, columns)
        distinct, place = rows.unique(return_inverse=True)
        q, k = self._q.double()[:, :, distinct], self._k.double()
        of_rows = self._scale * q @ k.transpose(-1, -2)  # (B, H, rows, L)
        allowed = None if self._allowed is None else self._allowed.to(self.device)
        seen = of_rows if allowed is None else of_rows.masked_fill(~allowed[distinct], -torch.inf)
        log = s - seen.logsumexp(-1)[..., place]
        if allowed is not None:
            log = log.masked_fill(~allowed[rows, columns], -torch.inf)
        if self._sets is not None:
            sets = [
                (s - of_rows.masked_fill(~keys, -torch.inf).logsumexp(-1)[..., place]).masked_fill(
                    ~keys[columns], -torch.inf
                )
                for keys in self._sets.to(self.device)
            ]
            mean = torch.stack(sets).logsumexp(0) - math.log(len(sets))
            log = torch.where(torch.isin(rows, torch.tensor(self._averaged, device=self.device)), mean, log)
        return Entries((log > -torch.inf).double(), log)

    @cached_property
    def _log_total(self) -> Float[Tensor, "B H L"]:
        whole = Rectangle(0, self.length, 0, self.length)
        totals = [self._logits(piece, slice(None), masked=True).logsumexp(-1) for piece in self.pieces(whole)]
        return torch.cat(totals, -1) if totals else self._q.new_zeros(self._q.shape[:3])

    @cached_property
    def _set_log_totals(self) -> list[Float[Tensor, "G B H 1"]]:
        return [self._log_totals_of(row) for row in self._averaged]

    def _logits(self, piece: Rectangle, heads: slice, masked: bool = False) -> Float[Tensor, "B h r c"]:
        top, bottom, left, right = piece
        s = self._scale * self._q[:, heads, top:bottom] @ self._k[:, heads, left:right].transpose(-1, -2)
        if masked and self._allowed is not None:
            s = s.masked_fill(~self._allowed[top:bottom, left:right].to(s.device), -torch.inf)
        return s

    def _log_totals_of(self, row: int) -> Float[Tensor, "G B H 1"]:
        assert self._sets is not None  # by the constructor's contract
        s = self._logits(Rectangle(row, row + 1, 0, self.length), slice(None))
        return torch.stack(
            [s.masked_fill(~keys.to(s.device), -torch.inf).logsumexp(-1) for keys in self._sets]
        )

    def fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        total = self._log_total[:, channels, piece.top : piece.bottom, None]
        # A row without keys has the total -inf, and only -inf to be taken from.
        entries = (
            self._logits(piece, channels, masked=True).sub_(total.masked_fill(total == -torch.inf, 0)).exp_()
        )
        for row, totals in zip(self._averaged, self._set_log_totals, strict=True):
            if piece.top <= row < piece.bottom:
                entries[:, :, row - piece.top] = self._mean_of_sets(
                    row, totals[:, :, channels], piece, channels
                )
        return entries

    def _mean_of_sets(
        self, row: int, totals: Float[Tensor, "G B h 1"], piece: Rectangle, channels: slice
    ) -> Float[Tensor, "B h c"]:
        assert self._sets is not None
        s = self._logits(piece._replace(top=row, bottom=row + 1), channels)[:, :, 0]
        keys = self._sets[:, None, None, piece.left : piece.right].to(s.device)
        return (s - totals).masked_fill(~keys, -torch.inf).exp().mean(0)


@final
class AttentionContribution(_WholeRows):
    """Vectors P^h_ij v^h_j, heads concatenated; the weight of a pair is their norm (scope `contribution`).

        c_ij = sqrt(sum over heads of (P^h_ij norm(v^h_j))^2)

    Channels are the H d numbers of the heads' values; rows sum to the attention's output before its projection.

    Source: Kobayashi et al., arXiv 2004.10102, equation 3, here before the projection as for the scan.
    """

    scope = "contribution"

    def __init__(self, softmax: SoftmaxAttention, values: Float[Tensor, "B H L d"]):
        self._softmax, self._values = softmax, values
        self._take_shape(softmax, values.shape[1] * values.shape[3])
        self._width = softmax.channels

    def apply(self, u: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
        """sum_j P^h_ij v^h_j u_j, with a number for each token and number of its value."""
        weights = rearrange(u, "b (h d) l -> b h l d", h=self._softmax.channels)
        return rearrange(self._softmax.apply(self._values * weights), "b h l d -> b (h d) l")

    def entries(
        self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"], softmax: Entries | None = None
    ) -> Entries:
        """The vectors at (rows[p], columns[p]), (B, H d, P); `softmax` holds P's entries there, where known."""
        rows, columns = self._steps(rows, columns)
        share = self._softmax.entries(rows, columns) if softmax is None else softmax
        values = self._values.double()[:, :, columns]  # (B, H, P, d)
        log = rearrange(share.log[..., None] + values.abs().log(), "b h p d -> b (h d) p")
        sign = rearrange(share.sign[..., None] * values.sign(), "b h p d -> b (h d) p")
        return Entries(sign, log)

    def weigh_entries(
        self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"], softmax: Entries | None = None
    ) -> Float[Tensor, "B P"]:
        rows, columns = self._steps(rows, columns)
        share = self._softmax.entries(rows, columns) if softmax is None else softmax
        norms = self._values.double()[:, :, columns].norm(dim=-1)
        return Entries(share.sign, share.log + norms.log()).norm()

    def sees(self, rows: slice) -> Bool[Tensor, "r L"]:
        return self._softmax.sees(rows)

    def finish(self, total: Float[Tensor, "B r c"]) -> Float[Tensor, "B r c"]:
        return total.sqrt()

    def fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        width = self._values.shape[-1]
        first, last = channels.start // width, (channels.stop - 1) // width + 1
        share = self._softmax.fill(piece, slice(first, last))[:, :, None]
        values = rearrange(self._values[:, first:last, piece.left : piece.right], "b h c w -> b h w 1 c")
        vectors = (share * values).flatten(1, 2)
        return vectors[:, channels.start - first * width : channels.stop - first * width]

    def sums(
        self, piece: Rectangle, signed: bool
    ) -> tuple[Float[Tensor, "B r c"], Float[Tensor, "B r c"] | None]:
        share = self._softmax.fill(piece, slice(0, self._softmax.channels))
        values = self._values[:, :, None, piece.left : piece.right]
        total = (share * values.sum(-1)).sum(1) if signed else None
        return (share * values.norm(dim=-1)).square_().sum(1), total


@final
class ProjectedAttention(_WholeRows):
    """The softmax matrix with values and output projection (scope `mixer`); channels are the M outputs.

        M_ij = sum over heads of P^h_ij W_O^h v^h_j

    Rows sum to the attention's output less the projection's bias. With `norms` the weight of a pair is the norm over
    outputs, the contribution after the projection, and else their mean magnitude.
    """

    def __init__(
        self,
        softmax: SoftmaxAttention,
        values: Float[Tensor, "B H L d"],
        out_weight: Float[Tensor, "M K"],
        *,
        norms: bool = False,
    ):
        self.scope = "contribution" if norms else "mixer"
        self._softmax, self._norms = softmax, norms
        self._values, self._out_weight = values, out_weight
        self._take_shape(softmax, out_weight.shape[0])
        self._width = softmax.channels

    @cached_property
    def _projected(self) -> Float[Tensor, "B L H M"]:
        weight = self._out_weight.to(self._values.dtype)
        by_head = rearrange(weight, "m (h w) -> h w m", h=self._values.shape[1])
        return torch.einsum("bhlw,hwm->blhm", self._values, by_head)

    def apply(self, u: Float[Tensor, "B M L"]) -> Float[Tensor, "B M L"]:
        """sum_j M_ij u_j, with a number for each token and output."""
        weighed = self._projected * rearrange(u, "b m l -> b l 1 m")
        return self._softmax.apply(rearrange(weighed, "b l h m -> b h l m")).sum(1).transpose(1, 2)

    def entries(
        self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"], softmax: Entries | None = None
    ) -> Entries:
        """M at (rows[p], columns[p]) for every p, (B, M, P); `softmax` holds P's entries there, where known."""
        rows, columns = self._steps(rows, columns)
        share = self._softmax.entries(rows, columns) if softmax is None else softmax
        values = self._values.double()[:, :, columns]  # (B, H, P, d)
        weight = self._out_weight.double().unflatten(1, (values.shape[1], -1))  # (M, H, d)
        top = share.log.amax(1).clamp(min=torch.finfo(torch.float64).min)
        total = torch.einsum("mhd,bhpd,bhp->bmp", weight, values, (share.log - top[:, None]).exp())
        return Entries(total.sign(), total.abs().log() + top[:, None])

    def weigh_entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Float[Tensor, "B P"]:
        return self.entries(rows, columns).norm() if self._norms else super().weigh_entries(rows, columns)

    def sees(self, rows: slice) -> Bool[Tensor, "r L"]:
        return self._softmax.sees(rows)

    def finish(self, total: Float[Tensor, "B r c"]) -> Float[Tensor, "B r c"]:
        return total.sqrt() if self._norms else total / self.channels

    def fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        values = self._projected[:, piece.left : piece.right, :, channels]
        return torch.einsum("bhrc,bchm->bmrc", self._share(piece), values)

    def sums(
        self, piece: Rectangle, signed: bool
    ) -> tuple[Float[Tensor, "B r c"], Float[Tensor, "B r c"] | None]:
        share = rearrange(self._share(piece), "b h r c -> b c r h").contiguous()
        weights, totals = [], []
        # A few columns at a time with all outputs, each a product of (rows, heads) and (heads, outputs).
        step = max(1, SCRATCH // (self.batch * share.shape[2] * self.channels))
        for start in range(0, share.shape[1], step):
            columns = slice(start, start + step)
            entries = share[:, columns] @ self._projected[:, piece.left : piece.right][:, columns]
            if signed:
                totals.append(entries.sum(-1))
            weights.append((entries.square_() if self._norms else entries.abs_()).sum(-1))
        weight = torch.cat(weights, 1).transpose(1, 2)
        total = torch.cat(totals, 1).transpose(1, 2) if signed else None
        return weight, total

    def _share(self, piece: Rectangle) -> Float[Tensor, "B H r c"]:
        return self._softmax.fill(piece, slice(0, self._softmax.channels))


@final
class OneSide(_WholeRows):
    """A matrix with the keys of one side alone, the token's own among them; all else is zero and not allowed.

    What attention reads of tokens at or before the query, `j<=i`, is what a forward scan could carry; what it reads of
    those at or after it, `j>=i`, a backward one.

    Raises:
        ValueError: The matrix is a backward scan's, which has one side already.
    """

    def __init__(self, matrix: AttentionMatrix, side: Side):
        if matrix.reverse:
            raise ValueError("a backward scan has one side already; OneSide takes matrices of self-attention")
        self._matrix, self._side = matrix, side
        self.scope = matrix.scope
        self._take_shape(matrix, matrix.channels)
        self._width = 1

    def sees(self, rows: slice) -> Bool[Tensor, "r L"]:
        whole = Rectangle(rows.start, rows.stop, 0, self.length)
        return self._matrix.sees(rows) & self._mask(whole)

    def entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Entries:
        rows, columns = self._steps(rows, columns)
        found, inside = self._matrix.entries(rows, columns), self._within(rows, columns)
        return Entries(found.sign * inside, found.log.masked_fill(~inside, -torch.inf))

    def weigh_entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Float[Tensor, "B P"]:
        rows, columns = self._steps(rows, columns)
        return self._matrix.weigh_entries(rows, columns).masked_fill(~self._within(rows, columns), -torch.inf)

    def finish(self, total: Float[Tensor, "B r c"]) -> Float[Tensor, "B r c"]:
        return self._matrix.finish(total)

    def pieces(self, within: Rectangle) -> Iterator[Rectangle]:
        yield from self._matrix.pieces(within)

    def fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        return self._matrix.fill(piece, channels) * self._mask(piece)

    def sums(
        self, piece: Rectangle, signed: bool
    ) -> tuple[Float[Tensor, "B r c"], Float[Tensor, "B r c"] | None]:
        weight, total = self._matrix.sums(piece, signed)
        mask = self._mask(piece)
        return weight * mask, None if total is None else total * mask

    def _mask(self, piece: Rectangle) -> Bool[Tensor, "r c"]:
        rows = torch.arange(piece.top, piece.bottom, device=self.device)[:, None]
        return self._within(rows, torch.arange(piece.left, piece.right, device=self.device))

    def _within(self, rows: Int[Tensor, "*p"], keys: Int[Tensor, "*k"]) -> Bool[Tensor, "*s"]:
        return keys <= rows if self._side == "j<=i" else keys >= rows

    def __repr__(self) -> str:
        return self._shown(self._side)


def _hull(seen: Bool[Tensor, "L L"]) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
    """First and last key that each row sees; L and -1 for a row that sees none."""
    L = seen.shape[1]
    key = torch.arange(L)
    first = torch.where(seen, key, L).amin(1) if L else key
    last = torch.where(seen, key, -1).amax(1) if L else key
    return first, last
