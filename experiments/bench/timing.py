"""Repeated calls in turns, and peak memory in a process of its own."""

import contextlib
import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

Call = Callable[[], object]
Clock = Callable[[Call], float]
"""Seconds that one call takes."""

TURNS = 10
READY = ["experiments.bench.scan", "experiments.bench.reduce"]
"""Imported once, in the process that those whose memory is measured are forked from; it computes nothing."""


def wall(call: Call) -> float:
    """Return the seconds of wall clock that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleave(
    calls: Mapping[str, Call], *, budget: float, most: int = 60, clock: Clock = wall
) -> dict[str, tuple[float, ...]]:
    """Return the seconds of repeated calls, after one call of each to warm up.

    The calls take turns, so that a machine that slows down for a while slows all of them. Each call gets as many
    repeats as fit into `budget` seconds, at least 3 and at most `most`, spread over `TURNS` turns; a call that
    takes longer than the budget is not repeated, and its one sample is the first call.
    """
    samples: dict[str, list[float]] = {}
    repeats = {}
    for name, call in calls.items():
        first = clock(call)
        samples[name] = [first] if first > budget else []
        repeats[name] = 0 if first > budget else min(most, max(3, int(budget / max(clock(call), 1e-9))))
    for turn in range(TURNS):
        for name, call in calls.items():
            due = repeats[name] * (turn + 1) // TURNS - repeats[name] * turn // TURNS
            samples[name] += [clock(call) for _ in range(due)]
    return {name: tuple(taken) for name, taken in samples.items()}


def peak_bytes(warm: Callable[[], Call], make: Callable[[], Call]) -> int:
    """Return the bytes that `make()()` takes at its peak above what `make()` left behind, outputs included.

    It runs in a new process, after `warm()()`, which leaves what a first call would (compiled code, threads). The
    kernel's record of the largest resident set is reset before the call and read after it.

    Raises:
        OSError: the system keeps no such record.
        BrokenProcessPool: the system ended the process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(READY)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak, torch.get_num_threads(), warm, make).result()


def _peak(threads: int, warm: Callable[[], Call], make: Callable[[], Call]) -> int:
    torch.set_num_threads(threads)
    warm()()
    call = make()
    gc.collect()
    # Freed memory that the C library keeps would be taken again unseen.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: the peak is reset to the present size
    before = _largest_resident_set()
    call()
    return _largest_resident_set() - before


def _largest_resident_set() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")
