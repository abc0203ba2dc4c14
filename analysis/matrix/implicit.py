"""The matrix that a selective scan applies to its input, without ever holding all of it.

With `S_i = sum_{k<=i} delta_k` the scan is, channel by channel, `y = alpha u + beta + D u` with

    alpha_ij = sum_n C_i[n] exp(A[n] (S_i - S_j)) w_j[n]      for j <= i, else 0
    w_j[n]   = delta_j B_j[n]                                 the token's own input
             + exp(A[n] delta_j)                              residual "elemental", or "initial" and j = 1
    beta_i   = sum_n C_i[n] exp(A[n] S_i) h_0[n]

`alpha` is the hidden attention of Ali, Zimerman and Wolf (arXiv 2403.01590, eq. 12), here with the options of
VideoMambaPro (arXiv 2406.19006). It is D matrices of L x L for each layer, direction and clip, so the class below
hands out parts of it.

A tile is filled without an exponent above zero. A rectangle whose columns all come before its rows is a product of
two thin factors around the boundary p between them, `exp(A (S_i - S_p))` and `exp(A (S_p - S_j))`; a square on
the diagonal is halved until it is small enough to exponentiate pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.matrix.base import SCRATCH, AttentionMatrix, Entries, Factors, Rectangle
from vmp.scan import selective_scan

# A square of this side on the diagonal is exponentiated pair by pair: N exponentials an entry there, and
# N (rows + columns) a rectangle elsewhere. 8 was the fastest of 2, 4, 8 and 16.
LEAF = 8
TERMS = 2**19
"""Terms of scattered entries that are held at once: 2 MB a float32 array, which caches hold."""


@final
class ImplicitAttention(AttentionMatrix):
    """The matrix alpha of one direction of a selective scan (math.md section 2, scope `ssm`).

    Args:
        delta: Steps after softplus, (B, D, L).
        A: Negative state rates, (D, N).
        B, C: Input and output maps, (B, N, L), (B, G, N, L) with D a multiple of G, or (D, N).
        D: Skip weights, (D,). They are no part of alpha; `apply` adds them.
        h0: The state before the first step, (B, D, N). It gives `beta`.
        residual: `"none"`, `"initial"` (h_0 = u_1) or `"elemental"` (our reading of VideoMambaPro's text).
        mask_diagonal: The token's own term leaves the output, and with it the elemental residual's own term.
        reverse: The steps run from token L to token 1.
        masked_first_step: `"skip_only"` where the first masked step outputs D u alone, as in the code released
            with VideoMambaPro; `"carry"` where it also reads the state before it.

    Attributes:
        rate, step, elapsed, write, read: What entries are computed from, as in `analysis.matrix.base.Factors`, in the
            order of the steps.

    Raises:
        ValueError: A shape does not fit the others, or an option has no such value.
    """

    scope = "ssm"

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

        self.rate = A.to(delta.dtype)
        self.step = self._ordered(delta)
        # Differences of this sum are the exponents, so it is kept in double precision whatever the scan's.
        self.elapsed = self.step.double().cumsum(-1)
        self.write, self.read = self._grouped("B", B), self._grouped("C", C)

    def apply(self, u: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
        """alpha u + beta + D u in O(L D N), by the scan itself: the matrix's product and what the scan adds to it."""
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
        beta = torch.zeros_like(self.step)
        if self.h0 is None:
            return beta
        for n in range(self.rate.shape[1]):
            decay = torch.exp((self.rate[:, n, None] * self.elapsed).to(self.dtype))
            beta = beta + self._spread(self.read[:, :, n]) * decay * self.h0[..., n, None]
        if self._silent_start:
            beta = beta.index_fill(-1, torch.tensor([0], device=self.device), 0)
        return self._ordered(beta)

    def column(self, j: int) -> Float[Tensor, "B D L"]:
        """alpha[:, j], what token j gives to every output, by one scan that starts from its state."""
        position = self._step_of(j, "column")
        column = torch.zeros_like(self.step)
        column[..., position] = self.diagonal(position)
        after = slice(position + 1, self.length)
        w = self.own(slice(position, position + 1))[..., 0]
        column[..., after] = _coast(w, self.step[..., after], self.rate, self.read[..., after], reverse=False)
        return self._ordered(column)

    def row(self, i: int) -> Float[Tensor, "B D L"]:
        """alpha[i, :], what output i reads of every token, by the adjoint scan that starts from C_i."""
        position = self._step_of(i, "row")
        read = self._spread(self.read[..., position]).expand(self.batch, self.channels, -1)
        row = torch.zeros_like(self.step)
        before = slice(0, position)
        row[..., before] = self.step[..., before] * _coast(
            read, self.step[..., 1 : position + 1], self.rate, self.write[..., before], reverse=True
        )
        if self.residual == "elemental":
            ones = torch.ones_like(self.write[..., before])
            # One step further back than above, S_i - S_{j-1}: token i's own step comes first.
            carried = read * torch.exp(self.rate * self.step[..., position, None])
            row[..., before] += _coast(carried, self.step[..., before], self.rate, ones, reverse=True)
        row[..., position] = self.diagonal(position)
        if self.residual == "initial" and position > 0:
            row[..., 0] += (read * torch.exp(self.rate * self.elapsed[..., position, None])).sum(-1)
        return self._ordered(row)

    def allowed(self) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        position = torch.arange(self.length)
        last = position - 1 if self.mask_diagonal else position.clone()
        if self._carries_first and self.length:
            last[0] = 0
        return _in_sequence(torch.zeros_like(position), last, self.reverse)

    def factors(self) -> Factors:
        one = torch.ones_like(self.delta[:, :, :1])
        ones = one.expand(-1, -1, self.length)
        masked = self.mask_diagonal and self.length > 0
        return Factors(
            rate=self.rate,
            step=self.step,
            elapsed=self.elapsed,
            write=self.write,
            read=self.read,
            elemental=self.residual == "elemental",
            initial=self.residual == "initial",
            mask=self.mask_diagonal,
            first=self.diagonal(0) if masked else self.delta.new_zeros(self.batch, self.channels),
            gate=ones,
            skip=torch.zeros_like(self.rate[:, 0]),
            slope=ones,
            taps=one[0],
            ahead=-1,
            scale=ones,
            squares=False,
        )

    def border(self, m: int) -> tuple[Float[Tensor, "B D r N"], Float[Tensor, "B D N m"]]:
        read, write = self.thin(Rectangle(m, self.length, 0, m))
        return read.double(), write.double()

    def entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Entries:
        """alpha at (rows[p], columns[p]) for every p, (B, D, P).

        Far apart every term may lie below the smallest number of the scan's dtype, so the exponential of the slowest
        state is taken out of the sum over states.
        """
        total, top = self.sum_and_exponent(*self._steps(rows, columns))
        return Entries(total.sign(), total.abs().log() + top)

    def sum_and_exponent(
        self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]
    ) -> tuple[Float[Tensor, "B D P"], Float[Tensor, "B D P"]]:
        """alpha at pairs of steps as a sum times e to an exponent of at most 0, both in float64; 0 for columns later.

        sum_n C_i[n] exp((A[n] - a) (S_i - S_j)) w_j[n]  and  a (S_i - S_j),  a the slowest state's rate

        A pair that is asked for more than once, as the taps of neighbouring columns do, is computed once.
        """
        pairs, inverse = torch.unique(rows.long() * self.length + columns, return_inverse=True)
        step = max(1, TERMS // (self.batch * self.rate.numel()))
        parts = [self._of_pairs(at // self.length, at % self.length) for at in pairs.split(step)]
        total, top = (torch.cat(part, -1)[..., inverse] for part in zip(*parts, strict=True))
        return total, top

    def _of_pairs(
        self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]
    ) -> tuple[Float[Tensor, "B D P"], Float[Tensor, "B D P"]]:
        w = self.own(columns)
        if self.mask_diagonal:
            same = columns == rows
            w = torch.where(same, self._kept(columns), w) if self._carries_first else w.masked_fill_(same, 0)
        read = self._spread(self.read[..., rows])
        lag = (self.elapsed[..., rows] - self.elapsed[..., columns]).clamp(min=0)
        slowest = self.rate.amax(1, keepdim=True)
        decay = torch.exp((self.rate - slowest)[..., None] * lag[:, :, None].to(self.dtype))
        total = (decay * (read * w)).sum(2, dtype=torch.float64) * (columns <= rows)
        return total, slowest.double() * lag

    def own(self, at: slice | Int[Tensor, " c"], channels: slice = slice(None)) -> Float[Tensor, "B d N c"]:
        """w_j[n] of the steps `at`: what one unit of token j's input leaves in the state."""
        if isinstance(at, Tensor) and len(at) > self.length and self.residual != "none":
            # One exponential a step, then picked, takes a tenth of the time of one a pair.
            every = self.own(slice(0, self.length), channels)
            return every.gather(-1, at.expand(*every.shape[:-1], -1))
        step, rate = self.step[:, channels, None, at], self.rate[channels, :, None]
        w = step * self._spread(self.write[..., at], channels)
        if self.residual == "elemental":
            w = w + torch.exp(rate * step)
        elif self.residual == "initial" and isinstance(at, Tensor):
            w = w + torch.exp(rate * step) * (at == 0)
        elif self.residual == "initial" and isinstance(at, slice) and at.start == 0 and at.stop > 0:
            w[..., 0] += torch.exp(rate[..., 0] * step[..., 0])
        return w

    def diagonal(self, position: int) -> Float[Tensor, "B D"]:
        """alpha_ii of one step, masked or not."""
        if self.mask_diagonal and not (position == 0 and self._carries_first):
            return torch.zeros_like(self.step[..., position])
        kept = self._kept(torch.tensor([position], device=self.device))[..., 0]
        return (self._spread(self.read[..., position]) * kept).sum(-1)

    def thin(
        self, piece: Rectangle, channels: slice = slice(None)
    ) -> tuple[Float[Tensor, "B d r N"], Float[Tensor, "B d N c"]]:
        """Thin factors of a rectangle whose columns come before its rows, both bounded by abs(C_i) and abs(w_j)."""
        rows, columns = slice(piece.top, piece.bottom), slice(piece.left, piece.right)
        rate, elapsed = self.rate[channels, :, None], self.elapsed[:, channels]
        boundary = elapsed[..., piece.top - 1, None]
        since = (elapsed[..., rows] - boundary).to(self.dtype)[:, :, None]
        until = (boundary - elapsed[..., columns]).to(self.dtype)[:, :, None]
        read = torch.exp(rate * since) * self._spread(self.read[..., rows], channels)
        write = torch.exp(rate * until) * self.own(columns, channels)
        return read.transpose(-1, -2), write

    def pieces(self, within: Rectangle) -> Iterator[Rectangle]:
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

    def fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        if piece.right <= piece.top:
            read, write = self.thin(piece, channels)
            return read @ write
        return self._pairwise(piece, channels)

    @property
    def _silent_start(self) -> bool:
        return self.mask_diagonal and self.masked_first_step == "skip_only"

    @property
    def _carries_first(self) -> bool:
        """Whether a masked diagonal holds the residual's part at the first step."""
        return self.mask_diagonal and self.residual == "initial" and not self._silent_start

    def _kept(self, at: Int[Tensor, " c"]) -> Float[Tensor, "B D N c"]:
        """What token j's own output reads of w_j: all of it, or the first step's residual where that is masked."""
        if not self.mask_diagonal:
            return self.own(at)
        carried = (at == 0) & self._carries_first
        return torch.exp(self.rate[..., None] * self.step[:, :, None, at]) * carried

    def _step_of(self, index: int, name: str) -> int:
        position = self._position(index, name)
        return self.length - 1 - position if self.reverse else position

    def _grouped(self, name: str, x: Tensor) -> Float[Tensor, "b G N L"]:
        """B or C as (B or 1, G, N, L), in the order of the steps."""
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
        return self._ordered(grouped)

    def _spread(self, x: Float[Tensor, "b G *rest"], channels: slice = slice(None)) -> Tensor:
        """The group's values for each of `channels`; one group alone is left to broadcast."""
        groups = x.shape[1]
        if groups == 1:
            return x
        index = torch.arange(self.channels, device=x.device)[channels] // (self.channels // groups)
        return x[:, index]

    def _pairwise(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        """A square on the diagonal: mask the exponent, then exponentiate."""
        at = slice(piece.top, piece.bottom)
        elapsed = self.elapsed[:, channels, at]
        lag = (elapsed[..., :, None] - elapsed[..., None, :]).to(self.dtype)
        later = torch.ones(lag.shape[-2:], dtype=torch.bool, device=self.device).triu(1)
        exponent = self.rate[channels, :, None, None] * lag.masked_fill(later, 0)[:, :, None]
        decay = torch.exp(exponent.masked_fill(later, -torch.inf))
        read = self._spread(self.read[..., at], channels)[..., :, None]
        write = self.own(at, channels)[..., None, :]
        square = (read * decay * write).sum(2)
        if self.mask_diagonal:
            square.diagonal(dim1=-2, dim2=-1).zero_()
            if piece.top == 0:
                square[..., 0, 0] = self.diagonal(0)[:, channels]
        return square

    def _scratch_channels(self, piece: Rectangle) -> int:
        direct = self.rate.shape[1] if piece.right > piece.top else 1
        return SCRATCH // (self.batch * piece.area * direct)


def _coast(
    state: Float[Tensor, "B D N"],
    step: Float[Tensor, "B D l"],
    rate: Float[Tensor, "D N"],
    read: Float[Tensor, "b G N l"],
    reverse: bool,
) -> Float[Tensor, "B D l"]:
    """What a scan reads of a given state as it decays, with no input."""
    read = read.expand(step.shape[0], *read.shape[1:])
    return selective_scan(
        torch.zeros_like(step), step, rate, read, read, h0=state.contiguous(), reverse=reverse
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


def _in_sequence(first: Tensor, last: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """A range of keys for each row, from the order of the steps to the order of the sequence."""
    if not reverse:
        return first, last
    L = first.shape[0]
    return L - 1 - last.flip(0), L - 1 - first.flip(0)
