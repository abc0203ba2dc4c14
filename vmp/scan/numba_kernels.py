"""The compiled kernels of `vmp.scan.numba_cpu`, forward and backward.

A job is one batch item and up to `JOB` channels of one group, in blocks of as many channels as a vector has lanes.
The channels of a block go through the steps together: the numbers of a step are brought into one vector, by loads where
channels are neighbours in memory and by transposing squares where steps are, and the innermost loop is over the states.
Jobs share nothing and are cut alike for any number of threads, so the number of threads changes no bit of the result.
A block does not cross groups. Where a group has fewer channels than there are lanes, as for constant B and C of shape
(D, N), lanes go unused; they hold zeros, which add nothing to the sums over channels.

The states at chunk boundaries are kept, O(B D N L / CHUNK), and the backward pass runs each chunk again before it goes
through it from the end. With G_t[n] the gradient that reaches h_t[n] from later steps and c_t[n] = C_t[n] dy_t, which
is 0 at the first step of a scan with a silent start,

    thru_t = G_t + c_t                              the gradient of Abar_t h_{t-1}
    own_t  = thru_t, or G_t with the mask           the gradient of delta_t B_t u_t (+ Abar_t u_t)
    G_{t-1} = Abar_t thru_t
    e_t = Abar_t (thru_t h_{t-1} (+ own_t u_t))     the gradient of the exponent delta_t A

in which the terms in parentheses are those of the residual "elemental". Source: ours, by the chain rule.
"""

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types

from vmp.scan.jobs import COLUMNS, DONE, JOBS, NEXT
from vmp.scan.vectors import (
    BYTES,
    LOG2_E,
    aligned,
    exp2,
    flush_denormals,
    fma,
    load,
    magnitude,
    maximum,
    minimum,
    pointer,
    prefetch,
    restore,
    splat,
    store,
    take,
    totals,
    transpose,
    where_positive,
)

# Steps of a chunk: those whose states the backward pass holds at once.
CHUNK = 32
# Channels of a job. A backward job sums its blocks' gradients of B and C before the lanes of the sum are added up.
JOB = 64
# Rows of a step in the scratch array, each a vector; the forward pass has the first four.
DELTA, U, Z, OUT, DU, DDELTA, DZ = range(7)
FORWARD_ROWS, BACKWARD_ROWS = 4, 7
# Rows of a state: h in the forward pass, in the backward pass its gradient and that of its rate.
RATE, H = range(2)
_, G, DA = range(3)
FORWARD_FIELDS, BACKWARD_FIELDS = 2, 3
# Rows of a state at a step, for the backward pass: h before it, and Abar.
BEFORE, ABAR = range(2)
KEPT = 2


