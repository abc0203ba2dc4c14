"""`reduce`: one pass over the implicit attention, its growth and memory, and single rows and columns; on the CPU."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from analysis.implicit import ImplicitAttention
from analysis.reduce import AbsoluteMean, FrameMatrix, LagProfile, RowMass, reduce
from experiments.bench.gate import ALLOWED, deviation, failure
from experiments.bench.inputs import draw
from experiments.bench.peers import OPTIONS
from experiments.bench.results import Check, Row
from experiments.bench.steps import Step, memory_row, timed_rows
from experiments.bench.timing import Call
from vmp.layout import TokenLayout

REDUCERS = (AbsoluteMean, LagProfile, FrameMatrix, RowMass)
ALL_AT_ONCE = "reduce"
"""The subject whose rows are about a pass with all of `REDUCERS`."""
SAYS = {
    ALL_AT_ONCE: "`analysis.reduce.reduce` with AbsoluteMean, LagProfile, FrameMatrix and RowMass in one pass over one "
    "direction's `ImplicitAttention`, mask and elemental residual on, class token first",
    "row": "`ImplicitAttention.row` of the last token, every channel",
    "column": "`ImplicitAttention.column` of the first token, every channel",
}


@dataclass(frozen=True)
class ReduceSizes:
    """What is timed: `frames` of `side` x `side` patches, the last the longest; `gate_side` in the gate."""

    channels: int = 1152
    states: int = 16
    frames: tuple[int, ...] = (8, 16, 32, 64)
    side: int = 14
    gate_side: int = 5
    budget: float = 10.0

    def layout(self, frames: int, side: int | None = None) -> TokenLayout:
        """Return where the tokens of that many frames lie."""
        side = side or self.side
        return TokenLayout.video(frames, (side, side), "first")


QUICK = ReduceSizes(16, 4, (2, 4), 3, 2, 0.02)


@final
class ReduceBench:
    """The steps of `reduce` on the CPU, and what they share."""

    def __init__(self, sizes: ReduceSizes, seed: int) -> None:
        self.sizes, self.seed = sizes, seed

    def steps(self) -> list[Step]:
        """Return the steps in the order in which they run, the gate first."""
        frames = self.sizes.frames
        return [
            Step("gate", self._gate),
            *(Step(f"reduce frames={count}", partial(self._times, count)) for count in frames),
            *(
                Step(f"memory frames={count}", partial(self._memory, count))
                for count in (frames[0], frames[-1])
            ),
            Step("row and column", self._row_and_column),
        ]

    def _operator(self, layout: TokenLayout) -> ImplicitAttention:
        return operator(self.sizes, layout, self.seed, "cpu")

    def _gate(self) -> tuple[Check, ...]:
        layout = self.sizes.layout(self.sizes.frames[0], self.sizes.gate_side)
        return check(self._operator(layout), layout)

    def _timed(
        self, group: str, frames: int, calls: Mapping[str, Callable[[ImplicitAttention, TokenLayout], Call]]
    ) -> Iterator[Row]:
        layout, problem = self.sizes.layout(frames), failure(self._gate())
        matrix = self._operator(layout)
        ready: dict[str, Call | str] = {name: problem or make(matrix, layout) for name, make in calls.items()}
        return timed_rows(group, "time", ready, self._says(layout), budget=self.sizes.budget, most=20)

    def _times(self, frames: int) -> Iterator[Row]:
        return self._timed(f"reduce frames={frames}", frames, {ALL_AT_ONCE: one_pass})

    def _memory(self, frames: int) -> Iterator[Row]:
        group, says = f"memory frames={frames}", self._says(self.sizes.layout(frames))
        arguments = (self.sizes, frames, self.seed, torch.get_num_threads())
        yield memory_row(group, ALL_AT_ONCE, "memory", says, failure(self._gate()), cold_pass, *arguments)

    def _row_and_column(self) -> Iterator[Row]:
        def row(matrix: ImplicitAttention, layout: TokenLayout) -> Call:
            return partial(matrix.row, layout.length - 1)

        def column(matrix: ImplicitAttention, layout: TokenLayout) -> Call:
            return partial(matrix.column, 0)

        return self._timed("row and column", self.sizes.frames[-1], {"row": row, "column": column})

    def _says(self, layout: TokenLayout) -> str:
        return matrix_says(self.sizes.channels, self.sizes.states, layout)


def plan(quick: bool, seed: int) -> tuple[list[Step], dict[str, str]]:
    """Return the steps of the subcommand, and what each subject stands for."""
    return ReduceBench(QUICK if quick else ReduceSizes(), seed).steps(), SAYS


def matrix_says(channels: int, states: int, layout: TokenLayout) -> str:
    """Return the sizes of one direction's matrix, in words."""
    return f"B=1, D={channels}, N={states}, L={layout.length} ({layout.frames} frames), float32"


def operator(sizes: ReduceSizes, layout: TokenLayout, seed: int, device: str) -> ImplicitAttention:
    """Return one direction's matrix on inputs of the bench."""
    x = draw(1, sizes.channels, sizes.states, layout.length, seed=seed, device=device)
    return ImplicitAttention(x.delta, x.A, x.B, x.C, **OPTIONS)


def one_pass(matrix: ImplicitAttention, layout: TokenLayout) -> Call:
    """Return a call that feeds all of `REDUCERS`."""
    return lambda: reduce(matrix, [make() for make in REDUCERS], layout=layout)


def cold_pass(sizes: ReduceSizes, frames: int, seed: int, threads: int) -> Call:
    """Return a pass in a process of its own, warmed up on a short sequence."""
    torch.set_num_threads(threads)
    short, layout = sizes.layout(2, sizes.gate_side), sizes.layout(frames)
    one_pass(operator(sizes, short, seed, "cpu"), short)()
    return one_pass(operator(sizes, layout, seed, "cpu"), layout)


def check(matrix: ImplicitAttention, layout: TokenLayout) -> tuple[Check, ...]:
    """Check every reducer, a row and a column against the dense matrix in float64."""
    delta, A, B, C = (x.double() for x in (matrix.delta, matrix.A, matrix.B, matrix.C))
    exact = ImplicitAttention(delta, A, B, C, **OPTIONS).dense()
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
    says, dtype = matrix_says(D, N, layout), matrix.dtype
    return tuple(
        Check("gate", ALL_AT_ONCE, name, says, deviation(got.to(dtype), wanted), ALLOWED[dtype])
        for name, (got, wanted) in pairs.items()
    )


def by_lag(W: Tensor) -> Tensor:
    """Return the sums of W (B, L, L) over pairs at each lag i - j, (B, L)."""
    return torch.stack([W.diagonal(-lag, 1, 2).sum(-1) for lag in range(W.shape[1])], 1)


def by_frame(W: Tensor, layout: TokenLayout) -> Tensor:
    """Return the frame matrix (B, T, T): the share of each frame, averaged over a frame's rows that have a sum."""
    total = W.sum(2)
    frame = layout.frame_index.to(W.device)
    means: list[Any] = []
    for s in range(layout.frames):
        rows = (frame == s) & (total > 0).all(0)
        share = W[:, rows] / total[:, rows, None]
        means.append(torch.stack([share[:, :, frame == t].sum(2).mean(1) for t in range(layout.frames)], 1))
    return torch.stack(means, 1)
