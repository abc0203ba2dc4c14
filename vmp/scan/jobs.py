"""Run the jobs of a compiled kernel in the threads that torch uses, with no Python between them.

A kernel is a C function (numba's `cfunc`) of one address, that of a table of int64 with `COLUMNS` in a row. Each thread
calls it once, and the kernel takes jobs from the table's first row until none is left. No thread thus waits for
Python's lock, which is handed over only after a tenth of a millisecond, and a thread that is held up leaves its jobs to
the others.
"""

import ctypes
import functools
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

COLUMNS = 6
NEXT, DONE, JOBS = range(3)
"""The counters of a table's first row: the next job, how many are done, and how many there are."""

Row = tuple[int, ...]


def sequence_row(x: Float[Tensor, "B D L"]) -> Row:
    """Return the address, the number of entries from the first to the last in memory, and the strides."""
    batch, channels, length = x.shape
    by_item, by_channel, by_token = x.stride()
    reach = 1 + (batch - 1) * by_item + (channels - 1) * by_channel + (length - 1) * by_token
    return (x.data_ptr(), reach if x.numel() else 0, by_item, by_channel, by_token)


def array_row(x: Tensor) -> Row:
    """Return the address and shape of a contiguous tensor of at most four axes."""
    return (x.data_ptr(), *x.shape)


def run(kernel: Any, jobs: int, threads: int, rows: Sequence[Row]) -> None:
    """Run all jobs of a kernel.

    Args:
        kernel: The compiled function.
        jobs: The number of jobs.
        threads: The number of threads that call the kernel.
        rows: The rows of its table that follow the counters.

    Raises:
        MemoryError: The kernel had no memory for its scratch arrays; numba has then said so on standard error.
    """
    counters = (0, 0, jobs)
    table = np.array([row + (0,) * (COLUMNS - len(row)) for row in (counters, *rows)], np.int64)
    address = table.ctypes.data
    if threads == 1:
        kernel.ctypes(address)
    elif (team := _openmp()) is not None:
        team(kernel.address, address, threads, 0)
    else:
        others = [threading.Thread(target=kernel.ctypes, args=(address,)) for _ in range(threads - 1)]
        for thread in others:
            thread.start()
        kernel.ctypes(address)
        for thread in others:
            thread.join()
    if table[0, DONE] < jobs:
        raise MemoryError(f"the compiled scan ended after {table[0, DONE]} of {jobs} jobs")


@functools.cache
def _openmp() -> Callable[..., None] | None:
    """Return GOMP_parallel of the OpenMP library that torch brings along, or None where it brings none.

    For some milliseconds after an operation of torch, its threads wait for the next one in a busy loop, so threads of
    our own would have to share the cores with them.
    """
    bundled = sorted(pathlib.Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    if len(bundled) != 1:
        return None
    function = ctypes.CDLL(str(bundled[0])).GOMP_parallel
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    function.restype = None
    return cast(Callable[..., None], function)
