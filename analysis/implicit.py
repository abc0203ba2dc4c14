"""The matrix that a selective scan applies to its input, without ever holding all of it.

With ``S_i = sum_{k<=i} delta_k`` the scan is, channel by channel, ``y = alpha u + beta + D u`` with

    alpha_ij = sum_n C_i[n] exp(A[n] (S_i - S_j)) w_j[n]      for j <= i, else 0
    w_j[n]   = delta_j B_j[n]                                 the token's own input
             + exp(A[n] delta_j)                              residual "elemental", or "initial" and j = 1
    beta_i   = sum_n C_i[n] exp(A[n] S_i) h_0[n]

``alpha`` is the hidden attention of Ali, Zimerman and Wolf (arXiv 2403.01590, eq. 12), here with the options of
VideoMambaPro (arXiv 2406.19006). It is D matrices of L x L for each layer, direction and clip, so the classes below
hand out parts of it: a row, a column, a tile, or a mean over channels.

A tile is filled without an exponent above zero. A rectangle whose columns all come before its rows is a product of
two thin factors around the boundary p between them, ``exp(A (S_i - S_p))`` and ``exp(A (S_p - S_j))``; a square on
the diagonal is halved until it is small enough to exponentiate pair by pair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vmp.scan import selective_scan

# A square of this side on the diagonal is exponentiated pair by pair: N exponentials an entry there, and
# N (rows + columns) a rectangle elsewhere. 8 was the fastest of 2, 4, 8 and 16.
LEAF = 8
# Entries of the scratch rectangle that one step of `weigh` works on: 2 MB in float32, about a core's share of cache.
SCRATCH = 2**19


class Rectangle(NamedTuple):
    """Rows ``[top, bottom)`` and columns ``[left, right)``, 0-based and in the order of the scan's steps."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


@final
@dataclass(frozen=True, eq=False)
class Folds:
    """What surrounds alpha in a wider scope, in the order of the steps.

    The matrix is ``diag(gate) (alpha + D I) diag(slope) K diag(scale)``, where column j of K gathers the scan's
    columns ``j - ahead tap`` with weights ``taps[:, tap]``. ``squares``: weights are norms over channels.
    """

    gate: Float[Tensor, "B D L"]
    skip: Float[Tensor, " D"]
    slope: Float[Tensor, "B D L"]
    taps: Float[Tensor, "D W"]
    ahead: int
    scale: Float[Tensor, "B D L"]
    squares: bool

    def clip(self, index: int) -> Folds:
        """Those of one clip of the batch, B = 1."""
        at = slice(index, index + 1)
        return replace(self, gate=self.gate[at], slope=self.slope[at], scale=self.scale[at])


