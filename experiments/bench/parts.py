"""Where the time of a call goes, from torch's profiler: linear, convolution, norm, scan, optimizer, and the rest."""

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity

PARTS: dict[str, re.Pattern[str]] = {
    "scan": re.compile(r"^scan$|_ScanBackward"),
    "linear": re.compile(r"^aten::(linear|matmul|addmm|mm|bmm)$|: (Addmm|Mm|Bmm|Linear)Backward"),
    "convolution": re.compile(r"^aten::conv|ConvolutionBackward|MkldnnConvolution"),
    "norm": re.compile(r"^aten::(rms_norm|layer_norm)$|: \w*(RmsNorm|LayerNorm)\w*Backward"),
    "optimizer": re.compile(r"^Optimizer\.step"),
}
REPEATS = 5
SHOWN = 6
"""How many of the other operations are named."""


def by_part(call: Callable[[], object]) -> dict[str, float]:
    """Seconds of one call by part: `PARTS`, the largest other operations, and what is outside operations (Python).

    Means over `REPEATS` calls after one to warm up. An operation counts for the outermost part that it is within.
    """
    call()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        for _ in range(REPEATS):
            call()
        elapsed = time.perf_counter() - start
    events = profiler.events()
    totals: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    others: dict[str, float] = {}
    _add((event for event in events if event.cpu_parent is None), totals, others)
    largest = sorted(others, key=lambda name: -others[name])
    shown = {f"other: {name.removeprefix('aten::')}": others[name] for name in largest[:SHOWN]}
    rest = {"other operations": sum(others[name] for name in largest[SHOWN:])}
    microseconds = {**{name: spent for name, spent in totals.items() if spent}, **shown, **rest}
    parts = {name: spent * 1e-6 / REPEATS for name, spent in microseconds.items()}
    return {**parts, "outside operations": max(0.0, elapsed / REPEATS - sum(parts.values()))}


def _add(events: Iterable[Any], totals: dict[str, float], others: dict[str, float]) -> None:
    for event in events:
        part = next((name for name, pattern in PARTS.items() if pattern.search(event.name)), None)
        if part is not None:
            totals[part] += event.cpu_time_total
        else:
            others[event.name] = others.get(event.name, 0.0) + event.self_cpu_time_total
            _add(event.cpu_children, totals, others)
