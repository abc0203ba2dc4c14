"""`scan` on the CPU: timings, growth in L, memory, other sizes, hard inputs, and what the first call costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from pydantic import JsonValue

from experiments.bench.compiled import assembly, exp_error, first_call, kernel_resources
from experiments.bench.gate import Gate, compare, definition, failure
from experiments.bench.inputs import ScanInputs, draw
from experiments.bench.peers import Subject, subjects
from experiments.bench.results import Check, Measured, Row
from experiments.bench.steps import Show, Step, time_scans
from experiments.bench.timing import Call, PeakError, interleave, peak_bytes

QUANTITIES = ("forward", "forward+backward")
FIRST = "numba_cpu"
"""The backend that the targets are for."""
MOST_BYTES = 4e9
"""What a subject that keeps every state may take."""
WARM_LENGTH = 65


@dataclass(frozen=True)
class ScanSizes:
    """What is timed; ``budget`` is seconds of samples of each subject, ``loop_length`` what loops are gated on.

    ``backward_kernels`` says whether the GPU's backward kernels are compiled too, which takes minutes.
    """

    channels: int = 384
    states: int = 16
    length: int = 1569
    lengths: tuple[int, ...] = (196, 392, 784, 1569, 3136, 6272, 12544, 25088, 50176)
    memory_lengths: tuple[int, ...] = lengths
    all_states: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    loop_length: int = 392
    budget: float = 5.0
    backward_kernels: bool = True


QUICK = ScanSizes(8, 4, 65, (32, 64), (64,), (1, 4), 33, 0.02, backward_kernels=False)


def of_the_cpu() -> list[Subject]:
    """Of `subjects`, those that a CPU runs: Triton's interpreter is no way to run a scan."""
    return [subject for subject in subjects("cpu") if not subject.name.startswith("triton_gpu")]


