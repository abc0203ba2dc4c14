"""Strips of W on a GPU: the same numbers as `AttentionMatrix.weigh`, from kernels that hold no factor in memory.

A program fills one tile of W and goes through the channels in a loop, so that no entry of M leaves the registers.
Columns that lie before the tile's first row, with all that the convolution gathers for them, are a product of two thin
factors, computed on the spot from the sums of delta up to the token p before that row:

    read[i, n]  = gate_i C_i[n] exp(A[n] (S_i - S_p))
    write[n, j] = scale_j sum_m tap slope_m w_m[n] exp(A[n] (S_p - S_m))

Nearer columns are exponentiated pair by pair, the exponent masked first. So no exponent is above 0. S is float64
whatever the scan's precision, and only differences of it are rounded. A tile is one program's alone, which adds up its
channels in order, so that the same call gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from analysis.matrix.base import AttentionMatrix, Factors

# Tiles of the product, and of the pairs, which cost STATES exponentials an entry; states in one product.
ROWS, COLUMNS = 32, 64
NEAR = 16
STATES = 16
# Entries of a strip: enough tiles for every multiprocessor, and for the reducers few strips of 16 MB in float32.
STRIP = 2**22
# One stage: pipelined loads spill registers. Fused multiply-add is named, as its default differs between versions.
COMPILER = {"num_stages": 1, "enable_fp_fusion": True}
# What changes from strip to strip or with the number of clips: no reason to compile anew.
VARYING = ["start", "stop", "B"]


def strips(
    matrix: AttentionMatrix,
    factors: Factors,
    signed: bool,
    entries: int = STRIP,
) -> Iterator[tuple[slice, Float[Tensor, "B r L"], Float[Tensor, "B r L"] | None]]:
    """W of math.md section 2, and with `signed` the mean of M over channels, about `entries` at a time.

    `factors` is `matrix.factors()`. Strips come in the order of the steps, from the last rows to the first where the
    matrix is reversed.
    """
    L = matrix.length
    if L == 0:
        return
    height = max(1, entries // (matrix.batch * L * ROWS)) * ROWS
    arguments, options = _arguments(factors, signed)
    for start in range(0, L, height):
        stop = min(start + height, L)
        sums = torch.zeros(
            (1 + signed, matrix.batch, stop - start, L), dtype=matrix.dtype, device=matrix.device
        )
        # A tile of rows is near to its own columns and to those that taps reach on one side.
        window = triton.cdiv(ROWS + factors.taps.shape[1] - 1, NEAR)
        with torch.cuda.device_of(sums):
            if stop > ROWS:
                grid = (triton.cdiv(stop - start, ROWS), triton.cdiv(stop, COLUMNS), matrix.batch)
                warps = 4 if matrix.dtype == torch.float32 else 8
                # What is off the diagonal has no mask: one kernel serves both directions.
                far = {**options, "MASK": False}
                _far[grid](sums, start, stop, *arguments, **far, **COMPILER, num_warps=warps)
            grid = (triton.cdiv(stop - start, NEAR), window, matrix.batch)
            _near[grid](sums, start, stop, *arguments, **options, **COMPILER, num_warps=8)
        weight, mean = matrix.finish(sums[0]), sums[1] / matrix.channels if signed else None
        if matrix.reverse:
            mean = None if mean is None else mean.flip((-2, -1))
            yield slice(L - stop, L - start), weight.flip((-2, -1)), mean
        else:
            yield slice(start, stop), weight, mean


def _arguments(factors: Factors, signed: bool) -> tuple[list[Any], dict[str, Any]]:
    """What both kernels take after the strip: tensors, sizes and strides; and constants of the compilation."""
    B, D, L = factors.step.shape
    N, dtype = factors.rate.shape[1], factors.step.dtype
    tensors = [
        factors.elapsed, factors.step, factors.rate, factors.gate, factors.slope, factors.scale, factors.taps,
        factors.skip.to(dtype), factors.first,
    ]  # fmt: skip
    arguments: list[Any] = [x.detach().contiguous() for x in tensors]
    for rows in (factors.write, factors.read):
        rows = rows.detach().expand(B, *rows.shape[1:])
        # One order in memory for every model, so that no other is compiled for; what is constant in L stays a view.
        rows = rows if rows.stride(-1) <= 1 else rows.contiguous()
        arguments += [rows, D // rows.shape[1], *rows.stride()]
    options = {
        "TAPS": factors.taps.shape[1], "AHEAD": factors.ahead, "SQUARES": factors.squares, "SIGNED": signed,
        "ELEMENTAL": factors.elemental, "INITIAL": factors.initial, "MASK": factors.mask,
        "ROWS": ROWS, "COLUMNS": COLUMNS, "NEAR": NEAR,
        "STATES": STATES, "NEAR_STATES": min(STATES, triton.next_power_of_2(N)),
    }  # fmt: skip
    return [*arguments, B, D, L, N], options


@triton.jit
def _own(write, row_n, row_m, n, m, real, inside, step, rate, ELEMENTAL: tl.constexpr, INITIAL: tl.constexpr):
    """w_m[n], (n, m)."""
    there = real[:, None] & inside[None, :]
    own = step[None, :] * tl.load(write + n[:, None] * row_n + m[None, :] * row_m, mask=there, other=0)
    if ELEMENTAL:
        own += tl.exp(rate[:, None] * step[None, :])
    if INITIAL:
        own += tl.where(m[None, :] == 0, tl.exp(rate[:, None] * step[None, :]), 0)
    return own


@triton.jit(do_not_specialize=VARYING)
def _far(
    sums, start, stop, elapsed, step, rate, gate, slope, scale, taps, skip, first,
    write, write_share, write_b, write_g, write_n, write_l, read, read_share, read_b, read_g, read_n, read_l,
    B, D, L, N, TAPS: tl.constexpr, AHEAD: tl.constexpr, SQUARES: tl.constexpr, SIGNED: tl.constexpr,
    ELEMENTAL: tl.constexpr, INITIAL: tl.constexpr, MASK: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, NEAR: tl.constexpr, STATES: tl.constexpr, NEAR_STATES: tl.constexpr,
):  # fmt: skip
    top = start + tl.program_id(0) * ROWS
    left = tl.program_id(1) * COLUMNS
    clip = tl.program_id(2).to(tl.int64)
    # The first column whose taps reach the rows.
    end = top - (TAPS - 1) if AHEAD == -1 else top
    if left < end:
        i, j = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
        row, column = i < stop, j < end
        real_type = step.dtype.element_ty
        weight = tl.zeros((ROWS, COLUMNS), real_type)
        mean = tl.zeros((ROWS, COLUMNS), real_type)
        for d in range(D):
            at = (clip * D + d) * L
            bound = tl.load(elapsed + at + top - 1)
            since = (tl.load(elapsed + at + i, mask=row, other=bound) - bound).to(real_type)
            gates = tl.load(gate + at + i, mask=row, other=0)
            scales = tl.load(scale + at + j, mask=column, other=0)
            writes = write + clip * write_b + d // write_share * write_g
            reads = read + clip * read_b + d // read_share * read_g
            M = tl.zeros((ROWS, COLUMNS), real_type)
            for n0 in range(0, N, STATES):
                n = n0 + tl.arange(0, STATES)
                real = n < N
                A = tl.load(rate + d * N + n, mask=real, other=0)
                there = row[:, None] & real[None, :]
                C = tl.load(reads + n[None, :] * read_n + i[:, None] * read_l, mask=there, other=0)
                rows = tl.exp(A[None, :] * since[:, None]) * C * gates[:, None]
                columns = tl.zeros((STATES, COLUMNS), real_type)
                for tap in tl.static_range(TAPS):
                    m = j - AHEAD * tap
                    inside = column & (m >= 0)
                    until = (bound - tl.load(elapsed + at + m, mask=inside, other=bound)).to(real_type)
                    steps = tl.load(step + at + m, mask=inside, other=0)
                    factor = tl.load(taps + d * TAPS + tap) * tl.load(slope + at + m, mask=inside, other=0)
                    own = _own(writes, write_n, write_l, n, m, real, inside, steps, A, ELEMENTAL, INITIAL)
                    columns += factor[None, :] * tl.exp(A[:, None] * until[None, :]) * own
                columns *= scales[None, :]
                M = tl.dot(rows, columns, acc=M, input_precision="ieee", out_dtype=real_type)
            weight += M * M if SQUARES else tl.abs(M)
            if SIGNED:
                mean += M
        to = sums + (clip * (stop - start) + i[:, None] - start) * L + j[None, :]
        entry = row[:, None] & column[None, :]
        tl.store(to, weight, mask=entry)
        if SIGNED:
            tl.store(to + tl.cast(B, tl.int64) * (stop - start) * L, mean, mask=entry)


@triton.jit(do_not_specialize=VARYING)
def _near(
    sums, start, stop, elapsed, step, rate, gate, slope, scale, taps, skip, first,
    write, write_share, write_b, write_g, write_n, write_l, read, read_share, read_b, read_g, read_n, read_l,
    B, D, L, N, TAPS: tl.constexpr, AHEAD: tl.constexpr, SQUARES: tl.constexpr, SIGNED: tl.constexpr,
    ELEMENTAL: tl.constexpr, INITIAL: tl.constexpr, MASK: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, NEAR: tl.constexpr, STATES: tl.constexpr, NEAR_STATES: tl.constexpr,
):  # fmt: skip
    top = start + tl.program_id(0) * NEAR
    clip = tl.program_id(2).to(tl.int64)
    # The product ends here, as the tile of `_far` that holds these rows has it.
    end = start + tl.program_id(0) * NEAR // ROWS * ROWS - (TAPS - 1 if AHEAD == -1 else 0)
    i = top + tl.arange(0, NEAR)
    j = tl.maximum(end, 0) + tl.program_id(1) * NEAR + tl.arange(0, NEAR)
    row, column = i < stop, j < L
    real_type = step.dtype.element_ty
    weight = tl.zeros((NEAR, NEAR), real_type)
    mean = tl.zeros((NEAR, NEAR), real_type)
    for d in range(D):
        at = (clip * D + d) * L
        until_i = tl.load(elapsed + at + i, mask=row, other=0)
        writes = write + clip * write_b + d // write_share * write_g
        reads = read + clip * read_b + d // read_share * read_g
        diagonal = tl.load(skip + d)
        if MASK:
            diagonal += tl.where(i == 0, tl.load(first + clip * D + d), 0)[:, None]
        M = tl.zeros((NEAR, NEAR), real_type)
        for tap in range(TAPS):
            m = j - AHEAD * tap
            inside = column & (m >= 0) & (m < L)
            same = inside[None, :] & (m[None, :] == i[:, None])
            pair = row[:, None] & inside[None, :] & (m[None, :] <= i[:, None])
            if MASK:
                pair = pair & (m[None, :] != i[:, None])
            until_m = tl.load(elapsed + at + m, mask=inside, other=0)
            lag = tl.where(pair, until_i[:, None] - until_m[None, :], 0).to(real_type)
            steps = tl.load(step + at + m, mask=inside, other=0)
            alpha = tl.zeros((NEAR, NEAR), real_type)
            for n0 in range(0, N, NEAR_STATES):
                n = n0 + tl.arange(0, NEAR_STATES)
                real = n < N
                A = tl.load(rate + d * N + n, mask=real, other=0)
                there = real[:, None] & row[None, :]
                C = tl.load(reads + n[:, None] * read_n + i[None, :] * read_l, mask=there, other=0)
                own = _own(writes, write_n, write_l, n, m, real, inside, steps, A, ELEMENTAL, INITIAL)
                decay = tl.exp(A[:, None, None] * lag[None, :, :])
                alpha += tl.sum(C[:, :, None] * decay * own[:, None, :], axis=0)
            alpha = tl.where(pair, alpha, 0) + tl.where(same, diagonal, 0)
            factor = tl.load(taps + d * TAPS + tap) * tl.load(slope + at + m, mask=inside, other=0)
            M += factor[None, :] * alpha
        M *= tl.load(gate + at + i, mask=row, other=0)[:, None]
        M *= tl.load(scale + at + j, mask=column, other=0)[None, :]
        weight += M * M if SQUARES else tl.abs(M)
        if SIGNED:
            mean += M
    to = sums + (clip * (stop - start) + i[:, None] - start) * L + j[None, :]
    entry = row[:, None] & column[None, :]
    tl.store(to, weight, mask=entry)
    if SIGNED:
        tl.store(to + tl.cast(B, tl.int64) * (stop - start) * L, mean, mask=entry)
