"""The selective scan compiled for the CPU by numba, forward and backward, in float32 and float64.

The kernels are in `vmp.scan.numba_kernels`; this module lays out the memory and joins the kernels to autograd. For the
backward pass, the states at chunk boundaries are kept, O(B D N L / CHUNK), and each chunk is run again.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from vmp.scan import numba_kernels
from vmp.scan.call import ScanCall
from vmp.scan.jobs import array_row, run, sequence_row
from vmp.scan.numba_kernels import CHUNK, JOB
from vmp.scan.spec import step_sizes
from vmp.scan.vectors import BYTES

# State updates below which starting threads costs more than it saves.
SERIAL = 100_000

Options = tuple[bool, bool]
"""What is compiled into a kernel: whether the residual is elemental, and the mask."""


def supports(call: ScanCall) -> str | None:
    """Return why this backend cannot serve `call`, or None: it runs on the CPU, and torch.compile cannot trace it."""
    if call.u.device.type != "cpu":
        return f"u is on {call.u.device} and this backend runs on the CPU"
    if torch.compiler.is_compiling():
        # Traced into, the kernels would be handed addresses of tensors that are not there.
        return "torch.compile cannot trace a call of numba's code"
    return None


def scan(call: ScanCall) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """Run the scan in compiled kernels.

    The gradients come from a hand-derived backward pass and cannot be differentiated again.

    Returns:
        The output (B, D, L), which lies in memory as `u` does, and the state after the last step (B, D, N), both in
        `call.compute_dtype`.
    """
    h0 = call.initial_state()
    call = call.upcast()
    D = call.u.new_zeros(call.u.shape[1]) if call.D is None else call.D
    B, C = call.B.transpose(2, 3), call.C.transpose(2, 3)
    tensors = (call.u, step_sizes(call), call.A, B, C, D, h0, call.z)
    options = (call.residual == "elemental", call.mask_diagonal)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return _Scan.apply(*tensors, options, call.reverse, call.silent_start, keep)


class _Scan(torch.autograd.Function):
    """The scan as a function of step sizes, rows (B or 1, G, L or 1, N) of B and C, and a first state."""

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
        options: Options,
        reverse: bool,
        silent: bool,
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
        width = BYTES // A.element_size()
        blocks = groups * math.ceil(channels // groups / width)
        chunks = math.ceil(length / CHUNK) if keep else 0
        boundaries = torch.empty(batch * chunks * blocks * states * width, dtype=u.dtype)
        _run(
            numba_kernels.forward,
            options,
            (channels, length, groups, z is not None, reverse, silent),
            (u, delta, u if z is None else z, out),
            (A, B, C, D, h0, last_state, boundaries),
        )
        ctx.save_for_backward(u, delta, A, B, C, D, h0, boundaries, *(() if z is None else (z,)))
        ctx.options = (options, reverse, silent)
        return out, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, h0, boundaries, *gate = ctx.saved_tensors
        options, reverse, silent = ctx.options
        batch, channels, length = u.shape
        states = A.shape[1]
        groups = math.lcm(B.shape[1], C.shape[1])
        jobs = _jobs(channels, groups)
        dout = _laid_out(dout)
        du, ddelta, *dz = (
            torch.empty_strided(x.shape, _dense_strides(x), dtype=u.dtype) for x in (u, delta, *gate)
        )
        dA = torch.empty((batch, channels, states), dtype=u.dtype)
        dB = torch.zeros((batch, jobs, B.shape[2], states), dtype=u.dtype)
        dC = torch.zeros((batch, jobs, C.shape[2], states), dtype=u.dtype)
        dD = torch.empty((batch, channels), dtype=u.dtype)
        dh0 = torch.empty_like(h0)
        _run(
            numba_kernels.backward,
            options,
            (channels, length, groups, bool(gate), reverse, silent),
            (u, delta, *(gate or [u]), dout, du, ddelta, *(dz or [du])),
            (A, B, C, D, boundaries, dlast.contiguous(), dA, dB, dC, dD, dh0),
        )
        dB, dC = _sum_jobs(dB, B), _sum_jobs(dC, C)
        gradients = (du, ddelta, dA.sum(0), dB, dC, dD.sum(0), dh0, dz[0] if dz else None)
        return *gradients, None, None, None, None


def _sum_jobs(partial: Float[Tensor, "B jobs L1 N"], like: Float[Tensor, "B1 G L1 N"]) -> Tensor:
    """Return the gradient of `like` from what each job found of it."""
    groups = like.shape[1]
    summed = partial.unflatten(1, (groups, partial.shape[1] // groups)).sum(2)
    return summed.sum_to_size(like.shape)


def _laid_out(x: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
    """Return `x`, or a copy of it where neither channels nor steps are neighbours in memory."""
    return x if x.stride(1) == 1 or x.stride(2) == 1 else x.contiguous()


def _dense_strides(x: Float[Tensor, "B D L"]) -> tuple[int, int, int]:
    """Return the strides of a tensor without gaps whose channels are neighbours where those of `x` are."""
    _, channels, length = x.shape
    if x.stride(2) != 1 and x.stride(1) == 1:
        return (channels * length, 1, channels)
    return (channels * length, length, 1)


def _jobs(channels: int, groups: int) -> int:
    """Return the number of jobs of a batch item."""
    return groups * math.ceil(channels // groups / JOB)


def _run(
    kernel: Callable[..., Any],
    options: Options,
    size: tuple[int, int, int, bool, bool, bool],
    sequences: Sequence[Tensor],
    arrays: Sequence[Tensor],
) -> None:
    """Run a kernel on all its jobs, in as many threads as torch uses; `size` is the first row of its table."""
    u, A = sequences[0], arrays[0]
    jobs = u.shape[0] * _jobs(u.shape[1], size[2])
    threads = 1 if u.numel() * A.shape[1] < SERIAL else max(1, min(torch.get_num_threads(), jobs))
    number = np.float64 if u.dtype == torch.float64 else np.float32
    rows = [tuple(map(int, size)), *map(sequence_row, sequences), *map(array_row, arrays)]
    run(kernel(number, *options), jobs, threads, rows)
