"""The selective scan on a GPU: against mamba_ssm's kernel, a token loop, and what the hardware allows at best."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, final

import torch

from experiments.bench.gate import Gate
from experiments.bench.gpu.timing import captured, clock_of, device_seconds
from experiments.bench.inputs import ScanInputs, draw
from experiments.bench.peers import QUANTITIES, Contender, backends, mamba_ssm
from experiments.bench.results import Emit, Row
from experiments.bench.timing import Call, interleave

if TYPE_CHECKING:
    from vmp.scan.triton_gpu import Plan

FIRST = "triton_gpu"
"""The backend that the targets are for."""
PEER = "mamba_ssm"
CALLED = ", as Python calls it"
"""Ends the quantity of a call that Python launches; without it, what is timed is the device's work alone."""
TIMED = (FIRST, f"{FIRST}, plain", "mamba_ssm_cuda", "spec", "token loop", PEER)


@dataclass(frozen=True)
class GpuSizes:
    """What is timed: (B, L) of each case; loops whose gradients grow as L squared up to `longest_loop` tokens."""

    channels: int = 1152
    states: int = 16
    cases: tuple[tuple[int, int], ...] = ((8, 1569), (1, 12545))
    longest_loop: int = 1569
    gate_loop: int = 392
    dtype: torch.dtype = torch.bfloat16
    budget: float = 0.4
    seed: int = 0


TOY = GpuSizes(4, 2, ((1, 9),), 9, 9, torch.bfloat16, 0.001)


def name_of(batch: int, length: int) -> str:
    """The group of a case."""
    return f"B={batch}, L={length}"


def on_device(device: str) -> tuple[Contender, ...]:
    """Return the contenders of `TIMED`; mamba_ssm's scan is among them on a GPU alone."""
    others = (mamba_ssm(),) if device == "cuda" else ()
    return tuple(one for one in (*backends(device), *others) if one.name in TIMED)


def scan_timing(sizes: GpuSizes, device: str, emit: Emit, among: Sequence[Contender] | None = None) -> None:
    """Check every subject on the very inputs of each case, then time those that pass.

    Args:
        sizes: what is timed.
        device: "cuda", or "cpu" for a rehearsal.
        emit: takes each check and row as soon as it is known.
        among: the contenders; by default those of `on_device`.
    """
    chosen = on_device(device) if among is None else tuple(among)
    for batch, length in sizes.cases:
        case = ScanCase(sizes, batch, length, device, chosen)
        for one in chosen:
            for check in case.gate.checks(one):
                emit(check)
        for quantity in QUANTITIES:
            case.time(quantity, emit)


@final
class ScanCase:
    """One case: its inputs, its gate, and its rows."""

    def __init__(
        self, sizes: GpuSizes, batch: int, length: int, device: str, among: Sequence[Contender]
    ) -> None:
        self.sizes, self.device, self.contenders = sizes, device, among
        self.group = name_of(batch, length)
        self.inputs = self._draw(batch, length)
        # A loop's gradients take seconds, and what it computes does not depend on L.
        short = self._draw(batch, min(length, sizes.gate_loop))
        self.gate = Gate(f"gate, {self.group}", lambda one: short if one.loops else self.inputs)

    def _draw(self, batch: int, length: int) -> ScanInputs:
        sizes = self.sizes
        return draw(
            *(batch, sizes.channels, sizes.states, length),
            seed=sizes.seed,
            dtype=sizes.dtype,
            device=self.device,
        )

    def time(self, quantity: str, emit: Emit) -> None:
        """Emit a row of each subject: the device's work alone, in turns; then calls from Python, loops last."""
        problems = {
            one.name: self.gate.problem(one) or self._refusal(one, quantity) for one in self.contenders
        }
        for name, problem in problems.items():
            if problem:
                emit(self._row(name, quantity, (), problem))
        ready = [one for one in self.contenders if not problems[one.name]]
        calls = {one.name: one.call(self.inputs, quantity) for one in ready if not one.loops}
        graphs = {name: captured(call, self.device) for name, call in calls.items()}
        clock, budget = clock_of(self.device), self.sizes.budget
        replays = {name: replay for name, (replay, _) in graphs.items()}
        for name, taken in interleave(replays, budget=budget, clock=clock).items():
            emit(self._row(name, quantity, tuple(seconds / graphs[name][1] for seconds in taken)))
        for name, taken in interleave(calls, budget=budget / 4, clock=clock).items():
            emit(self._row(name, quantity + CALLED, taken))
        for one in ready:
            if one.loops:
                call = {one.name: one.call(self.inputs, quantity)}
                for name, taken in interleave(call, budget=budget, clock=clock).items():
                    emit(self._row(name, quantity, taken, note="launched from Python, a token at a time"))

    def _refusal(self, one: Contender, quantity: str) -> str:
        longest = self.sizes.longest_loop
        if quantity != "forward" and one.held[0] and self.inputs.u.shape[2] > longest:
            return f"not timed: its gradients take time that grows as L squared; the longest timed is L={longest}"
        return ""

    def _row(
        self, subject: str, quantity: str, samples: tuple[float, ...], problem: str = "", note: str = ""
    ) -> Row:
        case = {"inputs": self.inputs.says}
        return Row(self.group, subject, quantity, "s", dict(case), samples, problem, note)


