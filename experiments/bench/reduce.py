"""`reduce`: one pass over the implicit attention, its memory and growth, and single rows and columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from pydantic import JsonValue
from torch import Tensor

from analysis.implicit import ImplicitAttention
from analysis.reduce import AbsoluteMean, FrameMatrix, LagProfile, RowMass, reduce
from experiments.bench.gate import ALLOWED, deviation, failure
from experiments.bench.inputs import draw
from experiments.bench.peers import OPTIONS
from experiments.bench.results import Check, Measured, Row
from experiments.bench.steps import Show, Step
from experiments.bench.timing import Call, PeakError, interleave, peak_bytes
from vmp.layout import TokenLayout

REDUCERS = (AbsoluteMean, LagProfile, FrameMatrix, RowMass)
SUBJECT = "reduce"
SAYS = {
    SUBJECT: "`analysis.reduce.reduce` with AbsoluteMean, LagProfile, FrameMatrix and RowMass in one pass over one "
    "direction's `ImplicitAttention`, mask and elemental residual on, class token first",
    "row": "`ImplicitAttention.row` of the last token, every channel",
    "column": "`ImplicitAttention.column` of the first token, every channel",
}


@dataclass(frozen=True)
class ReduceSizes:
    """What is timed: ``frames`` of ``side`` x ``side`` patches, the last the longest; ``gate_side`` in the gate."""

    channels: int = 1152
    states: int = 16
    frames: tuple[int, ...] = (8, 16, 32, 64)
    side: int = 14
    gate_side: int = 5
    budget: float = 10.0

    def layout(self, frames: int, side: int | None = None) -> TokenLayout:
        side = side or self.side
        return TokenLayout.video(frames, (side, side), "first")


QUICK = ReduceSizes(16, 4, (2, 4), 3, 2, 0.02)


@final
class ReduceBench:
    """The steps of `reduce` on the CPU, and what they share."""

    def __init__(self, sizes: ReduceSizes, seed: int) -> None:
        self.sizes, self.seed = sizes, seed

    def steps(self) -> list[Step]:
        """In the order in which they run, the gate first."""
        frames = self.sizes.frames
        return [
            Step("gate", self._gate),
            *(Step(f"reduce frames={count}", partial(self._time, count)) for count in frames),
            *(
                Step(f"memory frames={count}", partial(self._memory, count))
                for count in (frames[0], frames[-1])
            ),
            Step("row and column", self._row_and_column),
        ]

    def _operator(self, layout: TokenLayout) -> ImplicitAttention:
        return operator(self.sizes, layout, self.seed, "cpu")

    def _gate(self, show: Show) -> Measured:
        layout = self.sizes.layout(self.sizes.frames[0], self.sizes.gate_side)
        return Measured(checks=check(self._operator(layout), layout))

    def _problem(self) -> str:
        return failure(self._gate(lambda done, total: None).checks)

    def _time(self, frames: int, show: Show) -> Measured:
        layout = self.sizes.layout(frames)
        group, problem = f"reduce frames={frames}", self._problem()
        samples: tuple[float, ...] = ()
        if not problem:
            call = one_pass(self._operator(layout), layout, show)
            one_pass(*self._warm())()
            samples = interleave({group: call}, budget=self.sizes.budget, most=20)[group]
        note = "one call, after one of a shorter sequence" if len(samples) == 1 else ""
        return Measured((Row(group, SUBJECT, "time", "s", self._case(layout), samples, problem, note),))

    def _warm(self) -> tuple[ImplicitAttention, TokenLayout]:
        layout = self.sizes.layout(2, self.sizes.gate_side)
        return self._operator(layout), layout

    def _memory(self, frames: int, show: Show) -> Measured:
        layout = self.sizes.layout(frames)
        problem = self._problem()
        samples: tuple[float, ...] = ()
        if not problem:
            try:
                samples = (
                    float(peak_bytes(cold_pass, self.sizes, frames, self.seed, torch.get_num_threads())),
                )
            except PeakError as error:
                problem = f"not measured: {error}"
        group = f"memory frames={frames}"
        return Measured((Row(group, SUBJECT, "memory", "bytes", self._case(layout), samples, problem),))

    def _row_and_column(self, show: Show) -> Measured:
        layout = self.sizes.layout(self.sizes.frames[-1])
        problem = self._problem()
        matrix = self._operator(layout)
        calls: dict[str, Call] = {
            "row": partial(matrix.row, layout.length - 1),
            "column": partial(matrix.column, 0),
        }
        samples = {} if problem else interleave(calls, budget=self.sizes.budget / 5)
        return Measured(
            tuple(
                Row("row and column", name, "time", "s", self._case(layout), samples.get(name, ()), problem)
                for name in calls
            )
        )

    def _case(self, layout: TokenLayout) -> dict[str, JsonValue]:
        D, N = self.sizes.channels, self.sizes.states
        return {"inputs": f"B=1, D={D}, N={N}, L={layout.length} ({layout.frames} frames), float32"}


def operator(sizes: ReduceSizes, layout: TokenLayout, seed: int, device: str) -> ImplicitAttention:
    """One direction's matrix on inputs of the bench."""
    x = draw(1, sizes.channels, sizes.states, layout.length, seed=seed, device=device)
    return ImplicitAttention(
        x.delta, x.A, x.B, x.C, residual=OPTIONS["residual"], mask_diagonal=OPTIONS["mask_diagonal"]
    )


