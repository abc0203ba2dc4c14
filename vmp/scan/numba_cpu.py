"""The selective scan compiled for the CPU, forward and backward, float32 and float64.

A kernel call takes one job: one batch item and up to `JOB` channels of one group, in blocks of `LANES`
channels. The channels of a block fill vector registers, so the innermost loop is over them; the states of a
channel stay in the cache. Jobs share nothing and are cut alike for any number of threads, so that the threads
change no bit of the result. A block does not cross groups: with fewer than `LANES` channels a group, as for
constant B and C of shape (D, N), lanes go unused; they hold zeros, which add nothing to the sums over
channels.

The backward pass keeps the states at chunk boundaries, O(B D N L / CHUNK), and runs each chunk again before
it goes through it from the end. With G_t[n] the gradient that reaches h_t[n] from later steps and
c_t[n] = C_t[n] dy_t,

    thru_t = G_t + c_t                              the gradient of Abar_t h_{t-1}
    own_t  = thru_t, or G_t with the mask           the gradient of delta_t B_t u_t (+ Abar_t u_t)
    G_{t-1} = Abar_t thru_t
    e_t = Abar_t (thru_t h_{t-1} (+ own_t u_t))     the gradient of the exponent delta_t A

in which the terms in parentheses are those of residual "elemental". Source: ours, by the chain rule.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor
from torch.autograd.function import once_differentiable

from vmp.scan.call import ScanCall

CHUNK = 64
# Channels of a block and of a job, forward and backward. The backward pass keeps more for each lane.
LANES, JOB = 32, 64
BACKWARD_LANES, BACKWARD_JOB = 16, 32
# State updates below which starting threads costs more than it saves.
SERIAL = 200_000

# Rows of the scratch arrays. One array with constant offsets, rather than an array for each row, lets the
# compiler see that the rows do not overlap, without which it does not vectorise.
DELTA, U, X, Y, DY, DDELTA, DU = range(7)  # of a step; X is delta u
A_, H, G, DA = range(4)  # of a state
BEFORE, ABAR = range(2)  # of a state at a step

LOG2_E = 1.4426950408889634


def supports(call: ScanCall) -> str | None:
    """Why this backend cannot serve `call`: it runs on the CPU."""
    if call.u.device.type != "cpu":
        return f"u is on {call.u.device} and this backend runs on the CPU"
    return None


def scan(call: ScanCall) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """Output (B, D, L) and the state after the last step (B, D, N), both in `call.compute_dtype`.

    Gradients by the hand-derived backward pass, once: they are not differentiable again.
    """
    h0 = call.initial_state()
    call = call.upcast()
    delta = call.delta if call.delta_bias is None else call.delta + call.delta_bias[:, None]
    if call.delta_softplus:
        delta = F.softplus(delta)
    D = call.u.new_zeros(call.u.shape[1]) if call.D is None else call.D
    B, C = call.B.transpose(2, 3), call.C.transpose(2, 3)
    tensors = (call.u, delta, call.A, B, C, D, h0)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    options = (call.residual == "elemental", call.mask_diagonal, call.reverse)
    out, last_state = _Scan.apply(*tensors, *options, keep)
    if call.z is not None:
        out = out * F.silu(call.z)
    return out, last_state


class _Scan(torch.autograd.Function):
    """y and the last state of a scan, from step sizes, rows (B or 1, G, L or 1, N) of B and C, and a first state."""

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
        elemental: bool,
        mask_diagonal: bool,
        reverse: bool,
        keep: bool,
    ) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
        inputs = [x.contiguous() for x in (u, delta, A, B, C, D, h0)]
        batch, channels, length = u.shape
        states = A.shape[1]
        chunks = math.ceil(length / CHUNK) if keep else 0
        y = torch.empty((batch, channels, length), dtype=u.dtype)
        last_state = torch.empty((batch, channels, states), dtype=u.dtype)
        boundaries = torch.empty((batch, chunks, channels, states), dtype=u.dtype)
        options = (elemental, mask_diagonal, reverse)
        groups = math.lcm(B.shape[1], C.shape[1])
        arrays = _arrays(*inputs, y, last_state, boundaries)
        _run(_forward, batch * _jobs(channels, groups, JOB), y.numel() * states, (groups, *arrays, *options))
        ctx.save_for_backward(*inputs, boundaries)
        ctx.options = options
        return y, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, boundaries = ctx.saved_tensors
        u, _, A, B, C, *_ = inputs
        batch, channels, _ = u.shape
        states = A.shape[1]
        groups = math.lcm(B.shape[1], C.shape[1])
        jobs = _jobs(channels, groups, BACKWARD_JOB)
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
        dA = torch.empty((batch, channels, states), dtype=u.dtype)
        dB = torch.zeros((batch, jobs, B.shape[2], states), dtype=u.dtype)
        dC = torch.zeros((batch, jobs, C.shape[2], states), dtype=u.dtype)
        dD = torch.empty((batch, channels), dtype=u.dtype)
        dh0 = torch.empty((batch, channels, states), dtype=u.dtype)
        arrays = _arrays(*inputs, boundaries, dy.contiguous(), dlast.contiguous())
        gradients = _arrays(du, ddelta, dA, dB, dC, dD, dh0)
        _run(_backward, batch * jobs, u.numel() * states, (groups, *arrays, *gradients, *ctx.options))
        dB, dC = _sum_jobs(dB, B), _sum_jobs(dC, C)
        return du, ddelta, dA.sum(0), dB, dC, dD.sum(0), dh0, None, None, None, None


def _sum_jobs(partial: Float[Tensor, "B jobs L1 N"], like: Float[Tensor, "B1 G L1 N"]) -> Tensor:
    """The gradient of `like` from what each job found of it."""
    groups = like.shape[1]
    summed = partial.unflatten(1, (groups, partial.shape[1] // groups)).sum(2)
    return summed.sum_to_size(like.shape)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().numpy() for x in tensors]


def _jobs(channels: int, groups: int, size: int) -> int:
    """Jobs a batch item."""
    return groups * math.ceil(channels // groups / size)


def _run(kernel: Callable[..., None], jobs: int, updates: int, arguments: tuple[Any, ...]) -> None:
    """Run the jobs on as many threads as torch uses. Threads live for one call, so that no fork loses
    them.
    """
    threads = min(torch.get_num_threads(), jobs)
    if threads < 2 or updates < SERIAL:
        for job in range(jobs):
            kernel(job, *arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda job: kernel(job, *arguments), range(jobs)))


@intrinsic
def _times_power_of_two(context, mantissa, shifted):
    """mantissa 2^k by adding k to the exponent's bits, where k stands in the lowest bits of `shifted`."""

    def codegen(context, builder, signature, arguments):
        bits, position = (ir.IntType(32), 23) if mantissa == types.float32 else (ir.IntType(64), 52)
        value, power = (builder.bitcast(argument, bits) for argument in arguments)
        raised = builder.add(value, builder.shl(power, ir.Constant(bits, position)))
        return builder.bitcast(raised, arguments[0].type)

    return mantissa(mantissa, shifted), codegen


