"""What compilation costs, and what it gave: first calls, the CPU kernel's assembly, the GPU kernels' resources."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, is_dataclass
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import torch

import vmp
from experiments.bench.results import Measured, Row

FIRST_CALLS = """
import json, time
import torch
start = time.perf_counter()
from experiments.bench.inputs import draw
from experiments.bench.peers import subjects
subject = next(s for s in subjects("cpu") if s.name == "numba_cpu")
inputs = draw(1, 8, 4, 65, seed=0)
took = {"import": time.perf_counter() - start}
for quantity in ("forward", "forward+backward"):
    call = subject.call(inputs, quantity)
    start = time.perf_counter()
    call()
    took[quantity] = time.perf_counter() - start
print(json.dumps(took))
"""
"""In a new process: seconds of the import, and of the first call of each kind."""


ASSEMBLY = FIRST_CALLS.replace(
    "print(json.dumps(took))",
    """
import numpy
from vmp.scan import numba_kernels
for make in (numba_kernels.forward, numba_kernels.backward):
    print(make(numpy.float32, True, True)._library.get_asm_str())  # numba has no public way to a cfunc's.
""",
)
"""The machine code of the same calls, which only the process that compiles it can show."""


def _new_process(script: str, cache: str) -> subprocess.CompletedProcess[str]:
    """Run a script where compiled code is kept in the folder `cache`."""
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)


def _failure(child: subprocess.CompletedProcess[str]) -> str:
    said = child.stderr.strip().splitlines() or [f"the process ended with {child.returncode}"]
    return "not measured: " + said[-1]


def exp_error(group: str) -> Measured:
    """The exponential of the compiled scan against float64's, over every size of argument with a normal result.

    A scan of one step from state 1, without input, gives exp(delta A) itself. What is kept is the largest of
    relative error / eps - |x|: rounding x log2(e) alone moves the result by up to |x| eps / 2 at either end.
    """
    values = torch.cat([torch.linspace(0, 87.3, 2**17), torch.logspace(-20, 1.94, 2**17)])
    x = values.reshape(1, -1, 1)
    u, A, h0 = torch.zeros_like(x), -torch.ones(x.shape[1], 1), torch.ones(1, x.shape[1], 1)
    B = C = torch.ones(1, 1, 1)
    got = vmp.selective_scan(u, x, A, B, C, h0=h0, backend="numba_cpu")
    exact = torch.exp(-x.double())
    error = (got.double() / exact - 1).abs() / torch.finfo(torch.float32).eps - x.double()
    return Measured((Row(group, "numba_cpu", "error", "eps", samples=(error.max().item(),)),))


def first_call(group: str) -> Measured:
    """First calls in new processes: one with an empty cache of compiled code, then one with what the first left."""
    rows: list[Row] = []
    with TemporaryDirectory() as cache:
        for subject in ("empty cache", "cached on disk"):
            child = _new_process(FIRST_CALLS, cache)
            if child.returncode:
                problem = _failure(child)
                return Measured((*rows, Row(group, subject, "forward", "s", problem=problem)))
            took = json.loads(child.stdout.splitlines()[-1])
            rows += [Row(group, subject, quantity, "s", samples=(took[quantity],)) for quantity in took]
    return Measured(tuple(rows))


ARITHMETIC = re.compile(
    r"^\s+v(?:add|sub|mul|div|min|max|rndscale|fn?m(?:add|sub)\d+)p[sd]\s.*%([xyz])mm", re.MULTILINE
)
"""A packed floating-point instruction of AVX, and the width of its registers."""
WIDTHS = {"x": 128, "y": 256, "z": 512}


def assembly(group: str) -> Measured:
    """Packed arithmetic instructions of the CPU kernels, forward and backward, by width of register."""
    with TemporaryDirectory() as cache:
        child = _new_process(ASSEMBLY, cache)
    if child.returncode:
        problem = _failure(child)
        return Measured((Row(group, "numba_cpu", "packed arithmetic", "instructions", problem=problem),))
    return Measured(
        tuple(
            Row(group, f"{bits} bit", "packed arithmetic", "instructions", samples=(float(count),))
            for bits, count in count_widths(child.stdout).items()
        )
    )


def count_widths(text: str) -> dict[int, int]:
    """How many packed arithmetic instructions there are, by bits of their registers."""
    found = ARITHMETIC.findall(text)
    return {bits: found.count(letter) for letter, bits in WIDTHS.items()}


def kernel_resources(group: str, *, backward: bool) -> Measured:
    """Registers, spills and occupancy of the GPU kernels, as the compiler gives them without a GPU."""
    try:
        found = import_module("experiments.bench.resources").kernel_resources(backward=backward)
    except (ImportError, RuntimeError) as error:
        problem = f"not measured: {str(error).splitlines()[-1]}"
        return Measured((Row(group, "triton_gpu", "resources", "", problem=problem),))
    rows = []
    for resources in found:
        fields: dict[str, Any] = asdict(resources) if is_dataclass(resources) else dict(resources)  # type: ignore[arg-type]
        name = " ".join(str(value) for value in fields.values() if isinstance(value, str))
        rows.append(Row(group, name, "resources", "", fields))
    return Measured(tuple(rows))