def one_pass(matrix: ImplicitAttention, layout: TokenLayout, show: Show | None = None) -> Call:
    """A call that feeds all four reducers."""
    return lambda: reduce(matrix, [make() for make in REDUCERS], layout=layout, progress=show)


def cold_pass(sizes: ReduceSizes, frames: int, seed: int, threads: int) -> Call:
    """A pass in a process of its own, warmed up on a short sequence."""
    torch.set_num_threads(threads)
    short, layout = sizes.layout(2, sizes.gate_side), sizes.layout(frames)
    one_pass(operator(sizes, short, seed, "cpu"), short)()
    return one_pass(operator(sizes, layout, seed, "cpu"), layout)


def check(matrix: ImplicitAttention, layout: TokenLayout) -> tuple[Check, ...]:
    """Every reducer, a row and a column, against the dense matrix in float64."""
    exact = ImplicitAttention(
        matrix.delta.double(),
        matrix.A.double(),
        matrix.B.double(),
        matrix.C.double(),
        residual=matrix.residual,
        mask_diagonal=matrix.mask_diagonal,
    ).dense()
    W, last = exact.abs().mean(1), layout.length - 1
    found = reduce(matrix, [make() for make in REDUCERS], layout=layout)
    pairs: Mapping[str, tuple[Tensor, Tensor]] = {
        "AbsoluteMean": (found["AbsoluteMean"], W),
        "LagProfile": (found["LagProfile"].sums, by_lag(W)),
        "FrameMatrix": (found["FrameMatrix"].frames, by_frame(W, layout)),
        "RowMass": (found["RowMass"], W.sum(2)),
        "row": (matrix.row(last), exact[:, :, last]),
        "column": (matrix.column(0), exact[:, :, :, 0]),
    }
    D, N = matrix.A.shape
    inputs = f"B={matrix.batch}, D={D}, N={N}, L={layout.length} ({layout.frames} frames), float32"
    dtype = matrix.dtype
    return tuple(
        Check("gate", SUBJECT, name, inputs, deviation(got.to(dtype), wanted), ALLOWED[dtype])
        for name, (got, wanted) in pairs.items()
    )


def by_lag(W: Tensor) -> Tensor:
    """Sums of W (B, L, L) over pairs at each lag i - j, (B, L)."""
    return torch.stack([W.diagonal(-lag, 1, 2).sum(-1) for lag in range(W.shape[1])], 1)


def by_frame(W: Tensor, layout: TokenLayout) -> Tensor:
    """The frame matrix (B, T, T): the share of each frame, averaged over a frame's rows that have a sum."""
    total = W.sum(2)
    frame = layout.frame_index.to(W.device)
    means: list[Any] = []
    for s in range(layout.frames):
        rows = (frame == s) & (total > 0).all(0)
        share = W[:, rows] / total[:, rows, None]
        means.append(torch.stack([share[:, :, frame == t].sum(2).mean(1) for t in range(layout.frames)], 1))
    return torch.stack(means, 1)