@njit(cache=True, error_model="numpy")
def _place(job, channels, groups, lanes):
    """Return a job's batch item, its number within it, its first channel, the one after its last, and first block."""
    width = channels // groups
    per_group = (width + JOB - 1) // JOB
    item, slot = divmod(job, groups * per_group)
    group, part = divmod(slot, per_group)
    first, last = group * width + part * JOB, group * width + min((part + 1) * JOB, width)
    return item, slot, first, last, group * ((width + lanes - 1) // lanes) + part * (JOB // lanes)


@njit(cache=True, error_model="numpy")
def _blocks(channels, groups, lanes):
    """Return the number of blocks of channels in a batch item."""
    return groups * ((channels // groups + lanes - 1) // lanes)


@njit(cache=True, error_model="numpy")
def _slots(N, lanes):
    """Return N rounded up to a power of two, or to a multiple of the lanes."""
    slots = 1
    while slots < min(N, lanes):
        slots *= 2
    return slots if slots >= N else (N + lanes - 1) // lanes * lanes


@njit(cache=True, error_model="numpy")
def _read(steps, rows, row, sequence, item, channel, width, token, count):
    """Bring `count` tokens of `width` channels into one row of the steps, one vector for each token."""
    values, (by_item, by_channel, by_token) = sequence
    lanes = len(steps) // (CHUNK * rows)
    begin = item * by_item + channel * by_channel + token * by_token
    done = 0
    if width == lanes and by_channel == 1:
        for done in range(count):
            store(steps, (done * rows + row) * lanes, load(values, begin + done * by_token))
        done = count
    elif width == lanes and by_token == 1:
        while done + lanes <= count:
            transpose(values, begin + done, by_channel, steps, (done * rows + row) * lanes, rows * lanes)
            done += lanes
    for t in range(done, count):
        for w in range(width):
            steps[(t * rows + row) * lanes + w] = values[begin + w * by_channel + t * by_token]


@njit(cache=True, error_model="numpy")
def _expect(sequence, item, channel, width, token, count, lanes):
    """Prefetch what a later `_read` or `_write` will touch, so that the work of a chunk hides the latency of memory."""
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
def _write(steps, rows, row, sequence, item, channel, width, token, count):
    """Write one row of the steps back to memory: the inverse of `_read`."""
    values, (by_item, by_channel, by_token) = sequence
    lanes = len(steps) // (CHUNK * rows)
    begin = item * by_item + channel * by_channel + token * by_token
    done = 0
    if width == lanes and by_channel == 1:
        for done in range(count):
            store(values, begin + done * by_token, load(steps, (done * rows + row) * lanes))
        done = count
    elif width == lanes and by_token == 1:
        while done + lanes <= count:
            transpose(steps, (done * rows + row) * lanes, rows * lanes, values, begin + done, by_channel)
            done += lanes
    for t in range(done, count):
        for w in range(width):
            values[begin + w * by_channel + t * by_token] = steps[(t * rows + row) * lanes + w]


@njit(cache=True, error_model="numpy")
def _begin(states, fields, place, lanes, A, channel, width):
    """Fill the states of a block of channels, from `place` on: A log2(e) in their row `RATE`, and 0 elsewhere."""
    N = A.shape[1]
    states[place : place + N * fields * lanes] = 0
    for n in range(N):
        for w in range(width):
            rate = A[channel + w, n] * A.dtype.type(LOG2_E)
            # `exp2` wants the NaN without a payload.
            states[place + (n * fields + RATE) * lanes + w] = A.dtype.type(np.nan) if rate != rate else rate


@njit(cache=True, error_model="numpy")
def _extremes(states, fields, place, lanes, N):
    """Return the largest and the smallest rate of each channel of a block."""
    high = low = load(states, place + RATE * lanes)
    for n in range(1, N):
        rate = load(states, place + (n * fields + RATE) * lanes)
        high, low = maximum(rate, high), minimum(rate, low)
    return high, low


@njit(cache=True, error_model="numpy")
def _within_range(delta, high, low, limit, nan):
    """Return the step sizes, but NaN where an exponent is beyond the range of `exp2`, as the state would grow."""
    return where_positive(maximum(delta * high, delta * low) - limit, nan, delta)


@njit(cache=True, error_model="numpy")
def _sigmoid(z, minus_log2_e, one):
    """Return s = 1 / (1 + exp(-z)) and 1 - s, neither of them by a difference."""
    small = exp2(magnitude(z) * minus_log2_e)
    larger = one / (one + small)
    smaller = small * larger
    return where_positive(z, larger, smaller), where_positive(z, smaller, larger)


@njit(error_model="numpy")
def _sequence(table, row, number):
    """Return a tensor (B, D, L) as the flat array beneath it and its strides, of which one is 1."""
    strides = (table[row, 2], table[row, 3], table[row, 4])
    return carray(pointer(table[row, 0]), (table[row, 1],), number), strides


@njit(error_model="numpy")
def _one_axis(table, row, number):
    return carray(pointer(table[row, 0]), (table[row, 1],), number)


@njit(error_model="numpy")
def _two_axes(table, row, number):
    return carray(pointer(table[row, 0]), (table[row, 1], table[row, 2]), number)


@njit(error_model="numpy")
def _three_axes(table, row, number):
    return carray(pointer(table[row, 0]), (table[row, 1], table[row, 2], table[row, 3]), number)


@njit(error_model="numpy")
def _four_axes(table, row, number):
    shape = (table[row, 1], table[row, 2], table[row, 3], table[row, 4])
    return carray(pointer(table[row, 0]), shape, number)


@functools.cache
def forward(number: type, elemental: bool, mask: bool) -> Any:
    """Return the kernel of the outputs and the last state, for arrays of the type `number`.

    The rows of its table, after the counters, are (D, L, groups, whether there is a gate, whether in reverse, whether
    the start is silent); the sequences u, delta, z and out; the arrays A, B, C, D, h0, last_state and boundaries.
    """

    @cfunc(types.void(types.voidptr), cache=True, error_model="numpy")
    def kernel(address):
        counters, table = carray(address, (COLUMNS,), np.int64), carray(address, (13, COLUMNS), np.int64)
        channels, length, groups = table[1, 0], table[1, 1], table[1, 2]
        gated, reverse, silent = table[1, 3] != 0, table[1, 4] != 0, table[1, 5] != 0
        u, delta, z = _sequence(table, 2, number), _sequence(table, 3, number), _sequence(table, 4, number)
        out = _sequence(table, 5, number)
        A, D = _two_axes(table, 6, number), _one_axis(table, 9, number)
        B, C = _four_axes(table, 7, number), _four_axes(table, 8, number)
        h0, last_state = _three_axes(table, 10, number), _three_axes(table, 11, number)
        boundaries = _one_axis(table, 12, number)
        N, lanes = A.shape[1], BYTES // A.itemsize
        one, nan = splat(number(1)), splat(number(np.nan))
        limit, minus_log2_e = splat(number(127 if A.itemsize == 4 else 1023)), splat(number(-LOG2_E))
        steps = aligned(CHUNK * FORWARD_ROWS * lanes, A.dtype)
        states = aligned(max(1, N) * FORWARD_FIELDS * lanes, A.dtype)
        skip = aligned(lanes, A.dtype)
        kept = len(boundaries) > 0
        blocks, chunks = _blocks(channels, groups, lanes), (length + CHUNK - 1) // CHUNK
        denormals = flush_denormals()
        job = take(counters, NEXT)
        while job < counters[JOBS]:
            item, _, begin, end, block = _place(job, channels, groups, lanes)
            B_g = B[item % B.shape[0], begin * B.shape[1] // channels]
            C_g = C[item % C.shape[0], begin * C.shape[1] // channels]
            for first in range(begin, end, lanes):
                width = min(lanes, end - first)
                if width < lanes:
                    steps[:] = 0
                    skip[:] = 0
                _begin(states, FORWARD_FIELDS, 0, lanes, A, first, width)
                high, low = _extremes(states, FORWARD_FIELDS, 0, lanes, N)
                for w in range(width):
                    skip[w] = D[first + w]
                    for n in range(N):
                        states[(n * FORWARD_FIELDS + H) * lanes + w] = h0[item, first + w, n]
                direct = load(skip, 0)
                for chunk in range(chunks):
                    t0 = chunk * CHUNK
                    count = min(CHUNK, length - t0)
                    token = length - t0 - count if reverse else t0
                    if kept:
                        at = ((item * chunks + chunk) * blocks + block) * N * lanes
                        for n in range(N):
                            store(boundaries, at + n * lanes, load(states, (n * FORWARD_FIELDS + H) * lanes))
                    _read(steps, FORWARD_ROWS, DELTA, delta, item, first, width, token, count)
                    _read(steps, FORWARD_ROWS, U, u, item, first, width, token, count)
                    if gated:
                        _read(steps, FORWARD_ROWS, Z, z, item, first, width, token, count)
                    ahead = token - CHUNK if reverse else token + CHUNK
                    if 0 <= ahead < length:
                        for sequence in (u, delta, out):
                            _expect(sequence, item, first, width, ahead, min(CHUNK, length - ahead), lanes)
                        if gated:
                            _expect(z, item, first, width, ahead, min(CHUNK, length - ahead), lanes)
                    for i in range(count):
                        t = count - 1 - i if reverse else i
                        step = t * FORWARD_ROWS * lanes
                        b_t = B_g[token + t if B_g.shape[0] > 1 else 0]
                        c_t = C_g[token + t if C_g.shape[0] > 1 else 0]
                        d = _within_range(load(steps, step + DELTA * lanes), high, low, limit, nan)
                        u_t = load(steps, step + U * lanes)
                        x = d * u_t
                        y = direct * u_t
                        for n in range(N):
                            state = n * FORWARD_FIELDS * lanes
                            Abar = exp2(d * load(states, state + RATE * lanes))
                            decayed = Abar * load(states, state + H * lanes)
                            b = splat(b_t[n])
                            after = fma(x, b, fma(Abar, u_t, decayed) if elemental else decayed)
                            store(states, state + H * lanes, after)
                            y = fma(splat(c_t[n]), decayed if mask else after, y)
                        if silent and t0 + i == 0:
                            y = direct * u_t
                        if gated:
                            z_t = load(steps, step + Z * lanes)
                            y = y * (z_t * _sigmoid(z_t, minus_log2_e, one)[0])
                        store(steps, step + OUT * lanes, y)
                    _write(steps, FORWARD_ROWS, OUT, out, item, first, width, token, count)
                for n in range(N):
                    for w in range(width):
                        last_state[item, first + w, n] = states[(n * FORWARD_FIELDS + H) * lanes + w]
                block += 1
            take(counters, DONE)
            job = take(counters, NEXT)
        restore(denormals)

    return kernel


@functools.cache
def backward(number: type, elemental: bool, mask: bool) -> Any:
    """Return the kernel of the gradients; those of B and C are sums over a job's channels.

    The rows of its table, after the counters, are that of sizes as for `forward`; the sequences u, delta, z, dout, du,
    ddelta and dz; the arrays A, B, C, D, boundaries, dlast, dA, dB, dC, dD and dh0.
    """

    @cfunc(types.void(types.voidptr), cache=True, error_model="numpy")
    def kernel(address):
        counters, table = carray(address, (COLUMNS,), np.int64), carray(address, (20, COLUMNS), np.int64)
        channels, length, groups = table[1, 0], table[1, 1], table[1, 2]
        gated, reverse, silent = table[1, 3] != 0, table[1, 4] != 0, table[1, 5] != 0
        u, delta, z = _sequence(table, 2, number), _sequence(table, 3, number), _sequence(table, 4, number)
        dout, du = _sequence(table, 5, number), _sequence(table, 6, number)
        ddelta, dz = _sequence(table, 7, number), _sequence(table, 8, number)
        A, D, boundaries = (
            _two_axes(table, 9, number),
            _one_axis(table, 12, number),
            _one_axis(table, 13, number),
        )
        B, C = _four_axes(table, 10, number), _four_axes(table, 11, number)
        dlast, dA, dh0 = (
            _three_axes(table, 14, number),
            _three_axes(table, 15, number),
            _three_axes(table, 19, number),
        )
        dB, dC, dD = (
            _four_axes(table, 16, number),
            _four_axes(table, 17, number),
            _two_axes(table, 18, number),
        )
        N, lanes = A.shape[1], BYTES // A.itemsize
        zero, one, nan = splat(number(0)), splat(number(1)), splat(number(np.nan))
        limit, minus_log2_e = splat(number(127 if A.itemsize == 4 else 1023)), splat(number(-LOG2_E))
        ln_2 = splat(number(1 / LOG2_E))
        steps = aligned(CHUNK * BACKWARD_ROWS * lanes, A.dtype)
        size_of_block = (N * BACKWARD_FIELDS + 2) * lanes
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
        SKIP, D_SKIP = N * BACKWARD_FIELDS, N * BACKWARD_FIELDS + 1
        denormals = flush_denormals()
        job = take(counters, NEXT)
        while job < counters[JOBS]:
            item, slot, begin, end, first_block = _place(job, channels, groups, lanes)
            B_g = B[item % B.shape[0], begin * B.shape[1] // channels]
            C_g = C[item % C.shape[0], begin * C.shape[1] // channels]
            for first in range(begin, end, lanes):
                place = (first - begin) // lanes * size_of_block
                width = min(lanes, end - first)
                _begin(states, BACKWARD_FIELDS, place, lanes, A, first, width)
                states[place + SKIP * lanes : place + size_of_block] = 0
                for w in range(width):
                    states[place + SKIP * lanes + w] = D[first + w]
                    for n in range(N):
                        states[place + (n * BACKWARD_FIELDS + G) * lanes + w] = dlast[item, first + w, n]
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
                    high, low = _extremes(states, BACKWARD_FIELDS, place, lanes, N)
                    _read(steps, BACKWARD_ROWS, DELTA, delta, item, first, width, token, count)
                    _read(steps, BACKWARD_ROWS, U, u, item, first, width, token, count)
                    _read(steps, BACKWARD_ROWS, OUT, dout, item, first, width, token, count)
                    if gated:
                        _read(steps, BACKWARD_ROWS, Z, z, item, first, width, token, count)
                    at = ((item * chunks + chunk) * blocks + first_block + number_of_block) * N * lanes
                    for n in range(N):
                        store(trace, (n * KEPT + BEFORE) * lanes, load(boundaries, at + n * lanes))
                    direct = load(states, place + SKIP * lanes)
                    for i in range(count):
                        t = count - 1 - i if reverse else i
                        step, now = t * BACKWARD_ROWS * lanes, i * over
                        b_t = B_g[token + t if B_g.shape[0] > 1 else 0]
                        c_t = C_g[token + t if C_g.shape[0] > 1 else 0]
                        d = _within_range(load(steps, step + DELTA * lanes), high, low, limit, nan)
                        u_t = load(steps, step + U * lanes)
                        x = d * u_t
                        y = direct * u_t
                        for n in range(N):
                            at = now + n * KEPT * lanes
                            Abar = exp2(d * load(states, place + (n * BACKWARD_FIELDS + RATE) * lanes))
                            decayed = Abar * load(trace, at + BEFORE * lanes)
                            b = splat(b_t[n])
                            after = fma(x, b, fma(Abar, u_t, decayed) if elemental else decayed)
                            store(trace, at + ABAR * lanes, Abar)
                            store(trace, at + over + BEFORE * lanes, after)
                            if gated:
                                y = fma(splat(c_t[n]), decayed if mask else after, y)
                        if silent and t0 + i == 0:
                            y = direct * u_t
                        if gated:
                            z_t, dout_t = load(steps, step + Z * lanes), load(steps, step + OUT * lanes)
                            s, rest = _sigmoid(z_t, minus_log2_e, one)
                            store(steps, step + DZ * lanes, dout_t * y * fma(z_t * s, rest, s))
                            store(steps, step + OUT * lanes, dout_t * (z_t * s))
                    ddirect = load(states, place + D_SKIP * lanes)
                    for i in range(count - 1, -1, -1):
                        t = count - 1 - i if reverse else i
                        step, now = t * BACKWARD_ROWS * lanes, i * over
                        b_t = B_g[token + t if B_g.shape[0] > 1 else 0]
                        c_t = C_g[token + t if C_g.shape[0] > 1 else 0]
                        d, u_t = load(steps, step + DELTA * lanes), load(steps, step + U * lanes)
                        dy = load(steps, step + OUT * lanes)
                        dread = zero if silent and t0 + i == 0 else dy
                        x = d * u_t
                        term = i % waiting * slots * lanes
                        # Of x = delta u, of u through the residual, and of delta through the exponents.
                        dx = through = dexponent = zero
                        for n in range(N):
                            at, state = now + n * KEPT * lanes, place + n * BACKWARD_FIELDS * lanes
                            Abar, before = load(trace, at + ABAR * lanes), load(trace, at + BEFORE * lanes)
                            g = load(states, state + G * lanes)
                            thru = fma(splat(c_t[n]), dread, g)
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
                            store(terms_C, term + n * lanes, dread * seen)
                        store(steps, step + DU * lanes, fma(dx, d, fma(direct, dy, through)))
                        store(steps, step + DDELTA * lanes, fma(dx, u_t, dexponent * ln_2))
                        ddirect = fma(dy, u_t, ddirect)
                        if i % waiting == 0:
                            for k in range(0, waiting * slots, lanes):
                                at = i * slots + k
                                store(sums_B, at, load(sums_B, at) + totals(terms_B, k * lanes))
                                store(sums_C, at, load(sums_C, at) + totals(terms_C, k * lanes))
                    store(states, place + D_SKIP * lanes, ddirect)
                    _write(steps, BACKWARD_ROWS, DU, du, item, first, width, token, count)
                    _write(steps, BACKWARD_ROWS, DDELTA, ddelta, item, first, width, token, count)
                    if gated:
                        _write(steps, BACKWARD_ROWS, DZ, dz, item, first, width, token, count)
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
                        dA[item, first + w, n] = states[place + (n * BACKWARD_FIELDS + DA) * lanes + w]
                        dh0[item, first + w, n] = states[place + (n * BACKWARD_FIELDS + G) * lanes + w]
            take(counters, DONE)
            job = take(counters, NEXT)
        restore(denormals)

    return kernel
