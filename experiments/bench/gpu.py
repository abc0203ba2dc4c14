"""`scan` on a CUDA device: against mamba_ssm's kernel, a token loop, and what the hardware allows at best."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch

from analysis.results import ResultError
from experiments.bench.gate import Gate
from experiments.bench.inputs import ScanInputs, draw
from experiments.bench.peers import Subject, subjects
from experiments.bench.results import Check, Measured, Row
from experiments.bench.scan import QUANTITIES
from experiments.bench.steps import Show, Step, time_scans
from experiments.bench.timing import Call, Clock

FIRST = "triton_gpu"
"""The backend that the targets are for."""
SPECIAL_RATE = 16
"""Special-function results a clock on one multiprocessor, compute capability 5 to 9 (CUDA C++ programming guide, table
of arithmetic throughput)."""


@dataclass(frozen=True)
class GpuSizes:
    """What is timed: (B, L) of each case; the gate is on ``gate_length`` tokens."""

    channels: int = 1152
    states: int = 16
    cases: tuple[tuple[int, int], ...] = ((8, 1569), (1, 12545))
    gate_length: int = 1569
    lengths: tuple[int, ...] = (196, 784, 3136, 12544, 50176)
    dtype: torch.dtype = torch.bfloat16
    budget: float = 5.0


QUICK = GpuSizes(64, 4, ((2, 65),), 65, (64, 128), torch.bfloat16, 0.05)


def events(call: Call) -> float:
    """Seconds between CUDA events around a call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


@final
class GpuScanBench:
    """The steps of `scan` on a GPU, timed by CUDA events; device and clock are others in tests only."""

    def __init__(
        self,
        sizes: GpuSizes,
        seed: int,
        among: Sequence[Subject] | None = None,
        device: str = "cuda",
        clock: Clock = events,
    ) -> None:
        self.sizes, self.seed, self.device, self.clock = sizes, seed, device, clock
        self.subjects = tuple(subjects(device) if among is None else among)
        self.gate = Gate("gate", lambda subject: self._draw(1, sizes.gate_length))

    def steps(self) -> list[Step]:
        """In the order in which they run, the gate first."""
        return [
            Step("gate", self._gate),
            Step("floor", self._floor),
            *(
                Step(f"B={batch}, L={length}", partial(self._timings, batch, length))
                for batch, length in self.sizes.cases
            ),
            *(Step(f"growth L={length}", partial(self._growth, length)) for length in self.sizes.lengths),
        ]

    def _draw(self, batch: int, length: int) -> ScanInputs:
        sizes = self.sizes
        return draw(
            batch, sizes.channels, sizes.states, length, seed=self.seed, dtype=sizes.dtype, device=self.device
        )

    def _gate(self, show: Show) -> Measured:
        checks: tuple[Check, ...] = ()
        for done, subject in enumerate(self.subjects):
            show(done, len(self.subjects))
            checks += self.gate.checks(subject)
        return Measured(checks=checks)

    def _timings(self, batch: int, length: int, show: Show) -> Measured:
        return self._time(f"B={batch}, L={length}", self._draw(batch, length), self.sizes.budget)

    def _growth(self, length: int, show: Show) -> Measured:
        return self._time(f"growth L={length}", self._draw(1, length), self.sizes.budget / 5)

    def _time(self, group: str, inputs: ScanInputs, budget: float) -> Measured:
        longest = max(length for _, length in self.sizes.cases)
        rows: tuple[Row, ...] = ()
        for quantity in QUANTITIES:
            rows += time_scans(
                group,
                self.subjects,
                quantity,
                inputs,
                self.gate,
                budget=budget,
                clock=self.clock,
                refuse=lambda subject: (
                    f"not timed: a loop over more than {longest} tokens"
                    if subject.loops and inputs.u.shape[2] > longest
                    else ""
                ),
            )
        return Measured(rows)

    def _floor(self, show: Show) -> Measured:
        """The rates that bound a scan from below: exponentials, from clock and multiprocessors, and bytes, measured."""
        count = torch.cuda.get_device_properties(0).multi_processor_count
        clock = highest_clock()
        note = f"{SPECIAL_RATE} a clock x {count} multiprocessors x {clock / 1e9:.3f} GHz"
        source = torch.empty(2**28, dtype=torch.float32, device="cuda")
        target = torch.empty_like(source)
        copies = [2 * source.nbytes / events(lambda: target.copy_(source)) for _ in range(11)][1:]
        return Measured(
            (
                Row(
                    "floor",
                    "device",
                    "exponentials",
                    "1/s",
                    samples=(SPECIAL_RATE * count * clock,),
                    note=note,
                ),
                Row("floor", "device", "copy", "bytes/s", samples=tuple(copies), note="read and written"),
            )
        )


def highest_clock() -> float:
    """The highest clock of the multiprocessors, in Hz, as nvidia-smi tells it. Raises ResultError where it does not."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return 1e6 * float(said.split()[0])
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError) as error:
        raise ResultError(
            f"{' '.join(query)}: gave no clock, which the floor is reckoned from: {error}"
        ) from error


def work(batch: int, length: int, quantity: str, sizes: GpuSizes) -> tuple[int, int]:
    """Exponentials and bytes that a scan cannot do without.

    Forward: B D L N exponentials; u, delta, B, C read, the output written. Backward: the decays again, as they are
    never stored; those four and the output's gradient read, four gradients written.
    """
    tokens = batch * length
    exponentials = tokens * sizes.channels * sizes.states
    wide, narrow = tokens * sizes.channels, tokens * sizes.states
    forward = 3 * wide + 2 * narrow
    backward = 5 * wide + 4 * narrow
    if quantity == "forward":
        return exponentials, forward * sizes.dtype.itemsize
    return 2 * exponentials, (forward + backward) * sizes.dtype.itemsize