class AttentionMatrix(ABC):
    """A matrix for each clip and channel, in parts.

    ``batch``, ``channels`` and ``length`` are B, D and L; ``reverse`` says that the scan's steps run from the last
    token to the first. Rows and columns are 0-based positions in the sequence, whatever the order of the steps.
    """

    batch: int
    channels: int
    length: int
    reverse: bool
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def _pieces(self, within: Rectangle) -> Iterator[Rectangle]:
        """Rectangles that cover every entry of ``within`` that may differ from zero, none twice."""

    @abstractmethod
    def _fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        """The entries of one rectangle that `_pieces` gave."""

    @abstractmethod
    def allowed(self) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        """First and last key, both included, that each row may see by structure; first > last where there is none."""

    def sees(self, rows: slice) -> Bool[Tensor, "r L"]:
        """Which keys each row may see by structure, on the matrix's device: from the first to the last allowed."""
        first, last = (bound[rows, None].to(self.device) for bound in self.allowed())
        keys = torch.arange(self.length, device=self.device)
        return (keys >= first) & (keys <= last)

    @abstractmethod
    def folded(self) -> tuple[ImplicitAttention, Folds] | None:
        """The scan's matrix and what surrounds it, or None where the matrix is not of that form."""

    @property
    def reach(self) -> int:
        """How many steps ahead of a row its last key may be: 0 for a scan, more where a convolution looks ahead."""
        return 0

    def tile(self, rows: slice, columns: slice, channels: slice | None = None) -> Float[Tensor, "B d r c"]:
        """Entries M[rows, columns] of the chosen channels, (B, D, rows, columns).

        ``rows`` and ``columns`` are slices of positions with step 1; ``channels`` is all of them where None. Raises
        IndexError where a slice leaves the matrix or has another step.
        """
        within, channels = self._locate(rows, columns), _span(channels, self.channels, "channels")
        out = torch.zeros(
            (
                self.batch,
                channels.stop - channels.start,
                within.bottom - within.top,
                within.right - within.left,
            ),
            dtype=self.dtype,
            device=self.device,
        )
        for piece in self._pieces(within):
            target = _shift(piece, -within.top, -within.left)
            out[..., target.top : target.bottom, target.left : target.right] = self._fill(piece, channels)
        return out.flip((-2, -1)) if self.reverse else out

    def weigh(
        self, rows: slice, columns: slice, signed: bool = False
    ) -> tuple[Float[Tensor, "B r c"], Float[Tensor, "B r c"] | None]:
        """W[rows, columns] of math.md section 2, and with ``signed`` also the mean of M over channels.

        W is the mean over channels of abs(M). Memory beside the answer is `SCRATCH` entries, whatever D is.
        """
        within = self._locate(rows, columns)
        shape = (self.batch, within.bottom - within.top, within.right - within.left)
        weight = torch.zeros(shape, dtype=self.dtype, device=self.device)
        mean = torch.zeros_like(weight) if signed else None
        for piece in self._pieces(within):
            target = _shift(piece, -within.top, -within.left)
            at = (slice(None), slice(target.top, target.bottom), slice(target.left, target.right))
            weight[at], total = self._sums(piece, signed)
            if mean is not None and total is not None:
                mean[at] = total
        weight = self.finish(weight)
        if mean is not None:
            mean /= self.channels
        if self.reverse:
            weight, mean = weight.flip((-2, -1)), None if mean is None else mean.flip((-2, -1))
        return weight, mean

    def dense(self, max_bytes: int = 2**30) -> Float[Tensor, "B D L L"]:
        """All of it, (B, D, L, L). Raises MemoryError, with the size, where that is more than ``max_bytes``."""
        size = self.batch * self.channels * self.length**2 * self.dtype.itemsize
        if size > max_bytes:
            raise MemoryError(
                f"the dense matrix (B={self.batch}, D={self.channels}, L={self.length}, {self.dtype}) takes "
                f"{size / 2**30:.2f} GiB and max_bytes allows {max_bytes / 2**30:.2f} GiB; read it by tile(), row() or "
                "column(), reduce it with analysis.reduce, or raise max_bytes"
            )
        return self.tile(slice(0, self.length), slice(0, self.length))

    def _sums(
        self, piece: Rectangle, signed: bool
    ) -> tuple[Float[Tensor, "B r c"], Float[Tensor, "B r c"] | None]:
        """What `finish` turns into W, and with ``signed`` the sum of M over channels, on one rectangle of `_pieces`."""
        shape = (self.batch, piece.bottom - piece.top, piece.right - piece.left)
        weight = torch.zeros(shape, dtype=self.dtype, device=self.device)
        total = torch.zeros_like(weight) if signed else None
        for channels in self._channel_blocks(piece):
            entries = self._fill(piece, channels)
            if total is not None:
                total += entries.sum(1)
            weight += self._magnitude(entries)
        return weight, total

    def _magnitude(self, entries: Float[Tensor, "B d r c"]) -> Float[Tensor, "B r c"]:
        return entries.abs_().sum(1)

    def finish(self, total: Float[Tensor, "B r c"]) -> Float[Tensor, "B r c"]:
        """W from sums over channels of abs(M), or of squares where the scope takes norms."""
        return total / self.channels

    def _scratch_channels(self, piece: Rectangle) -> int:
        return SCRATCH // (self.batch * piece.area)

    def _channel_blocks(self, piece: Rectangle) -> Iterator[slice]:
        step = min(self.channels, max(1, self._scratch_channels(piece)))
        for start in range(0, self.channels, step):
            yield slice(start, min(start + step, self.channels))

    def _locate(self, rows: slice, columns: slice) -> Rectangle:
        rows, columns = _span(rows, self.length, "rows"), _span(columns, self.length, "columns")
        if self.reverse:
            L = self.length
            return Rectangle(L - rows.stop, L - rows.start, L - columns.stop, L - columns.start)
        return Rectangle(rows.start, rows.stop, columns.start, columns.stop)


