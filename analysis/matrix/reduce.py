"""One streamed pass over a matrix of attention weights feeds any number of reducers.

The pass goes by strips of rows: a strip holds every key of some rows, W of math.md section 2, so that a reducer can
divide rows by their sums without a second look. Memory is a strip and what the reducers keep, never D x L x L.

    sums = reduce(capture.operator(), [LagProfile(), RowMass()], layout=capture.layout)
    sums["LagProfile"].mean          # (B, L)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.matrix.base import AttentionMatrix
from analysis.matrix.scopes import normalise
from analysis.matrix.strips import strips
from vmp.layout import TokenLayout

# A row's keys hold 90 % of its weight where their sum is at least this: 0.9 less the rounding of a sum of L terms.
HELD = 0.9 - 1e-9


@dataclass(frozen=True, eq=False)
class Strip:
    """Some rows of W with all their keys.

    `weight` (B, r, L); `signed` the mean of M over channels, or None where no reducer asks for it; `allowed`
    (r, L) which keys the rows may see by structure; `share` P in float64 and `valid` which rows have one.
    """

    rows: slice
    weight: Float[Tensor, "B r L"]
    signed: Float[Tensor, "B r L"] | None
    allowed: Bool[Tensor, "r L"]
    share: Float[Tensor, "B r L"]
    valid: Bool[Tensor, "B r"]


class Reducer(ABC):
    """Something computed from strips. `begin` is called once a pass, `update` once a strip, `finish` at the end."""

    needs_signed = False

    @abstractmethod
    def begin(self, matrix: AttentionMatrix, layout: TokenLayout | None) -> None: ...

    @abstractmethod
    def update(self, strip: Strip) -> None: ...

    @abstractmethod
    def finish(self) -> Any: ...


def reduce(
    operator: AttentionMatrix,
    reducers: Sequence[Reducer],
    *,
    layout: TokenLayout | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run one pass over `operator` and return each reducer's result under its class name.

    Args:
        operator: The matrix; its scope decides what W is.
        reducers: What to compute, each of another class.
        layout: Class tokens, frames and patches of the sequence; quantities by frame need it.
        progress: A function that is called with (rows done, rows in all) after each strip.

    Raises:
        ValueError: Two reducers are of one class, or the layout is of another length.
    """
    names = [type(reducer).__name__ for reducer in reducers]
    if len(set(names)) != len(names):
        raise ValueError(f"reducers: {names}; wanted each class once")
    if layout is not None and layout.length != operator.length:
        raise ValueError(f"layout: {layout.length} tokens; the matrix has {operator.length}")
    with torch.no_grad():
        for reducer in reducers:
            reducer.begin(operator, layout)
        signed = any(reducer.needs_signed for reducer in reducers)
        done = 0
        for rows, weight, mean in strips(operator, signed):
            strip = _strip(operator, rows, weight, mean)
            for reducer in reducers:
                reducer.update(strip)
            done += rows.stop - rows.start
            if progress is not None:
                progress(done, operator.length)
        return {name: reducer.finish() for name, reducer in zip(names, reducers, strict=True)}


def _strip(
    operator: AttentionMatrix,
    rows: slice,
    weight: Float[Tensor, "B r L"],
    mean: Float[Tensor, "B r L"] | None,
) -> Strip:
    share, valid = normalise(weight)
    return Strip(rows, weight, mean, operator.sees(rows), share, valid)


class _Square(Reducer):
    """Keeps the whole (B, L, L) matrix, in the operator's dtype."""

    def begin(self, matrix: AttentionMatrix, layout: TokenLayout | None) -> None:
        L = matrix.length
        self._kept = torch.empty((matrix.batch, L, L), dtype=matrix.dtype, device=matrix.device)

    def finish(self) -> Float[Tensor, "B L L"]:
        return self._kept


@final
class AbsoluteMean(_Square):
    """W itself, (B, L, L): the mean over channels of abs(M), or the norm of contributions."""

    def update(self, strip: Strip) -> None:
        self._kept[:, strip.rows] = strip.weight


