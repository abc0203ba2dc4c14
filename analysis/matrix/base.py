"""The protocol of every matrix of attention weights, and what its implementations share.

A matrix is D matrices of L x L for each clip, and is seldom held as a whole: it hands out a row, a column, a tile,
scattered entries, products with an input, or a mean over channels. A class of matrices says how rectangles of it are
filled; everything else follows from that, and may be replaced by something faster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SCRATCH = 2**19
"""Entries of the scratch rectangle that one step of `weigh` works on: 2 MB in float32, a core's share of cache."""


class Rectangle(NamedTuple):
    """Rows `[top, bottom)` and columns `[left, right)`, 0-based and in the order of the scan's steps."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


@final
@dataclass(frozen=True, eq=False)
class Entries:
    """Scattered entries of a matrix as sign and logarithm, so that none is too small to be compared.

    Attributes:
        sign: -1, 0 or 1, (..., D, P) in float64.
        log: The natural logarithm of the entries' magnitudes, (..., D, P) in float64; -inf where an entry is 0.
    """

    sign: Float[Tensor, "*batch D P"]
    log: Float[Tensor, "*batch D P"]

    def at(self, pairs: Int[Tensor, " p"]) -> Entries:
        """Those of the chosen pairs."""
        return Entries(self.sign[..., pairs], self.log[..., pairs])

    def norm(self) -> Float[Tensor, "*batch P"]:
        """The logarithm of the Euclidean norm over channels."""
        return 0.5 * torch.logsumexp(2 * self.log, -2)


@final
@dataclass(frozen=True, eq=False)
class Factors:
    """A scan's matrix and what surrounds it in a wider scope, in the order of the steps: what kernels compute from.

    The matrix is `diag(gate) (alpha + skip I) diag(slope) K diag(scale)`, where column j of K gathers the columns
    `j - ahead tap` of the scan with weights `taps[:, tap]`, and alpha is that of `analysis.matrix.implicit`.

    Attributes:
        rate: A, (D, N).
        step: delta, (B, D, L).
        elapsed: S, the sum of steps up to and including each, (B, D, L) in float64; exponents are its differences.
        write, read: B and C of the scan, (B or 1, G, N, L) with D a multiple of G; the last size may be an expanded 1.
        elemental, initial: Whether the scan has that residual.
        mask: Whether the diagonal of alpha is masked.
        first: What a masked diagonal of alpha holds at the first step, (B, D).
        gate, slope, scale: (B, D, L). skip: (D,). taps: (D, W). ahead: -1 or 1.
        squares: Whether weights are norms over channels.
    """

    rate: Float[Tensor, "D N"]
    step: Float[Tensor, "B D L"]
    elapsed: Float[Tensor, "B D L"]
    write: Float[Tensor, "bw gw N L"]
    read: Float[Tensor, "br gr N L"]
    elemental: bool
    initial: bool
    mask: bool
    first: Float[Tensor, "B D"]
    gate: Float[Tensor, "B D L"]
    skip: Float[Tensor, " D"]
    slope: Float[Tensor, "B D L"]
    taps: Float[Tensor, "D W"]
    ahead: int
    scale: Float[Tensor, "B D L"]
    squares: bool

    def clip(self, index: int) -> Factors:
        """Those of one clip of the batch, B = 1."""
        at = slice(index, index + 1)
        names = ("step", "elapsed", "first", "gate", "slope", "scale")
        write, read = (x[at] if len(x) > 1 else x for x in (self.write, self.read))
        return replace(self, write=write, read=read, **{name: getattr(self, name)[at] for name in names})


class AttentionMatrix(ABC):
    """A matrix for each clip and channel, in parts.

    Rows, columns and pairs are 0-based positions in the sequence, whatever the order of the steps; negative ones count
    from the end.

    Attributes:
        scope: `"ssm"`, `"mixer"` or `"contribution"`.
        batch, channels, length: B, D and L.
        reverse: Whether the scan's steps run from the last token to the first.
        dtype: The dtype of the entries.
        device: Where they are computed.
    """

    scope: str
    batch: int
    channels: int
    length: int
    reverse: bool = False
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def pieces(self, within: Rectangle) -> Iterator[Rectangle]:
        """Rectangles that cover every entry of `within` that may differ from zero, none twice."""

    @abstractmethod
    def fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        """The entries of one rectangle that `pieces` gave."""

    @abstractmethod
    def allowed(self) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        """First and last key, both included, that each row may see by structure; first > last where there is none."""

    def sees(self, rows: slice) -> Bool[Tensor, "r L"]:
        """Which keys each row may see by structure, on the matrix's device: from the first to the last allowed."""
        first, last = (bound[rows, None].to(self.device) for bound in self.allowed())
        keys = torch.arange(self.length, device=self.device)
        return (keys >= first) & (keys <= last)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, D, L, L)."""
        return self.batch, self.channels, self.length, self.length

    def factors(self) -> Factors | None:
        """The scan and what surrounds it, or None where the matrix is not of that form."""
        return None

    def border(self, m: int) -> tuple[Float[Tensor, "B D r q"], Float[Tensor, "B D q m"]] | None:
        """Thin factors in float64 of M[m:, :m] in the order of the steps, or None where there are none."""
        return None

    def row(self, i: int) -> Float[Tensor, "B D L"]:
        """M[i, :], what output i reads of every token.

        Raises:
            IndexError: There is no row i.
        """
        i = self._position(i, "row")
        return self.tile(slice(i, i + 1), slice(0, self.length))[:, :, 0]

    def column(self, j: int) -> Float[Tensor, "B D L"]:
        """M[:, j], what token j gives to every output.

        Raises:
            IndexError: There is no column j.
        """
        j = self._position(j, "column")
        return self.tile(slice(0, self.length), slice(j, j + 1))[..., 0]

    def apply(self, u: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
        """sum_j M_ij u_j, the matrix's product with a number for each token and channel."""
        out = torch.zeros(self.shape[:3], dtype=self.dtype, device=self.device)
        height = max(1, SCRATCH * 8 // max(1, self.batch * self.channels * self.length))
        for start in range(0, self.length, height):
            rows = slice(start, min(start + height, self.length))
            out[..., rows] = torch.einsum(
                "bdij,bdj->bdi", self.tile(rows, slice(0, self.length)), u.to(self.dtype)
            )
        return out

    def entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Entries:
        """M at (rows[p], columns[p]) for every p, (B, D, P), computed in float64 and in logarithms where it pays."""
        found = torch.zeros((self.batch, self.channels, len(rows)), dtype=torch.float64, device=self.device)
        for i in rows.unique().tolist():
            at = (rows == i).to(self.device)
            found[..., at] = self.row(i)[..., columns.to(self.device)[at]].double()
        return Entries(found.sign(), found.abs().log())

    def weigh_entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Float[Tensor, "B P"]:
        """The logarithm of W at (rows[p], columns[p]) for every p, in float64."""
        log = self.entries(rows, columns).log
        total = torch.logsumexp(log, 1)
        return total - torch.tensor(self.channels, dtype=torch.float64).log()

    def tile(self, rows: slice, columns: slice, channels: slice | None = None) -> Float[Tensor, "B d r c"]:
        """Entries M[rows, columns] of the chosen channels, (B, D, rows, columns).

        Args:
            rows, columns: Slices of positions with step 1.
            channels: A slice of channels; all of them where None.

        Raises:
            IndexError: A slice leaves the matrix or has another step.
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
        for piece in self.pieces(within):
            target = _shift(piece, -within.top, -within.left)
            out[..., target.top : target.bottom, target.left : target.right] = self.fill(piece, channels)
        return out.flip((-2, -1)) if self.reverse else out

    def weigh(
        self, rows: slice, columns: slice, signed: bool = False
    ) -> tuple[Float[Tensor, "B r c"], Float[Tensor, "B r c"] | None]:
        """W[rows, columns] of math.md section 2, and with `signed` also the mean of M over channels.

        W is the mean over channels of abs(M), or the norm over channels of contributions. Memory beside the answer is
        `SCRATCH` entries, whatever D is.
        """
        within = self._locate(rows, columns)
        shape = (self.batch, within.bottom - within.top, within.right - within.left)
        weight = torch.zeros(shape, dtype=self.dtype, device=self.device)
        mean = torch.zeros_like(weight) if signed else None
        for piece in self.pieces(within):
            target = _shift(piece, -within.top, -within.left)
            at = (slice(None), slice(target.top, target.bottom), slice(target.left, target.right))
            weight[at], total = self.sums(piece, signed)
            if mean is not None and total is not None:
                mean[at] = total
        weight = self.finish(weight)
        if mean is not None:
            mean /= self.channels
        if self.reverse:
            weight, mean = weight.flip((-2, -1)), None if mean is None else mean.flip((-2, -1))
        return weight, mean

    def dense(self, max_bytes: int = 2**30) -> Float[Tensor, "B D L L"]:
        """All of the matrix, (B, D, L, L).

        Raises:
            MemoryError: The matrix takes more than `max_bytes`; the message has the size.
        """
        size = self.batch * self.channels * self.length**2 * self.dtype.itemsize
        if size > max_bytes:
            raise MemoryError(
                f"the dense matrix (B={self.batch}, D={self.channels}, L={self.length}, {self.dtype}) takes "
                f"{size / 2**30:.2f} GiB and max_bytes allows {max_bytes / 2**30:.2f} GiB; read it by tile(), row() or "
                "column(), reduce it with analysis.reduce, or raise max_bytes"
            )
        return self.tile(slice(0, self.length), slice(0, self.length))

    def sums(
        self, piece: Rectangle, signed: bool
    ) -> tuple[Float[Tensor, "B r c"], Float[Tensor, "B r c"] | None]:
        """What `finish` turns into W, and with `signed` the sum of M over channels, on one rectangle of `pieces`."""
        shape = (self.batch, piece.bottom - piece.top, piece.right - piece.left)
        weight = torch.zeros(shape, dtype=self.dtype, device=self.device)
        total = torch.zeros_like(weight) if signed else None
        for channels in self._channel_blocks(piece):
            entries = self.fill(piece, channels)
            if total is not None:
                total += entries.sum(1)
            weight += self._magnitude(entries)
        return weight, total

    def finish(self, total: Float[Tensor, "B r c"]) -> Float[Tensor, "B r c"]:
        """W from sums over channels of abs(M), or of squares where the scope takes norms."""
        return total / self.channels

    def _magnitude(self, entries: Float[Tensor, "B d r c"]) -> Float[Tensor, "B r c"]:
        return entries.abs_().sum(1)

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

    def _position(self, index: int, name: str) -> int:
        """A position in the sequence, from 0."""
        if not -self.length <= index < self.length:
            raise IndexError(f"{name} {index} is outside a matrix of {self.length} tokens")
        return index % self.length

    def _ordered(self, x: Tensor) -> Tensor:
        """From the order of the sequence to that of the steps, or back."""
        return x.flip(-1) if self.reverse else x

    def _steps(self, *pairs: Int[Tensor, " P"]) -> tuple[Int[Tensor, " P"], ...]:
        """Positions of pairs as steps.

        Raises:
            IndexError: A position is outside the sequence.
        """
        L, found = self.length, []
        for positions in pairs:
            if len(positions) and not -L <= int(positions.min()) <= int(positions.max()) < L:
                raise IndexError(f"pairs: positions have to lie in -{L}..{L - 1}")
            positions = positions.to(self.device) % max(L, 1)
            found.append(L - 1 - positions if self.reverse else positions)
        return tuple(found)

    def __repr__(self) -> str:
        order = "backward" if self.reverse else "forward"
        return self._shown(order)

    def _shown(self, *words: str) -> str:
        B, D, L, _ = self.shape
        named = ", ".join((f"scope {self.scope}", *words, str(self.dtype).removeprefix("torch.")))
        return f"{type(self).__name__}({named}, B={B}, D={D}, L={L})"


def _shift(piece: Rectangle, down: int, right: int) -> Rectangle:
    return Rectangle(piece.top + down, piece.bottom + down, piece.left + right, piece.right + right)


def _span(part: slice | None, size: int, name: str) -> slice:
    if part is None:
        return slice(0, size)
    start, stop = part.start or 0, size if part.stop is None else part.stop
    if part.step not in (None, 1) or not 0 <= start <= stop <= size:
        raise IndexError(f"{name}: {part} is not a slice of step 1 within 0..{size}")
    return slice(start, stop)
