"""The implicit attention on a device: one pass, the targets' passes, and all of a model's as it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

import vmp
from analysis.capture import record
from analysis.implicit import ImplicitAttention
from analysis.precision import full_precision
from analysis.reduce import AbsoluteMean, reduce
from experiments.bench import reduce as bench
from experiments.bench.gate import ALLOWED, deviation, failure
from experiments.bench.gpu.timing import clock_of
from experiments.bench.inputs import ScanInputs, draw
from experiments.bench.peers import OPTIONS
from experiments.bench.results import Check, Emit, Row
from experiments.bench.timing import Call
from vmp.layout import TokenLayout

CAPTURED = "captured model"
KERNELS = "kernels of a pass"
DISTINCT = 4
"""Different inputs that many passes take turns with; to draw 64 on the CPU would take longer than the passes."""
ROWS = 64
"""Rows at the end of a long matrix that are compared with the definition in float64."""
TOP = 8
"""Kernels that are listed."""
SAYS = {
    **bench.SAYS,
    CAPTURED: "a forward pass of the model with random weights, and in it a pass as above over alpha of every layer "
    "and direction, as `record` hands them over",
    KERNELS: "device time of the kernels of one pass at 8 frames, by torch's profiler, the longest first",
}


@dataclass(frozen=True)
class MatrixSizes:
    """What is measured: `matrix` and its frames, passes in all layers, a model by name and its arguments."""

    matrix: bench.ReduceSizes = field(default_factory=bench.ReduceSizes)
    passes: int = 64
    repeats: int = 3
    model: str = "videomambapro_middle"
    overrides: Mapping[str, int] = field(default_factory=lambda: {"num_frames": 8, "image_size": 224})
    seed: int = 0


TOY = MatrixSizes(bench.QUICK, 2, 1, "vmp_micro", {"num_frames": 2, "depth": 1, "d_model": 8})


def reduce_step(sizes: MatrixSizes, device: str, emit: Emit) -> None:
    """Check the reducers against the dense matrix in float64, then time them; what is wrong is not timed.

    Args:
        sizes: of the matrices.
        device: "cuda", or "cpu" for a rehearsal, where the CPU's own strips run.
        emit: takes each check and row as soon as it is known.
    """
    matrix = sizes.matrix
    short, long = matrix.layout(matrix.frames[0]), matrix.layout(matrix.frames[-1])
    problem = _gate(sizes, device, emit)
    inputs = [_draw(sizes, short, index, device) for index in range(min(DISTINCT, sizes.passes))]
    if not problem:
        problem = _at_length(inputs[0], short, emit)
    _time(
        sizes, f"reduce frames={short.frames}", bench.ALL_AT_ONCE, inputs[:1], short, 1, problem, device, emit
    )
    _time(sizes, "32 layers", "32 layers", inputs, short, sizes.passes, problem, device, emit)
    inputs = [_draw(sizes, long, index, device) for index in range(2)]
    if not problem:
        problem = _at_length(inputs[0], long, emit)
    _time(sizes, "one layer", "one layer", inputs, long, 2, problem, device, emit)
    if not problem:
        del inputs
        _captured(sizes, device, emit)
        _kernels(sizes, short, device, emit)


def _draw(sizes: MatrixSizes, layout: TokenLayout, index: int, device: str) -> ScanInputs:
    matrix = sizes.matrix
    return draw(1, matrix.channels, matrix.states, layout.length, seed=sizes.seed + index, device=device)


def _operator(x: ScanInputs) -> ImplicitAttention:
    options: dict[str, Any] = OPTIONS
    return ImplicitAttention(
        x.delta, x.A, x.B, x.C, residual=options["residual"], mask_diagonal=options["mask_diagonal"]
    )


def _gate(sizes: MatrixSizes, device: str, emit: Emit) -> str:
    """Emit the bench's own gate, and whether two passes give the same bits; what failed, or ""."""
    matrix = sizes.matrix
    layout = matrix.layout(matrix.frames[0], matrix.gate_side)
    operator = bench.operator(matrix, layout, sizes.seed, device)
    one, other = (_tensors(bench.one_pass(operator, layout)()) for _ in range(2))
    gap = max(
        (a.double().nan_to_num() - b.double().nan_to_num()).abs().max().item()
        for a, b in zip(one, other, strict=True)
    )
    inputs = f"B=1, D={matrix.channels}, N={matrix.states}, L={layout.length}, float32"
    repeated = Check("gate", bench.ALL_AT_ONCE, "a second pass, to the bit", inputs, gap, 0.0)
    checks = (*bench.check(operator, layout), repeated)
    for found in checks:
        emit(found)
    return failure(checks)


