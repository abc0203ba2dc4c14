"""Repeated calls in turns, and peak memory in a process of its own."""

import contextlib
import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

Call = Callable[[], object]
Clock = Callable[[Call], float]
"""Seconds that one call takes."""

TURNS = 10


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


class PeakError(RuntimeError):
    """Peak memory cannot be had; the message says why in one line."""


def peak_bytes(make: Callable[..., Call], *arguments: Any) -> int:
    """Return the bytes that `make(*arguments)()` takes at its peak above what `make` left behind, outputs included.

    It runs in a new process: `make` builds the inputs and warms up what a first call would leave (compiled code,
    threads), then the kernel's record of the largest resident set is reset and read again after the call.

    Raises:
        PeakError: The system keeps no such record, or it ended the process.
    """
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            return pool.submit(_peak, make, arguments).result()
    except BrokenProcessPool as error:
        raise PeakError("the process was ended, by lack of memory as a rule") from error
    except OSError as error:
        raise PeakError(f"the system does not let the peak be read: {error}") from error


def _peak(make: Callable[..., Call], arguments: tuple[Any, ...]) -> int:
    call = make(*arguments)
    gc.collect()
    # Freed memory that the C library keeps would be taken again unseen.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: the peak is reset to the present size
    before = _status("VmHWM")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")