def _exp(x):
    """exp(x) in the precision of x, for kernels.

    x log2(e) = k + f with k an integer and |f| <= 1/2; 2^f = 1 + f q(f) with q fitted by Remez exchange
    (relative error 2e-9 of degree 6 in float32, 4e-18 of degree 11 in float64, both below rounding). The
    relative error is under (2 + |x|) 2^-23 in float32 and (2 + |x|) 2^-52 in float64, which come from
    rounding x log2(e). Results that would not be normal numbers are 0 within the smallest normal one, exactly
    0 from 2^-127 (2^-1023) down; within that error of the largest number and above it they are infinite. NaN
    stays NaN.
    """
    return math.exp(x)


@overload(_exp, jit_options={"fastmath": {"contract"}})
def _exp_overload(x):
    return _exp_float32 if x == types.float32 else _exp_float64


def _exp_float32(x):
    x *= np.float32(LOG2_E)
    x = np.float32(-127.0) if x < np.float32(-127.0) else x
    x = np.float32(128.0) if x > np.float32(128.0) else x
    shifted = x + np.float32(1.5 * 2**23)
    f = x - (shifted - np.float32(1.5 * 2**23))
    p = np.float32(1.5353362e-04)
    p = p * f + np.float32(1.3398874e-03)
    p = p * f + np.float32(9.618437e-03)
    p = p * f + np.float32(5.5503324e-02)
    p = p * f + np.float32(2.4022648e-01)
    p = p * f + np.float32(6.931472e-01)
    p = p * f + np.float32(1.0)
    return _times_power_of_two(p, shifted)  # type: ignore[call-arg]  # numba passes the context


