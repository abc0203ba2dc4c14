"""Strips of W on the CPU, compiled: the same numbers as `AttentionMatrix.weigh`, many times sooner.

A pass goes through the steps in strips of rows. Before the strip that starts at step p, a column's factor is kept
relative to the end q of its own block, ``exp(A (S_q - S_j)) w_j``; a row's relative to p, ``exp(A (S_i - S_p)) C_i``;
``exp(A (S_p - S_q))`` bridges the two. So each token is exponentiated three times in all rather than once a strip, and
no exponent is above 0. Entries on and near the diagonal come from the recurrence, one row after the other. Convolution,
gate, skip and scale of the wider scopes are folded into the factors.

Channels are cut into `SHARES` that each add up on their own, whatever the number of threads, so that threads change no
bit of the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numba import njit
from torch import Tensor

from analysis.implicit import AttentionMatrix, Folds, ImplicitAttention

ROWS = 128
SHARES = 8
# The products are of sixteen rows at a time, eight states at a time; so padded, no loop has a rest.
BLOCK_STATES, BLOCK_ROWS = 8, 16
# Columns of the near part: a strip's own and those that up to 7 taps of a convolution reach from it.
NEAR = ROWS + 8


def strips(
    matrix: AttentionMatrix, signed: bool
) -> Iterator[tuple[slice, Float[Tensor, "B r L"], Float[Tensor, "B r L"] | None]]:
    """W of math.md section 2, and with ``signed`` the mean of M over channels, `ROWS` rows at a time.

    Strips come in the order of the steps, from the last rows to the first where the matrix is reversed. What has no
    compiled form, such as a matrix on another device, is read by `AttentionMatrix.weigh`. On a GPU, strips are those of
    `analysis.strips_triton`, of as many rows as it has.
    """
    L = matrix.length
    if matrix.device.type == "cuda" and find_spec("triton") and (folded := matrix.folded()) is not None:
        yield from import_module("analysis.strips_triton").strips(matrix, folded, signed)
        return
    folded = matrix.folded() if matrix.device.type == "cpu" else None
    if folded is None or folded[1].taps.shape[1] > NEAR - ROWS:
        for start in range(0, L, ROWS):
            rows = slice(start, min(start + ROWS, L))
            yield rows, *matrix.weigh(rows, slice(0, L), signed)
        return
    for start, stop, sums in _compiled(*folded, signed):
        weight = F.pad(matrix.finish(sums[0]), (0, L - sums.shape[-1]))
        mean = F.pad(sums[1] / matrix.channels, (0, L - sums.shape[-1])) if signed else None
        if matrix.reverse:
            mean = None if mean is None else mean.flip((-2, -1))
            yield slice(L - stop, L - start), weight.flip((-2, -1)), mean
        else:
            yield slice(start, stop), weight, mean


def _compiled(
    scan: ImplicitAttention, folds: Folds, signed: bool
) -> Iterator[tuple[int, int, Float[Tensor, "s B r c"]]]:
    """Sums over channels of abs(M), or of its squares, and of M; columns beyond those given are zero."""
    clips = [_Clip(scan.clip(index), folds.clip(index), signed) for index in range(scan.batch)]
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        for start in range(0, scan.length, ROWS):
            stop = min(start + ROWS, scan.length)
            yield start, stop, torch.stack([clip.strip(start, stop, pool) for clip in clips], 1)


class _Clip:
    """One clip's pass: the factors of the columns that are behind it."""

    def __init__(self, scan: ImplicitAttention, folds: Folds, signed: bool):
        self._scan, self._folds, self._signed = scan, folds, signed
        self._back = folds.taps.shape[1] - 1
        # A block's last columns wait for the next one where their taps reach into it.
        self._held = self._back if folds.ahead == -1 else 0
        D, N = scan.A.shape
        self._states = math.ceil(N / BLOCK_STATES) * BLOCK_STATES
        self._columns = torch.zeros((D, self._states, scan.length), dtype=scan.dtype)
        self._bounds: list[int] = []

    def strip(self, start: int, stop: int, pool: ThreadPoolExecutor) -> Float[Tensor, "2 r c"]:
        scan, folds = self._scan, self._folds
        D, N = scan.A.shape
        low = max(0, start - self._back)
        last = min(stop + (self._back if folds.ahead == 1 else 0), scan.length)
        arrays = [
            self._columns,
            self._bridges(start),
            self._rows(start, stop),
            self._decays(low, stop),
            scan._own(slice(low, stop), slice(None))[0],
            self._reads(start, stop),
            self._masked_first(),
            folds.gate[0, :, start:stop],
            folds.skip.to(scan.dtype),
            folds.slope[0, :, low:stop],
            folds.taps,
            folds.scale[0, :, max(0, start - self._held) : last],
        ]
        jobs = min(SHARES, D)
        partial = torch.zeros((jobs, 1 + self._signed, stop - start, last), dtype=scan.dtype)
        kernel_arguments: list[Any] = [x.detach().contiguous().numpy() for x in arrays]
        bounds = np.array(self._bounds, dtype=np.int64)

        def run(job: int) -> None:
            _strip(  # type: ignore[call-arg]  # numba's stub takes no arguments
                job, jobs, N, start, stop, low, self._held, folds.ahead, folds.squares, self._signed,
                scan.mask_diagonal, bounds, *kernel_arguments, partial.numpy(),
            )  # fmt: skip

        list(pool.map(run, range(jobs)))
        self._keep(start, stop)
        return partial.sum(0)

    def _elapsed(self, at: slice) -> Float[Tensor, "D l"]:
        return self._scan._elapsed[0, :, at]

    def _exp(self, lag: Float[Tensor, "D l"]) -> Float[Tensor, "D N l"]:
        return torch.exp(self._scan._rate * lag.to(self._scan.dtype)[:, None])

    def _bridges(self, start: int) -> Float[Tensor, "D b S"]:
        """exp(A (S_p - S_q)) from the end q of each kept block to the token before ``start``."""
        D, N = self._scan.A.shape
        bridges = torch.zeros((D, len(self._bounds), self._states), dtype=self._scan.dtype)
        if self._bounds:
            ends = self._scan._elapsed[0][:, self._bounds]
            lag = self._elapsed(slice(start - 1, start)) - ends
            bridges[..., :N] = self._exp(lag).transpose(1, 2)
        return bridges

    def _rows(self, start: int, stop: int) -> Float[Tensor, "D r S"]:
        """exp(A (S_i - S_p)) C_i gate_i, rows padded to a multiple of `BLOCK_ROWS`, states to `BLOCK_STATES`."""
        scan, at = self._scan, slice(start, stop)
        D, N = scan.A.shape
        rows = torch.zeros(
            (D, math.ceil((stop - start) / BLOCK_ROWS) * BLOCK_ROWS, self._states), dtype=scan.dtype
        )
        if start:
            since = self._elapsed(at) - self._elapsed(slice(start - 1, start))
            factor = self._exp(since) * self._reads(start, stop)
            factor = factor * self._folds.gate[0, :, None, at]
            rows[:, : stop - start, :N] = factor.transpose(1, 2)
        return rows

    def _decays(self, low: int, stop: int) -> Float[Tensor, "D N r"]:
        """Abar of each step."""
        return self._exp(self._scan._step[0, :, low:stop])

    def _reads(self, start: int, stop: int) -> Float[Tensor, "D N r"]:
        D, N = self._scan.A.shape
        return self._scan._spread(self._scan._output[..., start:stop])[0].expand(D, N, stop - start)

    def _masked_first(self) -> Float[Tensor, " D"]:
        """What a masked diagonal holds at the first step: the state before it, where it is read."""
        w = self._scan._own(slice(0, 1), slice(None))[..., 0]
        return self._scan._diagonal(0, w)[0]

    def _keep(self, start: int, stop: int) -> None:
        """Factors of the columns that no later row is near to, relative to the end of this block."""
        scan, folds = self._scan, self._folds
        N = scan.A.shape[1]
        low = max(0, start - self._back)
        until = self._elapsed(slice(stop - 1, stop)) - self._elapsed(slice(low, stop))
        w = scan._own(slice(low, stop), slice(None))[0]
        source = self._exp(until) * w * folds.slope[0, :, None, low:stop]
        first, last = max(0, start - self._held), stop - self._held
        gathered = torch.zeros_like(source[..., : last - first])
        for tap in range(self._back + 1):
            shift = first - folds.ahead * tap - low
            begin = max(0, -shift)
            end = min(last - first, source.shape[-1] - shift)
            if begin < end:
                gathered[..., begin:end] += (
                    source[..., begin + shift : end + shift] * folds.taps[:, None, tap, None]
                )
        self._columns[:, :N, first:last] = gathered * folds.scale[0, :, None, first:last]
        self._bounds.append(stop - 1)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _strip(
    job, jobs, N, start, stop, low, held, ahead, squares, signed, mask, bounds,
    columns, bridges, rows, decays, own, reads, masked_first, gate, skip, slope, taps, scale, out,
):  # fmt: skip
    D = columns.shape[0]
    weight = out[job, 0]
    mean = out[job, out.shape[1] - 1]
    for d in range(job * D // jobs, (job + 1) * D // jobs):
        for block in range(len(bounds)):
            first = max(0, block * ROWS - held)
            _far(
                columns[d, :, first : bounds[block] + 1 - held],
                rows[d],
                bridges[d, block],
                weight[:, first:],
                mean[:, first:],
                squares,
                signed,
            )
        _near(
            N, start, stop, low, held, ahead, squares, signed, mask, decays[d], own[d], reads[d], masked_first[d],
            gate[d], skip[d], slope[d], taps[d], scale[d], weight, mean,
        )  # fmt: skip


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _far(columns, rows, bridge, weight, mean, squares, signed):
    """Add abs or squares of (rows bridge) @ columns."""
    states, width = columns.shape
    Y, E, F = 0, BLOCK_ROWS, 2 * BLOCK_ROWS
    s = np.zeros((F + states, ROWS), columns.dtype)
    s[F:, :width] = columns
    for i0 in range(0, len(weight), BLOCK_ROWS):
        s[Y : Y + BLOCK_ROWS] = 0
        for r in range(BLOCK_ROWS):
            for n in range(states):
                s[E + r, n] = rows[i0 + r, n] * bridge[n]
        _product(s, states)
        for r in range(min(BLOCK_ROWS, len(weight) - i0)):
            _add(s[Y + r, :width], weight[i0 + r], mean[i0 + r], squares, signed)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _product(s, states):
    """Rows of Y += E @ F, all rows of one scratch array: eight states to a load and a store of Y."""
    Y, E, F = 0, BLOCK_ROWS, 2 * BLOCK_ROWS
    for n in range(0, states, BLOCK_STATES):
        for r in range(BLOCK_ROWS):
            e0, e1, e2, e3 = s[E + r, n], s[E + r, n + 1], s[E + r, n + 2], s[E + r, n + 3]
            e4, e5, e6, e7 = s[E + r, n + 4], s[E + r, n + 5], s[E + r, n + 6], s[E + r, n + 7]
            for j in range(ROWS):
                s[Y + r, j] += (
                    e0 * s[F + n, j] + e1 * s[F + n + 1, j] + e2 * s[F + n + 2, j] + e3 * s[F + n + 3, j]
                    + e4 * s[F + n + 4, j] + e5 * s[F + n + 5, j] + e6 * s[F + n + 6, j] + e7 * s[F + n + 7, j]
                )  # fmt: skip


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _add(values, weight, mean, squares, signed):
    if squares:
        for j in range(len(values)):
            weight[j] += values[j] * values[j]
    else:
        for j in range(len(values)):
            weight[j] += abs(values[j])
    if signed:
        for j in range(len(values)):
            mean[j] += values[j]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _near(
    N, start, stop, low, held, ahead, squares, signed, mask, decays, own, reads, masked_first,
    gate, skip, slope, taps, scale, weight, mean,
):  # fmt: skip
    """Rows of the strip against the scan's columns from ``low`` on, by the recurrence."""
    Y, H, G = 0, 1, 2
    s = np.zeros((G + N, NEAR), decays.dtype)
    first = max(0, start - held)
    last = weight.shape[1] if ahead == 1 else stop
    for i in range(low, stop):
        t = i - low
        s[Y, :t] = 0
        for n in range(N):
            decay = decays[n, t]
            read = reads[n, i - start] if i >= start else decays.dtype.type(0)
            for j in range(t):
                g = s[G + n, j] * decay
                s[G + n, j] = g
                s[Y, j] += read * g
            s[G + n, t] = own[n, t]
        if i < start:
            continue
        diagonal = decays.dtype.type(0)
        if mask:
            diagonal = masked_first if i == 0 else diagonal
        else:
            for n in range(N):
                diagonal += reads[n, i - start] * own[n, t]
        s[Y, t] = diagonal + skip
        _gather(s, Y, H, t, low, first, last, i, ahead, taps, slope)
        seen = min(last, i + 1 + (len(taps) - 1 if ahead == 1 else 0)) - first
        for j in range(seen):
            s[H, j] *= gate[i - start] * scale[j]
        _add(s[H, :seen], weight[i - start, first:], mean[i - start, first:], squares, signed)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _gather(s, Y, H, t, low, first, last, i, ahead, taps, slope):
    """Columns of the matrix from those of the scan: each tap moves them, and the slope weighs them, in place."""
    for m in range(t + 1):
        s[Y, m] *= slope[m]
    for j in range(last - first):
        s[H, j] = 0
    for tap in range(len(taps)):
        # The scan's column of matrix column `first` under this tap, counted from `low`.
        shift = first - ahead * tap - low
        begin = max(0, -shift)
        end = min(last - first, t + 1 - shift)
        for j in range(begin, end):
            s[H, j] += taps[tap] * s[Y, j + shift]