@final
class ScanBench:
    """The steps of `scan`, and what they share: the inputs and the gate.

    ``among`` are the subjects that are timed, those `of_the_cpu` by default. Steps of one subject are about
    `FIRST`.
    """

    def __init__(self, sizes: ScanSizes, seed: int, among: Sequence[Subject] | None = None) -> None:
        self.sizes, self.seed = sizes, seed
        self.subjects = tuple(of_the_cpu() if among is None else among)
        self.first = next((s for s in self.subjects if s.name == FIRST), self.subjects[0])
        self.gate = Gate("gate", self._gated)

    def steps(self) -> list[Step]:
        """In the order in which they run, the gate first."""
        lengths = self.sizes.lengths
        return [
            Step("gate", self._gate),
            *(Step(quantity, partial(self._timings, quantity)) for quantity in QUANTITIES),
            *(Step(f"growth L={length}", partial(self._growth, length)) for length in lengths),
            *(
                Step(f"memory L={length}", partial(self._memory, length))
                for length in self.sizes.memory_lengths
            ),
            Step("states", self._states),
            Step("decay", self._decay),
            Step("exp", lambda show: exp_error("exp")),
            Step("first call", lambda show: first_call("first call")),
            Step("assembly", lambda show: assembly("assembly")),
            Step("kernel resources", self._resources),
        ]

    def _resources(self, show: Show) -> Measured:
        return kernel_resources("kernel resources", backward=self.sizes.backward_kernels)

    def _draw(self, length: int, **changes: Any) -> ScanInputs:
        return draw(
            1,
            self.sizes.channels,
            **{"states": self.sizes.states, "length": length, "seed": self.seed, **changes},
        )

    def _gated(self, subject: Subject) -> ScanInputs:
        return self._draw(self.sizes.loop_length if subject.loops else self.sizes.length)

    def _gate(self, show: Show) -> Measured:
        checks: tuple[Check, ...] = ()
        for done, subject in enumerate(self.subjects):
            show(done, len(self.subjects))
            checks += self.gate.checks(subject)
        return Measured(checks=checks)

    def _timings(self, quantity: str, show: Show) -> Measured:
        inputs = self._draw(self.sizes.length)
        rows = time_scans(quantity, self.subjects, quantity, inputs, self.gate, budget=self.sizes.budget)
        return Measured(rows)

    def _growth(self, length: int, show: Show) -> Measured:
        inputs = self._draw(length)
        group = f"growth L={length}"
        rows: tuple[Row, ...] = ()
        for quantity in QUANTITIES:
            rows += time_scans(
                group,
                self.subjects,
                quantity,
                inputs,
                self.gate,
                budget=self.sizes.budget / 5,
                refuse=partial(self._too_long, inputs, quantity),
            )
        return Measured(rows)

    def _too_long(self, inputs: ScanInputs, quantity: str, subject: Subject) -> str:
        gradients = quantity != "forward"
        if gradients and subject.loops and subject.held[0] and inputs.u.shape[2] >= self.sizes.length:
            return (
                f"not timed: its backward pass grows as L squared; L={self.sizes.length} is timed once, above"
            )
        needed = subject.held[gradients] * inputs.u.numel() * self.sizes.states * inputs.u.itemsize
        if needed > MOST_BYTES:
            return f"not timed: it takes about {needed / 1e9:.0f} GB, above {MOST_BYTES / 1e9:.0f} GB"
        return ""

    def _memory(self, length: int, show: Show) -> Measured:
        """Of the first subject at each length, and of all at the length of the main timings."""
        inputs = self._draw(length)
        rows = []
        for subject in self.subjects if length == self.sizes.length else (self.first,):
            for quantity in QUANTITIES:
                problem = self.gate.problem(subject) or self._too_long(inputs, quantity, subject)
                samples: tuple[float, ...] = ()
                if not problem:
                    arguments = (
                        subject.name,
                        self.sizes,
                        self.seed,
                        length,
                        quantity,
                        torch.get_num_threads(),
                    )
                    try:
                        samples = (float(peak_bytes(scan_call, *arguments)),)
                    except PeakError as error:
                        problem = f"not measured: {error}"
                case: dict[str, JsonValue] = {"inputs": inputs.says}
                rows.append(
                    Row(f"memory L={length}", subject.name, quantity, "bytes", case, samples, problem)
                )
        return Measured(tuple(rows))

    def _states(self, show: Show) -> Measured:
        cases = {
            f"N={states}, {str(dtype).removeprefix('torch.')}": {"states": states, "dtype": dtype}
            for dtype in (torch.float32, torch.float64)
            for states in self.sizes.all_states
        }
        return self._variants("states", cases)

    def _decay(self, show: Show) -> Measured:
        return self._variants("decay", {kind: {"kind": kind} for kind in ("usual", "decaying", "silent")})

    def _variants(self, group: str, cases: Mapping[str, Mapping[str, Any]]) -> Measured:
        """The first subject on inputs of several kinds, each gated on shorter ones, timed in turns."""
        checks: dict[str, tuple[Check, ...]] = dict.fromkeys(cases, ())
        if not self.first.absent:
            for name, changes in cases.items():
                short = self._draw(self.sizes.loop_length, **changes)
                expected = definition(short, self.first.plain)
                checks[name] = compare(group, self.first, short, expected, as_name=name)
        problems = {name: self.first.absent or failure(found) for name, found in checks.items()}
        inputs = {name: self._draw(self.sizes.length, **changes) for name, changes in cases.items()}
        rows = []
        for quantity in QUANTITIES:
            calls = {name: self.first.call(inputs[name], quantity) for name in cases if not problems[name]}
            samples = interleave(calls, budget=self.sizes.budget / 5)
            rows += [
                Row(group, name, quantity, "s", {"inputs": inputs[name].says}, samples.get(name, ()), problem)
                for name, problem in problems.items()
            ]
        return Measured(tuple(rows), tuple(check for found in checks.values() for check in found))


def scan_call(name: str, sizes: ScanSizes, seed: int, length: int, quantity: str, threads: int) -> Call:
    """A subject's call in a process of its own, warmed up on a short input."""
    torch.set_num_threads(threads)
    subject = next(s for s in subjects("cpu") if s.name == name)
    for warm in (WARM_LENGTH, length):
        call = subject.call(draw(1, sizes.channels, sizes.states, warm, seed=seed), quantity)
        if warm == WARM_LENGTH:
            call()
    return call
