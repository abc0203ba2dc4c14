"""The selective scan compiled for the CPU, forward and backward, float32 and float64.

A job is one batch item and up to `JOB` channels of one group, in blocks of as many channels as a vector has lanes.
The channels of a block go through the steps together: their numbers are brought into one vector a step, by loads where
channels are neighbours in memory and by transposing squares where steps are, and the innermost loop is over the states.
Jobs share nothing and are cut alike for any number of threads, so that the threads change no bit of the result. A
block does not cross groups: with fewer channels a group than lanes, as for constant B and C of shape (D, N), lanes go
unused; they hold zeros, which add nothing to the sums over channels.

The backward pass keeps the states at chunk boundaries, O(B D N L / CHUNK), and runs each chunk again before
it goes through it from the end. With G_t[n] the gradient that reaches h_t[n] from later steps and
c_t[n] = C_t[n] dy_t,

    thru_t = G_t + c_t                              the gradient of Abar_t h_{t-1}
    own_t  = thru_t, or G_t with the mask           the gradient of delta_t B_t u_t (+ Abar_t u_t)
    G_{t-1} = Abar_t thru_t
    e_t = Abar_t (thru_t h_{t-1} (+ own_t u_t))     the gradient of the exponent delta_t A

in which the terms in parentheses are those of residual "elemental". Source: ours, by the chain rule.
"""

import ctypes
import functools
import math
import pathlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from vmp.scan.call import ScanCall
from vmp.scan.vectors import (
    BYTES,
    LOG2_E,
    aligned,
    exp2,
    flush_denormals,
    fma,
    lanes,
    load,
    magnitude,
    maximum,
    minimum,
    prefetch,
    restore,
    splat,
    store,
    totals,
    transpose,
    where_positive,
)

# Steps of a chunk: those whose states the backward pass holds at once.
CHUNK = 32
# Channels of a job. A backward job sums its blocks' gradients of B and C before the lanes of the sum are added up.
JOB = 64
# State updates below which starting threads costs more than it saves.
SERIAL = 100_000

# Rows of a step in the scratch array, each a vector.
DELTA, U, Z, OUT, DU, DDELTA, DZ = range(7)
ROWS = 7
# Rows of a state.
RATE, H, G, DA = range(4)
FIELDS = 4
# Rows of a state at a step, for the backward pass: h before it, and Abar.
BEFORE, ABAR = range(2)
KEPT = 2


class Strided(NamedTuple):
    """A tensor (B, D, L) as the flat array beneath it and its strides; channels or steps are neighbours there."""

    data: np.ndarray
    strides: tuple[int, int, int]


def supports(call: ScanCall) -> str | None:
    """Why this backend cannot serve `call`: it runs on the CPU."""
    if call.u.device.type != "cpu":
        return f"u is on {call.u.device} and this backend runs on the CPU"
    return None


def scan(call: ScanCall) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """Output (B, D, L) and the state after the last step (B, D, N), both in `call.compute_dtype`.

    The output is laid out in memory as `u` is. Gradients by the hand-derived backward pass, once: they are not
    differentiable again.
    """
    h0 = call.initial_state()
    call = call.upcast()
    delta = call.delta if call.delta_bias is None else call.delta + call.delta_bias[:, None]
    if call.delta_softplus:
        delta = F.softplus(delta)
    D = call.u.new_zeros(call.u.shape[1]) if call.D is None else call.D
    B, C = call.B.transpose(2, 3), call.C.transpose(2, 3)
    tensors = (call.u, delta, call.A, B, C, D, h0, call.z)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return _Scan.apply(*tensors, call.residual == "elemental", call.mask_diagonal, call.reverse, keep)