def _exp_float64(x):
    x *= LOG2_E
    x = -1023.0 if x < -1023.0 else x
    x = 1024.0 if x > 1024.0 else x
    shifted = x + 1.5 * 2**52
    f = x - (shifted - 1.5 * 2**52)
    p = 4.4347689286262757e-10
    p = p * f + 7.073783184458317e-09
    p = p * f + 1.0178199586447909e-07
    p = p * f + 1.3215435282680663e-06
    p = p * f + 1.525273349309594e-05
    p = p * f + 1.5403530457111362e-04
    p = p * f + 1.3333558146774649e-03
    p = p * f + 9.61812910759412e-03
    p = p * f + 5.5504108664820084e-02
    p = p * f + 2.402265069591013e-01
    p = p * f + 6.931471805599453e-01
    p = p * f + 1.0
    return _times_power_of_two(p, shifted)  # type: ignore[call-arg]  # numba passes the context


@njit(cache=True)
def _place(job, groups, channels, size):
    """The batch item of a job, its number within it, and its first channel and the one after its last."""
    width = channels // groups
    per_group = (width + size - 1) // size
    item, slot = divmod(job, groups * per_group)
    first = slot // per_group * width + slot % per_group * size
    return item, slot, first, min(first + size, (slot // per_group + 1) * width)


@njit(cache=True)
def _load(steps, row, values, begin, count):
    """Put the values of a block's channels at `count` tokens into one row of the steps."""
    for w in range(values.shape[0]):
        tokens = values[w, begin : begin + count]
        for t in range(count):
            steps[t, row, w] = tokens[t]


@njit(cache=True)
def _store(steps, row, values, begin, count):
    """The way back from `_load`."""
    for w in range(values.shape[0]):
        tokens = values[w, begin : begin + count]
        for t in range(count):
            tokens[t] = steps[t, row, w]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _forward(job, groups, u, delta, A, B, C, D, h0, y, last_state, boundaries, elemental, mask, reverse):
    channels, length = u.shape[1:]
    N = A.shape[1]
    item, _, begin, end = _place(job, groups, channels, JOB)
    B_g = B[item % B.shape[0], begin * B.shape[1] // channels]
    C_g = C[item % C.shape[0], begin * C.shape[1] // channels]
    for first in range(begin, end, LANES):
        block = slice(first, min(first + LANES, end))
        lanes = block.stop - first
        state = np.zeros((N, 4, LANES), u.dtype)
        steps = np.zeros((CHUNK, 7, LANES), u.dtype)
        for n in range(N):
            for w in range(lanes):
                state[n, A_, w] = A[first + w, n]
                state[n, H, w] = h0[item, first + w, n]
        for t0 in range(0, length, CHUNK):
            count = min(CHUNK, length - t0)
            token = length - t0 - count if reverse else t0
            if boundaries.shape[1] > 0:
                for w in range(lanes):
                    for n in range(N):
                        boundaries[item, t0 // CHUNK, first + w, n] = state[n, H, w]
            _load(steps, DELTA, delta[item, block], token, count)
            _load(steps, U, u[item, block], token, count)
            for i in range(count):
                t = count - 1 - i if reverse else i
                at_B = token + t if B_g.shape[0] > 1 else 0
                at_C = token + t if C_g.shape[0] > 1 else 0
                for w in range(LANES):
                    steps[t, X, w] = steps[t, DELTA, w] * steps[t, U, w]
                    steps[t, Y, w] = 0
                for n in range(N):
                    b, c = B_g[at_B, n], C_g[at_C, n]
                    for w in range(LANES):
                        Abar = _exp(steps[t, DELTA, w] * state[n, A_, w])
                        decayed = Abar * state[n, H, w]
                        own = steps[t, X, w] * b
                        if elemental:
                            own += Abar * steps[t, U, w]
                        after = decayed + own
                        state[n, H, w] = after
                        steps[t, Y, w] += c * (decayed if mask else after)
                for w in range(lanes):
                    steps[t, Y, w] += D[first + w] * steps[t, U, w]
            _store(steps, Y, y[item, block], token, count)
        for n in range(N):
            for w in range(lanes):
                last_state[item, first + w, n] = state[n, H, w]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def _backward(
    job, groups, u, delta, A, B, C, D, h0, boundaries, dy, dlast,
    du, ddelta, dA, dB, dC, dD, dh0, elemental, mask, reverse,
):  # fmt: skip
    channels, length = u.shape[1:]
    N = A.shape[1]
    item, slot, begin, end = _place(job, groups, channels, BACKWARD_JOB)
    B_g = B[item % B.shape[0], begin * B.shape[1] // channels]
    C_g = C[item % C.shape[0], begin * C.shape[1] // channels]
    history = np.zeros((CHUNK, N, 2, BACKWARD_LANES), u.dtype)
    for first in range(begin, end, BACKWARD_LANES):
        block = slice(first, min(first + BACKWARD_LANES, end))
        lanes = block.stop - first
        state = np.zeros((N, 4, BACKWARD_LANES), u.dtype)
        steps = np.zeros((CHUNK, 7, BACKWARD_LANES), u.dtype)
        for w in range(lanes):
            dD[item, first + w] = 0
        for n in range(N):
            for w in range(lanes):
                state[n, A_, w] = A[first + w, n]
                state[n, G, w] = dlast[item, first + w, n]
                state[n, DA, w] = 0
        for t0 in range((length - 1) // CHUNK * CHUNK, -1, -CHUNK):
            count = min(CHUNK, length - t0)
            token = length - t0 - count if reverse else t0
            _load(steps, DELTA, delta[item, block], token, count)
            _load(steps, U, u[item, block], token, count)
            _load(steps, DY, dy[item, block], token, count)
            for n in range(N):
                for w in range(lanes):
                    state[n, H, w] = boundaries[item, t0 // CHUNK, first + w, n]
            for i in range(count):
                t = count - 1 - i if reverse else i
                at_B = token + t if B_g.shape[0] > 1 else 0
                for w in range(BACKWARD_LANES):
                    steps[t, X, w] = steps[t, DELTA, w] * steps[t, U, w]
                for n in range(N):
                    b = B_g[at_B, n]
                    for w in range(BACKWARD_LANES):
                        Abar = _exp(steps[t, DELTA, w] * state[n, A_, w])
                        before = state[n, H, w]
                        own = steps[t, X, w] * b
                        if elemental:
                            own += Abar * steps[t, U, w]
                        history[t, n, BEFORE, w] = before
                        history[t, n, ABAR, w] = Abar
                        state[n, H, w] = Abar * before + own
            for i in range(count):
                t = i if reverse else count - 1 - i
                at_B = token + t if B_g.shape[0] > 1 else 0
                at_C = token + t if C_g.shape[0] > 1 else 0
                for w in range(lanes):
                    dD[item, first + w] += steps[t, DY, w] * steps[t, U, w]
                    steps[t, DU, w] = D[first + w] * steps[t, DY, w]
                    steps[t, DDELTA, w] = 0
                for n in range(N):
                    b, c = B_g[at_B, n], C_g[at_C, n]
                    db = dc = u.dtype.type(0)
                    for w in range(BACKWARD_LANES):
                        Abar = history[t, n, ABAR, w]
                        before = history[t, n, BEFORE, w]
                        thru = state[n, G, w] + c * steps[t, DY, w]
                        own = state[n, G, w] if mask else thru
                        dx = own * b
                        e = thru * before
                        seen = Abar * before
                        if not mask:
                            seen += steps[t, X, w] * b
                        if elemental:
                            e += own * steps[t, U, w]
                            steps[t, DU, w] += own * Abar
                            if not mask:
                                seen += Abar * steps[t, U, w]
                        e *= Abar
                        steps[t, DU, w] += dx * steps[t, DELTA, w]
                        steps[t, DDELTA, w] += dx * steps[t, U, w] + e * state[n, A_, w]
                        state[n, DA, w] += e * steps[t, DELTA, w]
                        state[n, G, w] = Abar * thru
                        db += own * steps[t, X, w]
                        dc += steps[t, DY, w] * seen
                    dB[item, slot, at_B, n] += db
                    dC[item, slot, at_C, n] += dc
            _store(steps, DU, du[item, block], token, count)
            _store(steps, DDELTA, ddelta[item, block], token, count)
        for n in range(N):
            for w in range(lanes):
                dA[item, first + w, n] = state[n, DA, w]
                dh0[item, first + w, n] = state[n, G, w]