@final
class SignedMean(_Square):
    """The mean over channels of M, (B, L, L), signs kept."""

    needs_signed = True

    def update(self, strip: Strip) -> None:
        assert strip.signed is not None  # by needs_signed
        self._kept[:, strip.rows] = strip.signed


@final
class RowMass(Reducer):
    """sum_j W_ij, (B, L), in the units of W."""

    def begin(self, matrix: AttentionMatrix, layout: TokenLayout | None) -> None:
        self._mass = _zeros(matrix, matrix.length)

    def update(self, strip: Strip) -> None:
        self._mass[:, strip.rows] = strip.weight.double().sum(-1)

    def finish(self) -> Float[Tensor, "B L"]:
        return self._mass


@final
class ColumnMass(Reducer):
    """sum_i W_ij, (B, L), in the units of W."""

    def begin(self, matrix: AttentionMatrix, layout: TokenLayout | None) -> None:
        self._mass = _zeros(matrix, matrix.length)

    def update(self, strip: Strip) -> None:
        self._mass += strip.weight.double().sum(1)

    def finish(self) -> Float[Tensor, "B L"]:
        return self._mass


@final
@dataclass(frozen=True, eq=False)
class LagProfileResult:
    """Sums of W by lag, and how many allowed pairs each sum has.

    `sums` (B, L) and `counts` (L,) by token lag; `frame_sums` (B, T) and `frame_counts` (T,) over patch
    tokens by frame lag, None without frames. Means are NaN where no pair is allowed.
    """

    sums: Float[Tensor, "B L"]
    counts: Int[Tensor, " L"]
    frame_sums: Float[Tensor, "B T"] | None
    frame_counts: Int[Tensor, " T"] | None

    @property
    def mean(self) -> Float[Tensor, "B L"]:
        """m(k) of math.md section 3, in the units of W."""
        return self.sums / self.counts

    @property
    def frame_mean(self) -> Float[Tensor, "B T"] | None:
        """m(tau) of math.md section 3, in the units of W."""
        if self.frame_sums is None or self.frame_counts is None:
            return None
        return self.frame_sums / self.frame_counts


@final
class LagProfile(Reducer):
    """m(k), mean W over allowed pairs at lag k = abs(i - j), and m(tau) by frame lag over patch tokens."""

    def begin(self, matrix: AttentionMatrix, layout: TokenLayout | None) -> None:
        self._sums = _zeros(matrix, matrix.length)
        self._counts = torch.zeros(matrix.length, dtype=torch.float64, device=matrix.device)
        self._members = None
        if layout is not None and layout.is_video:
            self._members = _members(layout).to(matrix.device)
            # Of each row by the frame of its keys; rows of a frame are added up in `finish`.
            self._by_key = _zeros(matrix, matrix.length, len(self._members))
            self._counts_by_key = torch.zeros_like(self._by_key[0])

    def update(self, strip: Strip) -> None:
        allowed = strip.allowed.double()
        weight = strip.weight.double().masked_fill(~strip.allowed, 0)
        self._sums += _by_lag(weight, strip.rows.start)
        self._counts += _by_lag(allowed, strip.rows.start)
        if self._members is not None:
            self._by_key[:, strip.rows] = _gather(weight, self._members)
            self._counts_by_key[strip.rows] = _gather(allowed, self._members)

    def finish(self) -> LagProfileResult:
        counts = self._counts.round().long()
        if self._members is None:
            return LagProfileResult(self._sums, counts, None, None)
        # Frames are to frames what tokens are to tokens.
        sums, frame_counts = (
            _by_lag(_gather(x.mT, self._members).mT, 0) for x in (self._by_key, self._counts_by_key)
        )
        return LagProfileResult(self._sums, counts, sums, frame_counts.round().long())


@final
@dataclass(frozen=True, eq=False)
class DistancesResult:
    """Mean distance over rows, each (B,) float64: `token` in tokens, `frame` in frames, `patch` in patches.

    `uniform_*` is the same for a matrix that is uniform over the same allowed pairs and rows. Frame and patch
    distances are over patch tokens, with P taken among them; NaN without frames. `empty_rows` counts rows whose
    sum is 0, which are left out.
    """

    token: Float[Tensor, " B"]
    frame: Float[Tensor, " B"]
    patch: Float[Tensor, " B"]
    uniform_token: Float[Tensor, " B"]
    uniform_frame: Float[Tensor, " B"]
    uniform_patch: Float[Tensor, " B"]
    empty_rows: Int[Tensor, " B"]


