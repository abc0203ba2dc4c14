"""Strips of W on the CPU, compiled: the same numbers as `AttentionMatrix.weigh`, many times sooner.

A pass goes through the steps in strips of rows. Columns before a strip that starts at step p + 1 are far: their entries
are products of factors `exp(A (S_i - S_p)) C_i` and `exp(A (S_p - S_j)) w_j`, which no exponent above 0 enters. The
rows' are made once a strip; the columns' once a strip too, next to where they are used, which costs a tenth of the
products and keeps memory at a strip, whatever L is. Entries on and near the diagonal come from the recurrence, one row
after the other. Convolution, gate, skip and scale of the wider scopes are folded into the factors.

A far job is some columns of a strip, for all channels; a near job a share of the channels, cut alike for any number of
threads. So threads change no bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numba import njit
from torch import Tensor

from analysis.matrix.base import AttentionMatrix, Factors
from vmp.scan.vectors import (
    BYTES,
    LOG2_E,
    aligned,
    exp2,
    flush_denormals,
    fma,
    load,
    magnitude,
    restore,
    splat,
    store,
)

ROWS = 128
# Columns of a far job, and the most that its factors are gathered from.
COLUMNS = 64
GATHERED = COLUMNS + 16
SHARES = 8
# The scan's columns of the near part: a strip's own and those that up to 8 taps of a convolution reach back to.
NEAR = ROWS + 16


def strips(
    matrix: AttentionMatrix, signed: bool
) -> Iterator[tuple[slice, Float[Tensor, "B r L"], Float[Tensor, "B r L"] | None]]:
    """W of math.md section 2, and with `signed` the mean of M over channels, `ROWS` rows at a time.

    Strips come in the order of the steps, from the last rows to the first where the matrix is reversed. On a GPU they
    are those of `analysis.matrix.strips_triton`, of as many rows as it has. A matrix without a compiled form, such as
    one after the output projection, is read by `AttentionMatrix.weigh`.
    """
    L = matrix.length
    if matrix.device.type == "cuda" and find_spec("triton") and (factors := matrix.factors()) is not None:
        yield from import_module("analysis.matrix.strips_triton").strips(matrix, factors, signed)
        return
    if L == 0:
        return
    factors = matrix.factors() if matrix.device.type == "cpu" else None
    if factors is None or factors.taps.shape[1] > 8 or _grows(factors):
        for start in range(0, L, ROWS):
            rows = slice(start, min(start + ROWS, L))
            yield rows, *matrix.weigh(rows, slice(0, L), signed)
        return
    for start, stop, sums in _compiled(factors, signed):
        weight = F.pad(matrix.finish(sums[0]), (0, L - sums.shape[-1]))
        mean = F.pad(sums[1] / matrix.channels, (0, L - sums.shape[-1])) if signed else None
        if matrix.reverse:
            mean = None if mean is None else mean.flip((-2, -1))
            yield slice(L - stop, L - start), weight.flip((-2, -1)), mean
        else:
            yield slice(start, stop), weight, mean


def _compiled(factors: Factors, signed: bool) -> Iterator[tuple[int, int, Float[Tensor, "s B r c"]]]:
    """Sums over channels of abs(M), or of its squares, and of M; columns beyond those given are zero."""
    batch, _, length = factors.step.shape
    clips = [_Clip(factors.clip(index), signed) for index in range(batch)]
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        for start in range(0, length, ROWS):
            stop = min(start + ROWS, length)
            yield start, stop, torch.stack([clip.strip(start, stop, pool) for clip in clips], 1)


class _Clip:
    """One clip's matrix, as arrays in the order of the steps."""

    def __init__(self, factors: Factors, signed: bool):
        self._signed, self._dtype, self._length = signed, factors.step.dtype, factors.step.shape[-1]
        self._back = factors.taps.shape[1] - 1
        # The last columns before a strip are near where their taps reach into it.
        self._held = self._back if factors.ahead == -1 else 0
        self._ahead = factors.ahead
        D, N = factors.rate.shape
        self._shares = min(SHARES, D)
        self._rows = torch.zeros((D, N * ROWS), dtype=self._dtype).numpy()
        self._scan = (
            _numbers(factors.rate * LOG2_E),
            _numbers(factors.elapsed[0]),
            _numbers(factors.step[0]),
            _maps(factors.write),
            _maps(factors.read),
        )
        self._options = (factors.elemental, factors.initial)
        self._mask = (factors.mask, _array(factors.first[0]))
        gate, slope, scale = (_maps(x) for x in (factors.gate, factors.slope, factors.scale))
        skip, taps = _array(factors.skip.to(self._dtype)), _array(factors.taps)
        self._folds = (factors.ahead, factors.squares, gate, skip, slope, taps, scale)

    def strip(self, start: int, stop: int, pool: ThreadPoolExecutor) -> Float[Tensor, "s r c"]:
        low, first = max(0, start - self._back), max(0, start - self._held)
        last = min(stop + (self._back if self._ahead == 1 else 0), self._length)
        sums = 1 + self._signed
        near = torch.zeros((self._shares, sums, stop - start, last - first), dtype=self._dtype)
        out = torch.zeros((sums, stop - start, last), dtype=self._dtype)
        arguments = (*self._scan, *self._options, *self._folds)

        def near_job(share: int) -> None:
            D = len(self._rows)
            channels = (share * D // self._shares, (share + 1) * D // self._shares)
            _near(
                channels,
                (start, stop, low, first, last),
                *arguments,
                *self._mask,
                self._rows,
                near[share].numpy(),
            )

        def far_job(left: int) -> None:
            columns = (left, min(left + COLUMNS, first))
            _far(columns, start, stop - start, *arguments, self._rows, out.numpy())

        # The near jobs also make the rows' factors, which the far ones read.
        list(pool.map(near_job, range(self._shares)))
        list(pool.map(far_job, range(0, first, COLUMNS)))
        out[..., first:last] = near.sum(0)
        return out


def _grows(factors: Factors) -> bool:
    """Whether an exponent may be above 0, which the compiled exp2 does not go far beyond: rates are to be negative."""
    return bool((factors.rate > 0).any() or (factors.step < 0).any())


def _numbers(x: Tensor) -> np.ndarray:
    """As an array, NaN without a payload: `exp2` would take its low bits for an exponent."""
    return _array(x.nan_to_num(nan=torch.nan, posinf=torch.inf, neginf=-torch.inf))


def _maps(x: Float[Tensor, "1 *rows L"]) -> np.ndarray:
    """One clip's rows, of L numbers or of one where it is constant in L: one layout, which is compiled for once."""
    return _array(x[0, ..., :1] if x.stride(-1) == 0 else x[0])


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


@njit(cache=True, error_model="numpy")
def _copy(target, source, begin, end):
    """Put source[begin:end], where a source of one number stands for all, at the beginning of target."""
    if len(source) == 1:
        target[: end - begin] = source[0]
    else:
        for k in range(end - begin):
            target[k] = source[begin + k]


@njit(cache=True, nogil=True, error_model="numpy")
def _far(
    columns, start, count, rates, elapsed, step, B, C, elemental, initial,
    ahead, squares, gate, skip, slope, taps, scale, rows, out,
):  # fmt: skip
    """Columns [left, right) of `count` rows from `start`: sums over channels of the factors' products."""
    left, right = columns
    D, N = rates.shape
    number, lanes = rates.dtype.type, BYTES // rates.itemsize
    back = taps.shape[1] - 1
    # The scan's columns that the taps of these gather.
    low, high = (left, right + back) if ahead == -1 else (max(0, left - back), right)
    b = aligned(N * GATHERED, rates.dtype)
    lag, steps, slopes = (
        aligned(GATHERED, rates.dtype),
        aligned(GATHERED, rates.dtype),
        aligned(GATHERED, rates.dtype),
    )
    source, scales = aligned(GATHERED, rates.dtype), aligned(COLUMNS, rates.dtype)
    factor = aligned(N * COLUMNS, rates.dtype)
    weight = aligned(ROWS * COLUMNS, rates.dtype)
    mean = aligned(ROWS * COLUMNS if len(out) > 1 else 0, rates.dtype)
    group = -1
    denormals = flush_denormals()
    for d in range(D):
        if d * len(B) // D != group:
            group = d * len(B) // D
            for n in range(N):
                _copy(b[n * GATHERED :], B[group, n], low, high)
        boundary = elapsed[d, start - 1]
        for m in range(high - low):
            lag[m] = number(boundary - elapsed[d, low + m])
            steps[m] = step[d, low + m]
        _copy(slopes, slope[d], low, high)
        _copy(scales, scale[d], left, right)
        for n in range(N):
            rate = splat(rates[d, n])
            for m in range(0, GATHERED, lanes):
                own = load(steps, m) * load(b, n * GATHERED + m)
                if elemental:
                    own = own + exp2(rate * load(steps, m))
                store(source, m, exp2(rate * load(lag, m)) * own * load(slopes, m))
            if initial and low == 0:
                source[0] += number(2.0 ** (rates[d, n] * (lag[0] + steps[0]))) * slopes[0]
            for j in range(right - left):
                factor[n * COLUMNS + j] = 0
            for tap in range(back + 1):
                shift = left - low - ahead * tap
                for j in range(max(0, -shift), right - left):
                    factor[n * COLUMNS + j] += taps[d, tap] * source[j + shift]
            for j in range(right - left):
                factor[n * COLUMNS + j] *= scales[j]
        for r in range(0, count, 4):
            for j in range(0, right - left, 2 * lanes):
                a = _product(rows[d], r, factor, j, N, lanes)
                for k in range(4):
                    at = (r + k) * COLUMNS + j
                    _add(weight, at, a[2 * k], squares)
                    _add(weight, at + lanes, a[2 * k + 1], squares)
                    if len(mean):
                        store(mean, at, load(mean, at) + a[2 * k])
                        store(mean, at + lanes, load(mean, at + lanes) + a[2 * k + 1])
    restore(denormals)
    for i in range(count):
        for j in range(right - left):
            out[0, i, left + j] = weight[i * COLUMNS + j]
            if len(mean):
                out[1, i, left + j] = mean[i * COLUMNS + j]


@njit(cache=True, error_model="numpy")
def _product(rows, r, factor, j, N, lanes):
    """Four rows times two vectors of columns, summed over states: eight vectors, two a row."""
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = splat(rows.dtype.type(0))
    for n in range(N):
        f0, f1 = load(factor, n * COLUMNS + j), load(factor, n * COLUMNS + j + lanes)
        at = n * ROWS + r
        e = splat(rows[at])
        a0, a1 = fma(e, f0, a0), fma(e, f1, a1)
        e = splat(rows[at + 1])
        b0, b1 = fma(e, f0, b0), fma(e, f1, b1)
        e = splat(rows[at + 2])
        c0, c1 = fma(e, f0, c0), fma(e, f1, c1)
        e = splat(rows[at + 3])
        d0, d1 = fma(e, f0, d0), fma(e, f1, d1)
    return a0, a1, b0, b1, c0, c1, d0, d1


@njit(cache=True, error_model="numpy")
def _add(sums, at, value, squares):
    """Add a vector's magnitudes, or squares, to the sums at that place."""
    if squares:
        store(sums, at, fma(value, value, load(sums, at)))
    else:
        store(sums, at, load(sums, at) + magnitude(value))


@njit(cache=True, nogil=True, error_model="numpy")
def _near(
    channels, bounds, rates, elapsed, step, B, C, elemental, initial,
    ahead, squares, gate, skip, slope, taps, scale, mask, masked_first, rows, out,
):  # fmt: skip
    """Rows of the strip against the scan's columns from `low` on, and the factors of its rows for the far columns."""
    start, stop, low, first, last = bounds
    D, N = rates.shape
    number, lanes = rates.dtype.type, BYTES // rates.itemsize
    span, count = stop - low, stop - start
    b, c = aligned(N * NEAR, rates.dtype), aligned(N * NEAR, rates.dtype)
    # By state: Abar and own term of each step, and what is left of each column's own term at the present row.
    own, left = aligned(N * NEAR, rates.dtype), aligned(N * NEAR, rates.dtype)
    lag, steps, slopes = aligned(NEAR, rates.dtype), aligned(NEAR, rates.dtype), aligned(NEAR, rates.dtype)
    gates, scales = aligned(NEAR, rates.dtype), aligned(NEAR + 16, rates.dtype)
    y, gathered = aligned(NEAR, rates.dtype), aligned(NEAR + 16, rates.dtype)
    decays = aligned(N * NEAR, rates.dtype)
    group_B = group_C = -1
    denormals = flush_denormals()
    for d in range(*channels):
        if d * len(B) // D != group_B:
            group_B = d * len(B) // D
            for n in range(N):
                _copy(b[n * NEAR :], B[group_B, n], low, stop)
        if d * len(C) // D != group_C:
            group_C = d * len(C) // D
            for n in range(N):
                _copy(c[n * NEAR :], C[group_C, n], low, stop)
        for t in range(span):
            steps[t] = step[d, low + t]
        for i in range(count):
            lag[i] = number(elapsed[d, start + i] - elapsed[d, max(0, start - 1)])
        _copy(slopes, slope[d], low, stop)
        _copy(gates, gate[d], start, stop)
        _copy(scales, scale[d], first, last)
        for n in range(N):
            rate = splat(rates[d, n])
            for t in range(0, span, lanes):
                Abar = exp2(rate * load(steps, t))
                w = load(steps, t) * load(b, n * NEAR + t)
                store(decays, n * NEAR + t, Abar)
                store(own, n * NEAR + t, w + Abar if elemental else w)
            if initial and low == 0:
                own[n * NEAR] += decays[n * NEAR]
            # Nothing is far from the first strip.
            for i in range(0, ROWS if start > 0 else 0, lanes):
                store(y, 0, exp2(rate * load(lag, i)) * load(gates, i))
                for k in range(min(lanes, count - i)):
                    rows[d, n * ROWS + i + k] = y[k] * c[n * NEAR + start - low + i + k]
        left[:] = 0
        for t in range(span):
            i = low + t
            for j in range(0, t, lanes):
                seen = splat(number(0))
                for n in range(N):
                    at = n * NEAR + j
                    remains = load(left, at) * splat(decays[n * NEAR + t])
                    store(left, at, remains)
                    seen = fma(splat(c[n * NEAR + t]), remains, seen)
                store(y, j, seen)
            diagonal = number(0)
            for n in range(N):
                left[n * NEAR + t] = own[n * NEAR + t]
                diagonal += c[n * NEAR + t] * own[n * NEAR + t]
            if mask:
                diagonal = masked_first[d] if i == 0 else number(0)
            if i < start:
                continue
            y[t] = diagonal + skip[d]
            seen_columns = min(last, i + 1 + (len(taps[d]) - 1 if ahead == 1 else 0)) - first
            _gather(y, gathered, t, low, first, last, seen_columns, ahead, taps[d], slopes)
            for j in range(seen_columns):
                gathered[j] *= gates[i - start] * scales[j]
            if squares:
                for j in range(seen_columns):
                    out[0, i - start, j] += gathered[j] * gathered[j]
            else:
                for j in range(seen_columns):
                    out[0, i - start, j] += abs(gathered[j])
            if len(out) > 1:
                for j in range(seen_columns):
                    out[1, i - start, j] += gathered[j]
    restore(denormals)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _gather(y, gathered, t, low, first, last, count, ahead, taps, slopes):
    """Columns of the matrix from those of the scan: each tap moves them, and the slope weighs them."""
    for m in range(t + 1):
        y[m] *= slopes[m]
    for j in range(count):
        gathered[j] = 0
    for tap in range(len(taps)):
        # The scan's column of matrix column `first` under this tap, counted from `low`.
        shift = first - ahead * tap - low
        for j in range(max(0, -shift), min(count, t + 1 - shift)):
            gathered[j] += taps[tap] * y[j + shift]