class _Scan(torch.autograd.Function):
    """The gated output and the last state of a scan, from step sizes, rows (B or 1, G, L or 1, N) of B and C, and a
    first state."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Float[Tensor, "B D L"],
        delta: Float[Tensor, "B D L"],
        A: Float[Tensor, "D N"],
        B: Float[Tensor, "B1 GB L1 N"],
        C: Float[Tensor, "B2 GC L2 N"],
        D: Float[Tensor, "D"],
        h0: Float[Tensor, "B D N"],
        z: Float[Tensor, "B D L"] | None,
        elemental: bool,
        mask_diagonal: bool,
        reverse: bool,
        keep: bool,
    ) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
        batch, channels, length = u.shape
        states = A.shape[1]
        groups = math.lcm(B.shape[1], C.shape[1])
        u, delta = _laid_out(u), _laid_out(delta)
        z = None if z is None else _laid_out(z)
        A, B, C, D, h0 = (x.contiguous() for x in (A, B, C, D, h0))
        out = torch.empty_strided(u.shape, _dense_strides(u), dtype=u.dtype)
        last_state = torch.empty((batch, channels, states), dtype=u.dtype)
        width = lanes(_numpy(A).dtype)
        blocks = groups * math.ceil(channels // groups / width)
        chunks = math.ceil(length / CHUNK) if keep else 0
        boundaries = torch.empty(batch * chunks * blocks * states * width, dtype=u.dtype)
        sequences = [_strided(x) for x in (u, delta, u if z is None else z, out)]
        arrays = [_numpy(x) for x in (A, B, C, D, h0, last_state, boundaries)]
        kernel = _forward(elemental, mask_diagonal)
        size = (batch, channels, length)
        _run(kernel, size, groups, u.numel() * states, (*sequences, *arrays, z is not None, reverse))
        ctx.save_for_backward(u, delta, A, B, C, D, h0, boundaries, *(() if z is None else (z,)))
        ctx.options = (elemental, mask_diagonal, reverse)
        return out, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, h0, boundaries, *gate = ctx.saved_tensors
        elemental, mask_diagonal, reverse = ctx.options
        batch, channels, length = u.shape
        states = A.shape[1]
        groups = math.lcm(B.shape[1], C.shape[1])
        jobs = _jobs(channels, groups)
        dout = _laid_out(dout)
        z = gate[0] if gate else u
        du, ddelta, dz = (
            torch.empty_strided(x.shape, _dense_strides(x), dtype=u.dtype) for x in (u, delta, z)
        )
        dA = torch.empty((batch, channels, states), dtype=u.dtype)
        dB = torch.zeros((batch, jobs, B.shape[2], states), dtype=u.dtype)
        dC = torch.zeros((batch, jobs, C.shape[2], states), dtype=u.dtype)
        dD = torch.empty((batch, channels), dtype=u.dtype)
        dh0 = torch.empty_like(h0)
        sequences = [_strided(x) for x in (u, delta, z, dout, du, ddelta, dz)]
        arrays = [_numpy(x) for x in (A, B, C, D, boundaries, dlast.contiguous(), dA, dB, dC, dD, dh0)]
        kernel = _backward(elemental, mask_diagonal)
        size = (batch, channels, length)
        _run(kernel, size, groups, u.numel() * states, (*sequences, *arrays, bool(gate), reverse))
        dB, dC = _sum_jobs(dB, B), _sum_jobs(dC, C)
        gradients = (du, ddelta, dA.sum(0), dB, dC, dD.sum(0), dh0, dz if gate else None)
        return *gradients, None, None, None, None


def _sum_jobs(partial: Float[Tensor, "B jobs L1 N"], like: Float[Tensor, "B1 G L1 N"]) -> Tensor:
    """The gradient of `like` from what each job found of it."""
    groups = like.shape[1]
    summed = partial.unflatten(1, (groups, partial.shape[1] // groups)).sum(2)
    return summed.sum_to_size(like.shape)


def _laid_out(x: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
    """`x`, or a copy of it where neither channels nor steps are neighbours in memory."""
    return x if x.stride(1) == 1 or x.stride(2) == 1 else x.contiguous()


def _dense_strides(x: Float[Tensor, "B D L"]) -> tuple[int, int, int]:
    """Strides of a tensor without gaps whose channels are neighbours where those of `x` are."""
    _, channels, length = x.shape
    if x.stride(2) != 1 and x.stride(1) == 1:
        return (channels * length, 1, channels)
    return (channels * length, length, 1)


def _strided(x: Float[Tensor, "B D L"]) -> Strided:
    reach = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    flat = x.detach().as_strided((reach if x.numel() else 0,), (1,))
    by_item, by_channel, by_token = x.stride()
    return Strided(flat.numpy(), (by_item, by_channel, by_token))


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().numpy()


def _jobs(channels: int, groups: int) -> int:
    """Jobs a batch item."""
    return groups * math.ceil(channels // groups / JOB)


def _run(
    kernel: Callable[..., None],
    size: tuple[int, int, int],
    groups: int,
    updates: int,
    arguments: tuple[Any, ...],
) -> None:
    """Run all jobs, shared among as many threads as torch uses, and raise here what is raised in one of them."""
    jobs = size[0] * _jobs(size[1], groups)
    threads = 1 if updates < SERIAL else max(1, min(torch.get_num_threads(), jobs))
    failures: list[BaseException] = []

    def share(index: int) -> None:
        try:
            kernel(jobs * index // threads, jobs * (index + 1) // threads, size, groups, *arguments)
        except BaseException as error:
            failures.append(error)

    if threads == 1:
        share(0)
    else:
        _in_parallel(share, threads)
    if failures:
        raise failures[0]


_TEAM_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> Callable[..., None] | None:
    """GOMP_parallel of the OpenMP library that torch has loaded, or None where it comes with none of its own."""
    bundled = sorted(pathlib.Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    if len(bundled) != 1:
        return None
    function = ctypes.CDLL(str(bundled[0])).GOMP_parallel
    function.argtypes = (_TEAM_WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    function.restype = None
    return cast(Callable[..., None], function)


def _in_parallel(share: Callable[[int], None], threads: int) -> None:
    """Call `share` with 0, 1, ..., each in a thread of its own.

    The threads are those of torch's own OpenMP team where there is one. For some milliseconds after an operation of
    torch they wait for the next one in a busy loop, and other threads would have to share the cores with them.
    """
    openmp = _openmp()
    if openmp is not None:
        shares = iter(range(threads))

        def work(_: object) -> None:
            # The team may be smaller than asked for, so each of its threads takes shares until none is left.
            for index in shares:
                share(index)

        openmp(_TEAM_WORK(work), None, threads, 0)
        return
    others = [threading.Thread(target=share, args=(index,)) for index in range(1, threads)]
    for thread in others:
        thread.start()
    share(0)
    for thread in others:
        thread.join()


@njit(cache=True, error_model="numpy")
def _place(job, channels, groups, lanes):
    """The batch item of a job, its number within it, its first channel, the one after its last, and its first block."""
    width = channels // groups
    per_group = (width + JOB - 1) // JOB
    item, slot = divmod(job, groups * per_group)
    group, part = divmod(slot, per_group)
    first, last = group * width + part * JOB, group * width + min((part + 1) * JOB, width)
    return item, slot, first, last, group * ((width + lanes - 1) // lanes) + part * (JOB // lanes)


@njit(cache=True, error_model="numpy")
def _blocks(channels, groups, lanes):
    """Blocks of channels in a batch item."""
    return groups * ((channels // groups + lanes - 1) // lanes)


@njit(cache=True, error_model="numpy")
def _slots(N, lanes):
    """N rounded up to a power of two, or to a multiple of the lanes."""
    slots = 1
    while slots < min(N, lanes):
        slots *= 2
    return slots if slots >= N else (N + lanes - 1) // lanes * lanes


@njit(cache=True, error_model="numpy")
def _read(steps, row, sequence, item, channel, width, token, count):
    """Bring `count` tokens of `width` channels into one row of the steps, a vector a token."""
    values, (by_item, by_channel, by_token) = sequence
    lanes = len(steps) // (CHUNK * ROWS)
    begin = item * by_item + channel * by_channel + token * by_token
    done = 0
    if width == lanes and by_channel == 1:
        for done in range(count):
            store(steps, (done * ROWS + row) * lanes, load(values, begin + done * by_token))
        done = count
    elif width == lanes and by_token == 1:
        while done + lanes <= count:
            transpose(values, begin + done, by_channel, steps, (done * ROWS + row) * lanes, ROWS * lanes)
            done += lanes
    for t in range(done, count):
        for w in range(width):
            steps[(t * ROWS + row) * lanes + w] = values[begin + w * by_channel + t * by_token]


@njit(cache=True, error_model="numpy")
def _expect(sequence, item, channel, width, token, count, lanes):
    """Ask for what a later `_read` or `_write` will touch, so that the work of a chunk hides the way from memory."""
    values, (by_item, by_channel, by_token) = sequence
    begin = item * by_item + channel * by_channel + token * by_token
    if by_channel == 1:
        for t in range(count):
            prefetch(values, begin + t * by_token)
    else:
        for w in range(width):
            for t in range(0, count, lanes):
                prefetch(values, begin + w * by_channel + t)


@njit(cache=True, error_model="numpy")
def _write(steps, row, sequence, item, channel, width, token, count):
    """The way back from `_read`."""
    values, (by_item, by_channel, by_token) = sequence
    lanes = len(steps) // (CHUNK * ROWS)
    begin = item * by_item + channel * by_channel + token * by_token
    done = 0
    if width == lanes and by_channel == 1:
        for done in range(count):
            store(values, begin + done * by_token, load(steps, (done * ROWS + row) * lanes))
        done = count
    elif width == lanes and by_token == 1:
        while done + lanes <= count:
            transpose(steps, (done * ROWS + row) * lanes, ROWS * lanes, values, begin + done, by_channel)
            done += lanes
    for t in range(done, count):
        for w in range(width):
            values[begin + w * by_channel + t * by_token] = steps[(t * ROWS + row) * lanes + w]


@njit(cache=True, error_model="numpy")
def _begin(states, place, lanes, A, channel, width):
    """Make the states of a block of channels, from `place` on: A log2(e) in their row `RATE`, all else 0."""
    N = A.shape[1]
    states[place : place + N * FIELDS * lanes] = 0
    for n in range(N):
        for w in range(width):
            rate = A[channel + w, n] * A.dtype.type(LOG2_E)
            # `exp2` wants the NaN without a payload.
            states[place + (n * FIELDS + RATE) * lanes + w] = A.dtype.type(np.nan) if rate != rate else rate


@njit(cache=True, error_model="numpy")
def _extremes(states, place, lanes, N):
    """The largest and the smallest rate of each channel of a block."""
    high = low = load(states, place + RATE * lanes)
    for n in range(1, N):
        rate = load(states, place + (n * FIELDS + RATE) * lanes)
        high, low = maximum(rate, high), minimum(rate, low)
    return high, low


@njit(cache=True, error_model="numpy")
def _within_range(delta, high, low, limit, nan):
    """The step sizes, but NaN where an exponent is beyond the range of `exp2`: the state would grow, not decay."""
    return where_positive(maximum(delta * high, delta * low) - limit, nan, delta)


@njit(cache=True, error_model="numpy")
def _sigmoid(z, minus_log2_e, one):
    """s = 1 / (1 + exp(-z)) and 1 - s, neither by a difference."""
    small = exp2(magnitude(z) * minus_log2_e)
    larger = one / (one + small)
    smaller = small * larger
    return where_positive(z, larger, smaller), where_positive(z, smaller, larger)


@functools.cache
def _forward(elemental: bool, mask: bool) -> Callable[..., None]:
    """The kernel of the outputs and the last state. The options that its innermost loop depends on are compiled in."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def kernel(
        first_job, last_job, size, groups, u, delta, z, out,
        A, B, C, D, h0, last_state, boundaries, gated, reverse,
    ):  # fmt: skip
        _, channels, length = size
        N, number, lanes = A.shape[1], A.dtype.type, BYTES // A.itemsize
        one, nan = splat(number(1)), splat(number(np.nan))
        limit, minus_log2_e = splat(number(127 if A.itemsize == 4 else 1023)), splat(number(-LOG2_E))
        steps = aligned(CHUNK * ROWS * lanes, A.dtype)
        states = aligned(max(1, N) * FIELDS * lanes, A.dtype)
        skip = aligned(lanes, A.dtype)
        kept = len(boundaries) > 0
        blocks, chunks = _blocks(channels, groups, lanes), (length + CHUNK - 1) // CHUNK
        denormals = flush_denormals()
        for job in range(first_job, last_job):
            item, _, begin, end, block = _place(job, channels, groups, lanes)
            B_g = B[item % B.shape[0], begin * B.shape[1] // channels]
            C_g = C[item % C.shape[0], begin * C.shape[1] // channels]
            for first in range(begin, end, lanes):
                width = min(lanes, end - first)
                if width < lanes:
                    steps[:] = 0
                    skip[:] = 0
                _begin(states, 0, lanes, A, first, width)
                high, low = _extremes(states, 0, lanes, N)
                for w in range(width):
                    skip[w] = D[first + w]
                    for n in range(N):
                        states[(n * FIELDS + H) * lanes + w] = h0[item, first + w, n]
                direct = load(skip, 0)
                for chunk in range(chunks):
                    t0 = chunk * CHUNK
                    count = min(CHUNK, length - t0)
                    token = length - t0 - count if reverse else t0
                    if kept:
                        at = ((item * chunks + chunk) * blocks + block) * N * lanes
                        for n in range(N):
                            store(boundaries, at + n * lanes, load(states, (n * FIELDS + H) * lanes))
                    _read(steps, DELTA, delta, item, first, width, token, count)
                    _read(steps, U, u, item, first, width, token, count)
                    if gated:
                        _read(steps, Z, z, item, first, width, token, count)
                    ahead = token - CHUNK if reverse else token + CHUNK
                    if 0 <= ahead < length:
                        for sequence in (u, delta, out):
                            _expect(sequence, item, first, width, ahead, min(CHUNK, length - ahead), lanes)
                        if gated:
                            _expect(z, item, first, width, ahead, min(CHUNK, length - ahead), lanes)
                    for i in range(count):
                        t = count - 1 - i if reverse else i
                        step = t * ROWS * lanes
                        b_t = B_g[token + t if B_g.shape[0] > 1 else 0]
                        c_t = C_g[token + t if C_g.shape[0] > 1 else 0]
                        d = _within_range(load(steps, step + DELTA * lanes), high, low, limit, nan)
                        u_t = load(steps, step + U * lanes)
                        x = d * u_t
                        y = direct * u_t
                        for n in range(N):
                            state = n * FIELDS * lanes
                            Abar = exp2(d * load(states, state + RATE * lanes))
                            decayed = Abar * load(states, state + H * lanes)
                            b = splat(b_t[n])
                            after = fma(x, b, fma(Abar, u_t, decayed) if elemental else decayed)
                            store(states, state + H * lanes, after)
                            y = fma(splat(c_t[n]), decayed if mask else after, y)
                        if gated:
                            z_t = load(steps, step + Z * lanes)
                            y = y * (z_t * _sigmoid(z_t, minus_log2_e, one)[0])
                        store(steps, step + OUT * lanes, y)
                    _write(steps, OUT, out, item, first, width, token, count)
                for n in range(N):
                    for w in range(width):
                        last_state[item, first + w, n] = states[(n * FIELDS + H) * lanes + w]
                block += 1
        restore(denormals)

    return kernel


@functools.cache
def _backward(elemental: bool, mask: bool) -> Callable[..., None]:
    """The kernel of the gradients; B's and C's are sums over a job's channels."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def kernel(
        first_job, last_job, size, groups, u, delta, z, dout, du, ddelta, dz,
        A, B, C, D, boundaries, dlast, dA, dB, dC, dD, dh0, gated, reverse,
    ):  # fmt: skip
        _, channels, length = size
        N, number, lanes = A.shape[1], A.dtype.type, BYTES // A.itemsize
        zero, one, nan = splat(number(0)), splat(number(1)), splat(number(np.nan))
        limit, minus_log2_e = splat(number(127 if A.itemsize == 4 else 1023)), splat(number(-LOG2_E))
        ln_2 = splat(number(1 / LOG2_E))
        steps = aligned(CHUNK * ROWS * lanes, A.dtype)
        size_of_block = (N * FIELDS + 2) * lanes
        states = aligned((JOB // lanes) * size_of_block, A.dtype)
        trace = aligned((CHUNK + 1) * N * KEPT * lanes, A.dtype)
        over = N * KEPT * lanes  # from a step to the next in the trace
        # Terms of the gradients of B and C, a vector each, wait until there are as many as lanes; then the sums of
        # their lanes are taken together. Each step has `slots` of them, so that the steps that wait fill vectors.
        slots = _slots(N, lanes)
        waiting = max(1, lanes // slots)
        terms_B, terms_C = (
            aligned(waiting * slots * lanes, A.dtype),
            aligned(waiting * slots * lanes, A.dtype),
        )
        sums_B, sums_C = aligned((CHUNK + lanes) * slots, A.dtype), aligned((CHUNK + lanes) * slots, A.dtype)
        blocks, chunks = _blocks(channels, groups, lanes), (length + CHUNK - 1) // CHUNK
        SKIP, D_SKIP = N * FIELDS, N * FIELDS + 1
        denormals = flush_denormals()
        for job in range(first_job, last_job):
            item, slot, begin, end, first_block = _place(job, channels, groups, lanes)
            B_g = B[item % B.shape[0], begin * B.shape[1] // channels]
            C_g = C[item % C.shape[0], begin * C.shape[1] // channels]
            for first in range(begin, end, lanes):
                place = (first - begin) // lanes * size_of_block
                width = min(lanes, end - first)
                _begin(states, place, lanes, A, first, width)
                states[place + SKIP * lanes : place + size_of_block] = 0
                for w in range(width):
                    states[place + SKIP * lanes + w] = D[first + w]
                    for n in range(N):
                        states[place + (n * FIELDS + G) * lanes + w] = dlast[item, first + w, n]
            for chunk in range(chunks - 1, -1, -1):
                t0 = chunk * CHUNK
                count = min(CHUNK, length - t0)
                token = length - t0 - count if reverse else t0
                sums_B[:] = 0
                sums_C[:] = 0
                for first in range(begin, end, lanes):
                    number_of_block = (first - begin) // lanes
                    place = number_of_block * size_of_block
                    width = min(lanes, end - first)
                    if width < lanes:
                        steps[:] = 0
                    high, low = _extremes(states, place, lanes, N)
                    _read(steps, DELTA, delta, item, first, width, token, count)
                    _read(steps, U, u, item, first, width, token, count)
                    _read(steps, OUT, dout, item, first, width, token, count)
                    if gated:
                        _read(steps, Z, z, item, first, width, token, count)
                    at = ((item * chunks + chunk) * blocks + first_block + number_of_block) * N * lanes
                    for n in range(N):
                        store(trace, (n * KEPT + BEFORE) * lanes, load(boundaries, at + n * lanes))
                    direct = load(states, place + SKIP * lanes)
                    for i in range(count):
                        t = count - 1 - i if reverse else i
                        step, now = t * ROWS * lanes, i * over
                        b_t = B_g[token + t if B_g.shape[0] > 1 else 0]
                        c_t = C_g[token + t if C_g.shape[0] > 1 else 0]
                        d = _within_range(load(steps, step + DELTA * lanes), high, low, limit, nan)
                        u_t = load(steps, step + U * lanes)
                        x = d * u_t
                        y = direct * u_t
                        for n in range(N):
                            at = now + n * KEPT * lanes
                            Abar = exp2(d * load(states, place + (n * FIELDS + RATE) * lanes))
                            decayed = Abar * load(trace, at + BEFORE * lanes)
                            b = splat(b_t[n])
                            after = fma(x, b, fma(Abar, u_t, decayed) if elemental else decayed)
                            store(trace, at + ABAR * lanes, Abar)
                            store(trace, at + over + BEFORE * lanes, after)
                            if gated:
                                y = fma(splat(c_t[n]), decayed if mask else after, y)
                        if gated:
                            z_t, dout_t = load(steps, step + Z * lanes), load(steps, step + OUT * lanes)
                            s, rest = _sigmoid(z_t, minus_log2_e, one)
                            store(steps, step + DZ * lanes, dout_t * y * fma(z_t * s, rest, s))
                            store(steps, step + OUT * lanes, dout_t * (z_t * s))
                    ddirect = load(states, place + D_SKIP * lanes)
                    for i in range(count - 1, -1, -1):
                        t = count - 1 - i if reverse else i
                        step, now = t * ROWS * lanes, i * over
                        b_t = B_g[token + t if B_g.shape[0] > 1 else 0]
                        c_t = C_g[token + t if C_g.shape[0] > 1 else 0]
                        d, u_t = load(steps, step + DELTA * lanes), load(steps, step + U * lanes)
                        dy = load(steps, step + OUT * lanes)
                        x = d * u_t
                        term = i % waiting * slots * lanes
                        # Of x = delta u, of u through the residual, and of delta through the exponents.
                        dx = through = dexponent = zero
                        for n in range(N):
                            at, state = now + n * KEPT * lanes, place + n * FIELDS * lanes
                            Abar, before = load(trace, at + ABAR * lanes), load(trace, at + BEFORE * lanes)
                            g = load(states, state + G * lanes)
                            thru = fma(splat(c_t[n]), dy, g)
                            own = g if mask else thru
                            dx = fma(own, splat(b_t[n]), dx)
                            e = thru * before
                            if elemental:
                                e = fma(own, u_t, e)
                                through = fma(own, Abar, through)
                            e = e * Abar
                            dexponent = fma(e, load(states, state + RATE * lanes), dexponent)
                            store(states, state + DA * lanes, fma(e, d, load(states, state + DA * lanes)))
                            store(states, state + G * lanes, Abar * thru)
                            store(terms_B, term + n * lanes, own * x)
                            seen = Abar * before if mask else load(trace, at + over + BEFORE * lanes)
                            store(terms_C, term + n * lanes, dy * seen)
                        store(steps, step + DU * lanes, fma(dx, d, fma(direct, dy, through)))
                        store(steps, step + DDELTA * lanes, fma(dx, u_t, dexponent * ln_2))
                        ddirect = fma(dy, u_t, ddirect)
                        if i % waiting == 0:
                            for k in range(0, waiting * slots, lanes):
                                at = i * slots + k
                                store(sums_B, at, load(sums_B, at) + totals(terms_B, k * lanes))
                                store(sums_C, at, load(sums_C, at) + totals(terms_C, k * lanes))
                    store(states, place + D_SKIP * lanes, ddirect)
                    _write(steps, DU, du, item, first, width, token, count)
                    _write(steps, DDELTA, ddelta, item, first, width, token, count)
                    if gated:
                        _write(steps, DZ, dz, item, first, width, token, count)
                for i in range(count):
                    t = count - 1 - i if reverse else i
                    at_B = token + t if B_g.shape[0] > 1 else 0
                    at_C = token + t if C_g.shape[0] > 1 else 0
                    for n in range(N):
                        dB[item, slot, at_B, n] += sums_B[i * slots + n]
                        dC[item, slot, at_C, n] += sums_C[i * slots + n]
            for first in range(begin, end, lanes):
                place = (first - begin) // lanes * size_of_block
                for w in range(min(lanes, end - first)):
                    dD[item, first + w] = states[place + D_SKIP * lanes + w]
                    for n in range(N):
                        dA[item, first + w, n] = states[place + (n * FIELDS + DA) * lanes + w]
                        dh0[item, first + w, n] = states[place + (n * FIELDS + G) * lanes + w]
        restore(denormals)

    return kernel