@final
class Distances(Reducer):
    """Mean over rows of sum_j P_ij times a distance between i and j.

    Distances are abs(i - j) in tokens; between patch tokens also abs(t_i - t_j) in frames, and the Euclidean distance
    of their places in the frame, in patches (Dosovitskiy et al., arXiv 2010.11929, figure 7, in patches for pixels).
    """

    def begin(self, matrix: AttentionMatrix, layout: TokenLayout | None) -> None:
        self._position = torch.arange(matrix.length, device=matrix.device, dtype=torch.float64)
        self._frame = _frames(matrix, layout)
        if self._frame is not None and layout is not None:
            self._row = layout.row_index.to(matrix.device).double()
            self._column = layout.col_index.to(matrix.device).double()
        self._totals = _zeros(matrix, 3)
        self._uniform = _zeros(matrix, 3)
        self._rows = _zeros(matrix, 3)
        self._empty = torch.zeros(matrix.batch, dtype=torch.long, device=matrix.device)

    def update(self, strip: Strip) -> None:
        rows = strip.rows
        self._empty += (~strip.valid).sum(-1)
        token = (self._position[rows, None] - self._position).abs()
        self._add(0, token, strip.allowed, strip.share, strip.valid)
        if self._frame is None:
            return
        row, key = self._frame[rows, None], self._frame[None]
        pairs = strip.allowed & (row >= 0) & (key >= 0)
        share, valid = normalise(strip.share * pairs)
        self._add(1, (row - key).abs().double(), pairs, share, valid)
        patch = torch.hypot(
            self._row[rows, None] - self._row[None], self._column[rows, None] - self._column[None]
        )
        self._add(2, patch, pairs, share, valid)

    def _add(
        self,
        which: int,
        distance: Float[Tensor, "r L"],
        pairs: Bool[Tensor, "r L"],
        share: Float[Tensor, "B r L"],
        valid: Bool[Tensor, "B r"],
    ) -> None:
        self._totals[:, which] += (share * distance).sum((-2, -1))
        uniform = (distance * pairs).sum(-1) / pairs.sum(-1).clamp(min=1)
        self._uniform[:, which] += (valid * uniform).sum(-1)
        self._rows[:, which] += valid.sum(-1)

    def finish(self) -> DistancesResult:
        mean, uniform = self._totals / self._rows, self._uniform / self._rows
        return DistancesResult(
            token=mean[:, 0],
            frame=mean[:, 1],
            patch=mean[:, 2],
            uniform_token=uniform[:, 0],
            uniform_frame=uniform[:, 1],
            uniform_patch=uniform[:, 2],
            empty_rows=self._empty,
        )


@final
@dataclass(frozen=True, eq=False)
class EffectiveContextResult:
    """`tokens` (B,) float64, the mean over rows; `empty_rows` (B,) rows of sum 0, which are left out."""

    tokens: Float[Tensor, " B"]
    empty_rows: Int[Tensor, " B"]


@final
class EffectiveContext(Reducer):
    """Mean over rows of the fewest keys that hold 90 % of P_i, in tokens."""

    def begin(self, matrix: AttentionMatrix, layout: TokenLayout | None) -> None:
        self._keys = torch.zeros(matrix.batch, dtype=torch.float64, device=matrix.device)
        self._rows = torch.zeros_like(self._keys)
        self._empty = torch.zeros(matrix.batch, dtype=torch.long, device=matrix.device)

    def update(self, strip: Strip) -> None:
        held = strip.share.sort(-1, descending=True).values.cumsum(-1)
        keys = (held < HELD).sum(-1) + 1
        self._keys += (keys * strip.valid).sum(-1)
        self._rows += strip.valid.sum(-1)
        self._empty += (~strip.valid).sum(-1)

    def finish(self) -> EffectiveContextResult:
        return EffectiveContextResult(self._keys / self._rows, self._empty)


