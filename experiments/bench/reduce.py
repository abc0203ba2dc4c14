"""`reduce`: one pass over the implicit attention, its growth and memory, and single rows and columns; on the CPU."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from analysis.implicit import ImplicitAttention
from analysis.reduce import AbsoluteMean, FrameMatrix, LagProfile, RowMass, reduce
from experiments.bench.cases import Case
from experiments.bench.gate import check_of
from experiments.bench.inputs import draw, in_words
from experiments.bench.peers import OPTIONS
from experiments.bench.results import Check
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

    def says(self, layout: TokenLayout) -> str:
        """Return the sizes of one direction's matrix, in words."""
        return f"{in_words(1, self.channels, self.states, layout.length)} ({layout.frames} frames)"


SIZES, QUICK = ReduceSizes(), ReduceSizes(16, 4, (2, 4), 3, 2, 0.02)


def operator(sizes: ReduceSizes, layout: TokenLayout, seed: int, device: str) -> ImplicitAttention:
    """Return one direction's matrix on inputs of the bench."""
    x = draw(1, sizes.channels, sizes.states, layout.length, seed=seed, device=device)
    return ImplicitAttention(x.delta, x.A, x.B, x.C, **OPTIONS)


def one_pass(matrix: ImplicitAttention, layout: TokenLayout) -> Call:
    """Return a call that feeds all of `REDUCERS`."""
    return lambda: reduce(matrix, [make() for make in REDUCERS], layout=layout)


CALLS: Mapping[str, Callable[[ImplicitAttention, TokenLayout], Call]] = {
    ALL_AT_ONCE: one_pass,
    "row": lambda matrix, layout: partial(matrix.row, layout.length - 1),
    "column": lambda matrix, layout: partial(matrix.column, 0),
}


def reduce_call(subject: str, sizes: ReduceSizes, layout: TokenLayout, seed: int) -> Call:
    """Return the call of a subject."""
    return CALLS[subject](operator(sizes, layout, seed, "cpu"), layout)


def cases(sizes: ReduceSizes, seed: int) -> Iterator[Case]:
    """Yield every case."""

    @cache
    def checks() -> tuple[Check, ...]:
        layout = sizes.layout(sizes.frames[0], sizes.gate_side)
        return check(operator(sizes, layout, seed, "cpu"), layout)

    def case(group: str, subject: str, quantity: str, frames: int) -> Case:
        layout = sizes.layout(frames)
        make = partial(reduce_call, subject, sizes, layout, seed)
        says = SAYS[subject], quantity, sizes.says(layout)
        return Case(group, subject, *says, make, checks, budget=sizes.budget)

    for frames in sizes.frames:
        yield case(f"reduce frames={frames}", ALL_AT_ONCE, "time", frames)
    warm = partial(reduce_call, ALL_AT_ONCE, sizes, sizes.layout(2, sizes.gate_side), seed)
    for frames in (sizes.frames[0], sizes.frames[-1]):
        yield replace(case(f"memory frames={frames}", ALL_AT_ONCE, "memory", frames), warm=warm)
    for subject in ("row", "column"):
        yield case("row and column", subject, "time", sizes.frames[-1])


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
    says = ReduceSizes(*matrix.A.shape).says(layout)
    return tuple(
        check_of("gate", ALL_AT_ONCE, name, says, got.to(matrix.dtype), wanted)
        for name, (got, wanted) in pairs.items()
    )


def by_lag(W: Tensor) -> Tensor:
    """Return the sums of W (B, L, L) over pairs at each lag i - j, (B, L)."""
    return torch.stack([W.diagonal(-lag, 1, 2).sum(-1) for lag in range(W.shape[1])], 1)


def by_frame(W: Tensor, layout: TokenLayout) -> Tensor:
    """Return the frame matrix (B, T, T): the share of each frame, averaged over a frame's rows that have a sum."""
    total = W.sum(2)
    frames = torch.arange(layout.frames, device=W.device)
    inside = (layout.frame_index.to(W.device)[:, None] == frames).to(W.dtype)
    counted = inside * (total > 0).all(0)[:, None]
    share = (W / total[..., None]).nan_to_num() @ inside
    return torch.einsum("is,bit->bst", counted / counted.sum(0), share)
