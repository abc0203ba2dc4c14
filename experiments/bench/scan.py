"""`scan`: the selective scan on the CPU beside other implementations: time, growth in L, memory, and hard inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch

from experiments.bench.gate import Gate, compare, definition, failure
from experiments.bench.inputs import ScanInputs, draw
from experiments.bench.peers import QUANTITIES, Contender, backends, mambapy, transformers
from experiments.bench.results import Check, Row
from experiments.bench.steps import Step, memory_row, timed_rows
from experiments.bench.timing import Call

FIRST = "numba_cpu"
"""The backend that hard inputs and long sequences are tried on."""
MOST_BYTES = 4e9
"""What a contender that keeps every state may take."""
WARM_LENGTH = 65


@dataclass(frozen=True)
class ScanSizes:
    """What is timed; `budget` is seconds of samples of each contender, `loop_length` what loops are gated on."""

    channels: int = 384
    states: int = 16
    length: int = 1569
    lengths: tuple[int, ...] = (196, 392, 784, 1569, 3136, 6272, 12544, 25088, 50176)
    memory_lengths: tuple[int, ...] = lengths
    all_states: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    loop_length: int = 392
    budget: float = 5.0


QUICK = ScanSizes(8, 4, 65, (32, 64), (64,), (1, 4), 33, 0.02)


def of_the_cpu() -> Iterator[Contender]:
    """Yield the contenders that a CPU runs: Triton's interpreter is no way to run a scan."""
    yield from (one for one in backends("cpu") if not one.name.startswith("triton_gpu"))
    yield mambapy()
    yield transformers()


@final
class ScanBench:
    """The steps of `scan`, and what they share: the inputs and the gate.

    Args:
        sizes: what is timed.
        seed: of the inputs.
        among: who is timed; by default those of `of_the_cpu`. Steps of one contender are about `FIRST`.
    """

    def __init__(self, sizes: ScanSizes, seed: int, among: Sequence[Contender] | None = None) -> None:
        self.sizes, self.seed = sizes, seed
        self.contenders = tuple(of_the_cpu() if among is None else among)
        self.first = next((one for one in self.contenders if one.name == FIRST), self.contenders[0])
        self.gate = Gate("gate", lambda one: self._draw(sizes.loop_length if one.loops else sizes.length))

    def steps(self) -> list[Step]:
        """Return the steps in the order in which they run, the gate first."""
        sizes = self.sizes
        kinds = {kind: {"kind": kind} for kind in ("usual", "decaying", "silent")}
        states = {
            f"N={states}, {str(dtype).removeprefix('torch.')}": {"states": states, "dtype": dtype}
            for dtype in (torch.float32, torch.float64)
            for states in sizes.all_states
        }
        return [
            Step("gate", lambda: (check for one in self.contenders for check in self.gate.checks(one))),
            *(Step(q, partial(self._times, q, q, sizes.length, sizes.budget)) for q in QUANTITIES),
            *(Step(f"growth L={length}", partial(self._growth, length)) for length in sizes.lengths),
            *(Step(f"memory L={length}", partial(self._memory, length)) for length in sizes.memory_lengths),
            Step("states", partial(self._variants, "states", states)),
            Step("decay", partial(self._variants, "decay", kinds)),
        ]

    def _draw(self, length: int, **changes: Any) -> ScanInputs:
        sizes = {"states": self.sizes.states, "length": length, "seed": self.seed, **changes}
        return draw(1, self.sizes.channels, **sizes)

    def _times(
        self, group: str, quantity: str, length: int, budget: float, refuse_long: bool = False
    ) -> Iterator[Row]:
        inputs = self._draw(length)
        calls: dict[str, Call | str] = {}
        for one in self.contenders:
            problem = self.gate.problem(one) or (self._too_long(inputs, quantity, one) if refuse_long else "")
            calls[one.name] = problem or one.call(inputs, quantity)
        return timed_rows(group, quantity, calls, inputs.says, budget=budget)

    def _growth(self, length: int) -> Iterator[Row]:
        for quantity in QUANTITIES:
            yield from self._times(f"growth L={length}", quantity, length, self.sizes.budget / 5, True)

    def _too_long(self, inputs: ScanInputs, quantity: str, one: Contender) -> str:
        gradients, longest = quantity != "forward", self.sizes.length
        if gradients and one.loops and one.held[0] and inputs.u.shape[2] >= longest:
            return f"not timed: its backward pass grows as L squared; L={longest} is timed once, above"
        needed = one.held[gradients] * inputs.u.numel() * self.sizes.states * inputs.u.itemsize
        if needed > MOST_BYTES:
            return f"not timed: it takes about {needed / 1e9:.0f} GB, above {MOST_BYTES / 1e9:.0f} GB"
        return ""

    def _memory(self, length: int) -> Iterator[Row]:
        """Measure the first contender at each length, and all of them at the length of the main timings."""
        inputs, threads = self._draw(length), torch.get_num_threads()
        for one in self.contenders if length == self.sizes.length else (self.first,):
            for quantity in QUANTITIES:
                problem = self.gate.problem(one) or self._too_long(inputs, quantity, one)
                what = (scan_call, one.name, self.sizes, self.seed, length, quantity, threads)
                yield memory_row(f"memory L={length}", one.name, quantity, inputs.says, problem, *what)

    def _variants(self, group: str, cases: Mapping[str, Mapping[str, Any]]) -> Iterator[Row | Check]:
        """Time the first contender on inputs of several kinds, in turns, each gated on shorter ones."""
        one, problems = self.first, dict.fromkeys(cases, self.first.absent)
        for name, changes in cases.items() if not one.absent else ():
            short = self._draw(self.sizes.loop_length, **changes)
            checks = compare(group, one, short, definition(short, one.plain), as_name=name)
            problems[name] = failure(checks)
            yield from checks
        inputs = {name: self._draw(self.sizes.length, **changes) for name, changes in cases.items()}
        for quantity in QUANTITIES:
            calls = {name: problems[name] or one.call(inputs[name], quantity) for name in cases}
            says = {name: given.says for name, given in inputs.items()}
            yield from timed_rows(group, quantity, calls, says, budget=self.sizes.budget / 5)


def plan(quick: bool, seed: int) -> tuple[list[Step], dict[str, str]]:
    """Return the steps of the subcommand, and what each subject stands for."""
    bench = ScanBench(QUICK if quick else ScanSizes(), seed)
    return bench.steps(), {one.name: one.says for one in bench.contenders}


def scan_call(name: str, sizes: ScanSizes, seed: int, length: int, quantity: str, threads: int) -> Call:
    """Return a contender's call in a process of its own, warmed up on a short input."""
    torch.set_num_threads(threads)
    one = next(each for each in of_the_cpu() if each.name == name)
    one.call(draw(1, sizes.channels, sizes.states, WARM_LENGTH, seed=seed), quantity)()
    return one.call(draw(1, sizes.channels, sizes.states, length, seed=seed), quantity)