def _tensors(found: Any) -> list[Tensor]:
    """Every tensor of the results of `reduce`."""
    parts = [part for result in found.values() for part in getattr(result, "__dict__", {"": result}).values()]
    return [part for part in parts if isinstance(part, Tensor)]


def _at_length(inputs: ScanInputs, layout: TokenLayout, emit: Emit) -> str:
    """Emit how far the last rows of W are from the definition in float64 at the length that is timed."""
    operator, exact = _operator(inputs), _operator(inputs.double())
    L = layout.length
    rows = slice(max(0, L - ROWS), L)
    got = reduce(operator, [AbsoluteMean()])["AbsoluteMean"][:, rows]
    wanted, _ = exact.weigh(rows, slice(0, L))
    found = Check(
        "gate", bench.ALL_AT_ONCE, "last rows of W", inputs.says, deviation(got, wanted), ALLOWED[got.dtype]
    )
    emit(found)
    return failure((found,))


def _time(
    sizes: MatrixSizes,
    group: str,
    subject: str,
    inputs: list[ScanInputs],
    layout: TokenLayout,
    count: int,
    problem: str,
    device: str,
    emit: Emit,
) -> None:
    """Emit the time of `count` passes, each of an operator made anew."""

    def passes() -> None:
        for index in range(count):
            bench.one_pass(_operator(inputs[index % len(inputs)]), layout)()

    note = f"{count} operators made anew of {len(inputs)} inputs in turns" if count > len(inputs) else ""
    case: dict[str, JsonValue] = {"inputs": f"{inputs[0].says} ({layout.frames} frames)"}
    samples = () if problem else _samples(passes, sizes.repeats, device)
    emit(Row(group, subject, "time", "s", case, samples, problem, note))


def _samples(call: Call, repeats: int, device: str) -> tuple[float, ...]:
    """Seconds of each repeat, after a warm-up."""
    clock = clock_of(device)
    call()
    return tuple(clock(call) for _ in range(repeats))


def _captured(sizes: MatrixSizes, device: str, emit: Emit) -> None:
    """Emit the time of a model's forward pass alone, and with a pass over alpha of all its layers."""
    torch.manual_seed(sizes.seed)
    with torch.device(device):
        model = vmp.create_model(sizes.model, variant="paper", **sizes.overrides).eval()
        shape = (model.config.num_frames, model.config.image_size, model.config.image_size)
        clip = torch.randn(1, model.config.channels, *shape)
    seen: list[int] = []

    def take(capture: Any) -> None:
        found: Any = bench.one_pass(capture.operator(), capture.layout)()
        seen.append(found["RowMass"].shape[1])

    @full_precision()
    @torch.inference_mode()
    def forward() -> None:
        model(clip)

    @full_precision()
    @torch.inference_mode()
    def probed() -> None:
        with record(model, sink=take):
            model(clip)

    what = f"{sizes.model}, paper, {model.config.depth} layers, {model.config.num_frames} frames, float32"
    for quantity, call in (("forward alone", forward), ("time", probed)):
        samples = _samples(call, sizes.repeats, device)
        passes = len(seen) // (sizes.repeats + 1)
        note = f"{passes} passes at L={seen[0]}" if seen else ""
        emit(Row(CAPTURED, CAPTURED, quantity, "s", {"inputs": what}, samples, note=note))


def _kernels(sizes: MatrixSizes, layout: TokenLayout, device: str, emit: Emit) -> None:
    """Emit the device time of each of the longest kernels of a pass, and of all together."""
    kind = torch.profiler.ProfilerActivity
    call = bench.one_pass(_operator(_draw(sizes, layout, 0, device)), layout)
    call()
    with torch.profiler.profile(activities=[kind.CPU if device == "cpu" else kind.CUDA]) as profiler:
        call()
        if device != "cpu":
            torch.cuda.synchronize()
    of = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    found = sorted(profiler.key_averages(), key=lambda event: -getattr(event, of))
    total = sum(getattr(event, of) for event in found) / 1e6
    if not total:
        emit(
            Row(KERNELS, KERNELS, "all", "s", problem="not measured: the profiler has no time of any kernel")
        )
        return
    emit(Row(KERNELS, KERNELS, "all", "s", samples=(total,), note=f"{sum(e.count for e in found)} calls"))
    for rank, event in enumerate(found[:TOP], 1):
        seconds = getattr(event, of) / 1e6
        note = f"{event.count} calls, {100 * seconds / total:.0f} %: {event.key[:120]}"
        emit(Row(KERNELS, KERNELS, f"{rank}", "s", samples=(seconds,), note=note))