def cut_timing(sizes: GpuSizes, device: str, emit: Emit) -> None:
    """Time the Triton backend with each cut of `cuts`, which `vmp.scan.triton_gpu.plan` chooses among.

    Args:
        sizes: the cases.
        device: "cuda", or "cpu" for a rehearsal.
        emit: takes a row for each cut, pass and case.
    """
    from experiments.bench.gpu.cuts import cuts  # it needs the backend, which a machine without a GPU has not

    wanted = [
        (batch, length, quantity, cut)
        for batch, length in sizes.cases
        for quantity in QUANTITIES
        for cut in cuts(batch, length, backward=quantity != "forward")
    ]
    if device != "cpu":
        # Compiled side by side, and kept on disk; what is timed below finds them there. How many chunks there are is no
        # matter of compilation, unless it is one.
        kinds = {(*one[:3], one[3].width, one[3].vector, one[3].chunk < one[1]): one for one in wanted}
        with ProcessPoolExecutor(12, mp_context=get_context("spawn")) as pool:
            list(pool.map(_compile_cut, [(sizes, device, *one) for one in kinds.values()]))
    for batch, length, quantity, cut in wanted:
        call, says = _cut_call(sizes, device, batch, length, quantity, cut)
        with planned(cut, backward=quantity != "forward"):
            samples = device_seconds(call, device, repeats=20, copies=5)
        emit(Row(f"cuts, {name_of(batch, length)}", str(cut), quantity, "s", {"inputs": says}, samples))


def _cut_call(
    sizes: GpuSizes, device: str, batch: int, length: int, quantity: str, cut: "Plan"
) -> tuple[Call, str]:
    inputs = draw(
        *(batch, sizes.channels, sizes.states, length),
        seed=sizes.seed,
        dtype=sizes.dtype,
        device=device,
    )
    first = next(one for one in backends(device) if one.name == FIRST)
    return first.call(inputs, quantity), inputs.says


def _compile_cut(arguments: tuple[GpuSizes, str, int, int, str, "Plan"]) -> None:
    call, _ = _cut_call(*arguments)
    with planned(arguments[-1], backward=arguments[-2] != "forward"):
        call()


@contextlib.contextmanager
def planned(cut: "Plan", *, backward: bool) -> Iterator[None]:
    """Within it, passes in that direction are cut so, whatever their shape."""
    from vmp.scan import triton_gpu

    original = triton_gpu.plan

    of_backward = backward

    def plan(*sizes: int, backward: bool) -> "Plan":
        return cut if backward == of_backward else original(*sizes, backward=backward)

    triton_gpu.plan = plan  # type: ignore[assignment]  # it takes the sizes by place, as `_Cut` gives them
    try:
        yield
    finally:
        triton_gpu.plan = original


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