@final
class ImplicitAttention(AttentionMatrix):
    """The matrix alpha of one direction of a selective scan (math.md section 2, scope ``ssm``).

    Args:
        delta: steps after softplus, (B, D, L).
        A: negative state rates, (D, N).
        B, C: input and output maps, (B, N, L), (B, G, N, L) with D a multiple of G, or (D, N).
        D: skip weights, (D,). They are no part of alpha; `apply` adds them.
        h0: state before the first step, (B, D, N). It gives `beta`.
        residual: ``"none"``, ``"initial"`` (h_0 = u_1) or ``"elemental"`` (our reading of VideoMambaPro's text).
        mask_diagonal: the token's own term leaves the output, and with it the elemental residual's own term.
        reverse: the steps run from token L to token 1.
        masked_first_step: ``"skip_only"`` where the first masked step outputs D u alone, as in the code released
            with VideoMambaPro; ``"carry"`` where it also reads the state before it.

    Raises:
        ValueError: where a shape does not fit the others.
    """

    def __init__(
        self,
        delta: Float[Tensor, "B D L"],
        A: Float[Tensor, "D N"],
        B: Float[Tensor, "..."],
        C: Float[Tensor, "..."],
        D: Float[Tensor, " D"] | None = None,
        h0: Float[Tensor, "B D N"] | None = None,
        residual: str = "none",
        mask_diagonal: bool = False,
        reverse: bool = False,
        *,
        masked_first_step: str = "carry",
    ):
        if residual not in ("none", "initial", "elemental"):
            raise ValueError(f'residual: {residual!r} is none of "none", "initial", "elemental"')
        if residual == "initial" and h0 is not None:
            raise ValueError('h0 together with residual="initial": both set the state before the first step')
        if masked_first_step not in ("carry", "skip_only"):
            raise ValueError(f'masked_first_step: {masked_first_step!r} is neither "carry" nor "skip_only"')
        self.batch, self.channels, self.length = delta.shape
        self.reverse, self.dtype, self.device = reverse, delta.dtype, delta.device
        self.delta, self.A, self.B, self.C, self.D, self.h0 = delta, A, B, C, D, h0
        self.residual, self.mask_diagonal, self.masked_first_step = residual, mask_diagonal, masked_first_step

        def ordered(x: Tensor) -> Tensor:
            return x.flip(-1) if reverse else x

        self._rate = A.to(delta.dtype)[:, :, None]  # (D, N, 1)
        self._step = ordered(delta)
        # Differences of this sum are the exponents, so it is kept in double precision whatever the scan's.
        self._elapsed = self._step.double().cumsum(-1)
        self._input = ordered(self._grouped("B", B))
        self._output = ordered(self._grouped("C", C))

    def clip(self, index: int) -> ImplicitAttention:
        """The matrix of one clip of the batch, B = 1."""
        at = slice(index, index + 1)
        D, N = self.A.shape
        B, C = (x if x.shape == (D, N) else x[at] for x in (self.B, self.C))
        return ImplicitAttention(
            self.delta[at],
            self.A,
            B,
            C,
            self.D,
            None if self.h0 is None else self.h0[at],
            self.residual,
            self.mask_diagonal,
            self.reverse,
            masked_first_step=self.masked_first_step,
        )

    def apply(self, u: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
        """alpha u + beta + D u in O(L D N), by the scan itself."""
        return selective_scan(
            u,
            self.delta,
            self.A,
            self.B,
            self.C,
            self.D,
            h0=self.h0,
            residual=self.residual,
            mask_diagonal=self.mask_diagonal,
            masked_first_step=self.masked_first_step,
            reverse=self.reverse,
        )

    def beta(self) -> Float[Tensor, "B D L"]:
        """What the state before the first step adds to the output; zero where h0 is not given."""
        beta = torch.zeros_like(self._step)
        if self.h0 is None:
            return beta
        for n in range(self._rate.shape[1]):
            decay = torch.exp((self._rate[:, n] * self._elapsed).to(self.dtype))
            beta = beta + self._spread(self._output[:, :, n]) * decay * self.h0[..., n, None]
        if self._silent_start:
            beta = beta.index_fill(-1, torch.tensor([0], device=self.device), 0)
        return beta.flip(-1) if self.reverse else beta

    def column(self, j: int) -> Float[Tensor, "B D L"]:
        """alpha[:, j], what token j (0-based) gives to every output, by one scan that starts from its state."""
        position = self._position(j, "column")
        w = self._own(slice(position, position + 1), slice(None))[..., 0]
        column = torch.zeros_like(self._step)
        column[..., position] = self._diagonal(position, w)
        after = slice(position + 1, self.length)
        column[..., after] = _coast(
            w, self._step[..., after], self._rate, self._output[..., after], reverse=False
        )
        return column.flip(-1) if self.reverse else column

    def row(self, i: int) -> Float[Tensor, "B D L"]:
        """alpha[i, :], what output i (0-based) reads of every token, by the adjoint scan that starts from C_i."""
        position = self._position(i, "row")
        read = self._spread(self._output[..., position]).expand(self.batch, self.channels, -1)
        row = torch.zeros_like(self._step)
        before = slice(0, position)
        row[..., before] = self._step[..., before] * _coast(
            read, self._step[..., 1 : position + 1], self._rate, self._input[..., before], reverse=True
        )
        if self.residual == "elemental":
            ones = torch.ones_like(self._input[..., before])
            # One step further back than above, S_i - S_{j-1}: token i's own step comes first.
            carried = read * torch.exp(self._rate[..., 0] * self._step[..., position, None])
            row[..., before] += _coast(carried, self._step[..., before], self._rate, ones, reverse=True)
        w = self._own(slice(position, position + 1), slice(None))[..., 0]
        row[..., position] = self._diagonal(position, w)
        if self.residual == "initial" and position > 0:
            row[..., 0] += (read * torch.exp(self._rate[..., 0] * self._elapsed[..., position, None])).sum(-1)
        return row.flip(-1) if self.reverse else row

    def allowed(self) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        position = torch.arange(self.length)
        last = position - 1 if self.mask_diagonal else position.clone()
        if self.mask_diagonal and self.residual == "initial" and not self._silent_start and self.length:
            last[0] = 0
        return _in_sequence(torch.zeros_like(position), last, self.reverse)

    def folded(self) -> tuple[ImplicitAttention, Folds]:
        one = torch.ones_like(self.delta[:, :, :1])
        ones = one.expand(-1, -1, self.length)
        none = torch.zeros_like(self._rate[:, 0, 0])
        return self, Folds(ones, none, ones, one[0], -1, ones, squares=False)

    @property
    def _silent_start(self) -> bool:
        return self.mask_diagonal and self.masked_first_step == "skip_only"

    def _grouped(self, name: str, x: Tensor) -> Float[Tensor, "b G N L"]:
        """B or C as (B or 1, G, N, L)."""
        N, L = self.A.shape[-1], self.length
        if x.shape == (self.channels, N):
            return x[None, :, :, None].expand(1, self.channels, N, L)
        grouped = x[:, None] if x.ndim == 3 else x
        fits = grouped.ndim == 4 and grouped.shape[0] == self.batch and grouped.shape[2:] == (N, L)
        if not fits or self.channels % grouped.shape[1]:
            raise ValueError(
                f"{name}: shape {tuple(x.shape)}; wanted {(self.batch, N, L)}, {(self.batch, 'G', N, L)} with "
                f"{self.channels} a multiple of G, or {(self.channels, N)}"
            )
        return grouped

    def _spread(self, x: Float[Tensor, "b G *rest"], channels: slice = slice(None)) -> Tensor:
        """The group's values for each of ``channels``; one group alone is left to broadcast."""
        groups = x.shape[1]
        if groups == 1:
            return x
        index = torch.arange(self.channels, device=x.device)[channels] // (self.channels // groups)
        return x[:, index]

    def _own(self, at: slice, channels: slice) -> Float[Tensor, "B d N c"]:
        """w_j[n]: what one unit of token j's input leaves in the state."""
        step = self._step[:, channels, None, at]
        w = step * self._spread(self._input[..., at], channels)
        if self.residual == "elemental":
            w = w + torch.exp(self._rate[channels] * step)
        elif self.residual == "initial" and at.start == 0 and at.stop > 0:
            w[..., 0] += torch.exp(self._rate[channels, :, 0] * step[..., 0])
        return w

    def _diagonal(self, position: int, w: Float[Tensor, "B D N"]) -> Float[Tensor, "B D"]:
        read = self._spread(self._output[..., position])
        if not self.mask_diagonal:
            return (read * w).sum(-1)
        if self.residual == "initial" and position == 0 and not self._silent_start:
            return (read * torch.exp(self._rate[..., 0] * self._step[..., :1])).sum(-1)
        return torch.zeros_like(w[..., 0])

    def _pieces(self, within: Rectangle) -> Iterator[Rectangle]:
        top, bottom, left, right = within
        right = min(right, bottom)
        if top >= bottom or left >= right:
            return
        if left < top:
            yield Rectangle(top, bottom, left, min(right, top))
            left = top
        if left < right < bottom:
            yield Rectangle(right, bottom, left, right)
        if left < right:
            yield from _halves(left, right)

    def _fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        if piece.right <= piece.top:
            read, write = self.factors(piece, channels)
            return read @ write
        return self._pairwise(piece, channels)

    def factors(
        self, piece: Rectangle, channels: slice
    ) -> tuple[Float[Tensor, "B d r N"], Float[Tensor, "B d N c"]]:
        """Thin factors of a rectangle whose columns come before its rows, both bounded by abs(C_i) and abs(w_j)."""
        rows, columns = slice(piece.top, piece.bottom), slice(piece.left, piece.right)
        rate, elapsed = self._rate[channels], self._elapsed[:, channels]
        boundary = elapsed[..., piece.top - 1, None]
        since = (elapsed[..., rows] - boundary).to(self.dtype)[:, :, None]
        until = (boundary - elapsed[..., columns]).to(self.dtype)[:, :, None]
        read = torch.exp(rate * since) * self._spread(self._output[..., rows], channels)
        write = torch.exp(rate * until) * self._own(columns, channels)
        return read.transpose(-1, -2), write

    def _pairwise(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        """A square on the diagonal: mask the exponent, then exponentiate."""
        at = slice(piece.top, piece.bottom)
        elapsed = self._elapsed[:, channels, at]
        lag = (elapsed[..., :, None] - elapsed[..., None, :]).to(self.dtype)
        later = torch.ones(lag.shape[-2:], dtype=torch.bool, device=self.device).triu(1)
        exponent = self._rate[channels][..., None] * lag.masked_fill(later, 0)[:, :, None]
        decay = torch.exp(exponent.masked_fill(later, -torch.inf))
        read = self._spread(self._output[..., at], channels)[..., :, None]
        write = self._own(at, channels)[..., None, :]
        square = (read * decay * write).sum(2)
        if self.mask_diagonal:
            square.diagonal(dim1=-2, dim2=-1).zero_()
            if piece.top == 0:
                first = slice(0, 1)
                w = self._own(first, slice(None))[..., 0]
                square[..., 0, 0] = self._diagonal(0, w)[:, channels]
        return square

    def _scratch_channels(self, piece: Rectangle) -> int:
        direct = self._rate.shape[1] if piece.right > piece.top else 1
        return SCRATCH // (self.batch * piece.area * direct)

    def _position(self, index: int, name: str) -> int:
        if not -self.length <= index < self.length:
            raise IndexError(f"{name} {index} is outside a matrix of {self.length} tokens")
        index %= self.length
        return self.length - 1 - index if self.reverse else index


def _coast(
    state: Float[Tensor, "B D N"],
    step: Float[Tensor, "B D l"],
    rate: Float[Tensor, "D N 1"],
    read: Float[Tensor, "b G N l"],
    reverse: bool,
) -> Float[Tensor, "B D l"]:
    """What a scan reads of a given state as it decays, with no input."""
    batch = step.shape[0]
    read = read.expand(batch, *read.shape[1:])
    return selective_scan(
        torch.zeros_like(step), step, rate[..., 0], read, read, h0=state.contiguous(), reverse=reverse
    )


def _halves(start: int, stop: int) -> Iterator[Rectangle]:
    """A square on the diagonal, cut into small squares on it and rectangles under it."""
    if stop - start <= LEAF:
        yield Rectangle(start, stop, start, stop)
        return
    middle = (start + stop) // 2
    yield from _halves(start, middle)
    yield Rectangle(middle, stop, start, middle)
    yield from _halves(middle, stop)


def _shift(piece: Rectangle, down: int, right: int) -> Rectangle:
    return Rectangle(piece.top + down, piece.bottom + down, piece.left + right, piece.right + right)


def _span(part: slice | None, size: int, name: str) -> slice:
    if part is None:
        return slice(0, size)
    start, stop = part.start or 0, size if part.stop is None else part.stop
    if part.step not in (None, 1) or not 0 <= start <= stop <= size:
        raise IndexError(f"{name}: {part} is not a slice of step 1 within 0..{size}")
    return slice(start, stop)


def _in_sequence(first: Tensor, last: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """A range of keys for each row, from the order of the steps to the order of the sequence."""
    if not reverse:
        return first, last
    L = first.shape[0]
    return L - 1 - last.flip(0), L - 1 - first.flip(0)
