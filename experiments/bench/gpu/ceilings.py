"""What the device allows at best: bytes a second, and results of special functions a second."""

import torch
import triton
import triton.language as tl

from experiments.bench.gpu.timing import device_seconds
from experiments.bench.results import Emit, Row

GROUP, SUBJECT = "floor", "device"
SPECIAL_RATE = 16
"""Special-function results a clock on one multiprocessor, compute capability 5 to 9 (CUDA C++ programming guide, table
of arithmetic throughput)."""


def ceilings(numbers: int, rounds: int, device: str, emit: Emit) -> None:
    """Measure both ceilings.

    Args:
        numbers: float32 numbers that the copy moves; several times what the cache holds.
        rounds: exponentials that each of the 16 numbers of a thread goes through, one after another.
        device: "cuda", or "cpu" for a rehearsal.
        emit: takes the rows "copy" (bytes a second, read and written) and "exponentials" (results a second).
    """
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    seconds = device_seconds(lambda: target.copy_(source), device, repeats=20)
    rates = tuple(2 * source.nbytes / taken for taken in seconds)
    emit(Row(GROUP, SUBJECT, "copy", "bytes/s", samples=rates, note="read and written"))

    programs, size, note = 1, 512, "a rehearsal"
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        programs = 64 * properties.multi_processor_count
        note = (
            f"measured; by the programming guide {SPECIAL_RATE} a clock on each of "
            f"{properties.multi_processor_count} multiprocessors"
        )
    out = torch.empty(programs * size, device=device)

    def exponentiate() -> None:
        _exponentials[(programs,)](out, rounds, SIZE=size, num_warps=1)

    seconds = device_seconds(exponentiate, device, repeats=20)
    if not bool(out.isfinite().all()):
        raise RuntimeError("the kernel of exponentials left numbers unwritten")
    rates = tuple(programs * size * rounds / taken for taken in seconds)
    emit(Row(GROUP, SUBJECT, "exponentials", "1/s", samples=rates, note=note))


@triton.jit
def _exponentials(out, rounds, SIZE: tl.constexpr):
    """`rounds` exponentials of each number, 2^-x, which stays between 0.5 and 1."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    x = at.to(tl.float32) * 1e-9
    for _ in range(rounds):
        x = tl.exp2(-x)
    tl.store(out + at, x)