@final
@dataclass(frozen=True, eq=False)
class FrameMatrixResult:
    """Fractions of P by frame.

    `frames` (B, T, T): F[s, t], what a token of frame s gives to frame t, NaN where frame s has no row with a sum.
    `class_row` (B, T): what the class token gives to each frame; `class_self` (B,): to the class tokens. Both are
    means over the class tokens, and NaN without one or where its row has sum 0.
    """

    frames: Float[Tensor, "B T T"]
    class_row: Float[Tensor, "B T"]
    class_self: Float[Tensor, " B"]


@final
class FrameMatrix(Reducer):
    """Where each frame's tokens, and the class token, look: sums of P by frame. None without frames."""

    def begin(self, matrix: AttentionMatrix, layout: TokenLayout | None) -> None:
        self._frame = _frames(matrix, layout)
        if self._frame is None or layout is None:
            return
        frames = layout.frames
        # Class tokens are counted as one more frame, the last, until `finish`.
        label = torch.where(self._frame < 0, frames, self._frame)
        self._one_hot = torch.nn.functional.one_hot(label, frames + 1).double()
        self._sums = torch.zeros(
            (matrix.batch, frames + 1, frames + 1), dtype=torch.float64, device=matrix.device
        )
        self._rows = _zeros(matrix, frames + 1)

    def update(self, strip: Strip) -> None:
        if self._frame is None:
            return
        row = self._one_hot[strip.rows]
        self._sums += torch.einsum("rs,brt->bst", row, strip.share @ self._one_hot)
        self._rows += strip.valid.double() @ row

    def finish(self) -> FrameMatrixResult | None:
        if self._frame is None:
            return None
        mean = self._sums / self._rows[..., None]
        return FrameMatrixResult(mean[:, :-1, :-1], mean[:, -1, :-1], mean[:, -1, -1])


def _zeros(matrix: AttentionMatrix, *size: int) -> Float[Tensor, "B *size"]:
    return torch.zeros((matrix.batch, *size), dtype=torch.float64, device=matrix.device)


def _frames(matrix: AttentionMatrix, layout: TokenLayout | None) -> Int[Tensor, " L"] | None:
    """Frame of each token, -1 for class tokens; None where the sequence has no frames."""
    if layout is None or not layout.is_video:
        return None
    return layout.frame_index.to(matrix.device)


def _members(layout: TokenLayout) -> Int[Tensor, "T K"]:
    """The positions of each frame's tokens, filled up with L where a frame has fewer than the largest one."""
    frame = layout.frame_index
    tokens = [(frame == t).nonzero().flatten() for t in range(layout.frames)]
    return torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=layout.length)


def _gather(values: Float[Tensor, "*batch L"], members: Int[Tensor, "T K"]) -> Float[Tensor, "*batch T"]:
    """Sums over each frame's tokens, in a fixed order on any device, which `index_add_` on a GPU does not have."""
    return torch.nn.functional.pad(values, (0, 1))[..., members].sum(-1)


def _by_lag(values: Float[Tensor, "*batch r L"], start: int) -> Float[Tensor, "*batch L"]:
    """Sums over the pairs of rows from `start` on and keys at each distance abs(i - j).

    Each row is moved one place further than the one above it, so that pairs of one i - j share a column: sums in a
    fixed order, with no index to scatter by.
    """
    rows, keys = values.shape[-2:]
    if rows == 0 or keys == 0:
        return values.new_zeros((*values.shape[:-2], keys))
    wide = torch.nn.functional.pad(values.flip(-2), (0, rows)).flatten(-2)
    # One number less a row moves row r by r places.
    diagonals = wide[..., : rows * (keys + rows - 1)].unflatten(-1, (rows, keys + rows - 1)).sum(-2)
    # Column c has i - j = start + rows - 1 - c.
    zero = start + rows - 1
    total = torch.zeros_like(values[..., 0, :])
    before = diagonals[..., : zero + 1].flip(-1)
    total[..., : before.shape[-1]] += before
    after = diagonals[..., zero + 1 :]
    total[..., 1 : 1 + after.shape[-1]] += after
    return total
