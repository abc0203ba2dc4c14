"""The figure of `efficiency`: throughput and memory against frames, from saved rows alone.

In a file of its own, as the device that measures need not hold all that the figures' style needs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from analysis.draw import save_figure, styled
from experiments.bench.gpu.efficiency import ATTENTION, MAMBA
from experiments.bench.results import BenchRun, Row

LOOKS: Mapping[str, Mapping[str, Any]] = {
    MAMBA: {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    ATTENTION: {"color": "#D55E00", "marker": "s", "linestyle": "--"},
}
PANELS = (("throughput", "throughput (clips/s)", 1.0), ("peak memory", "memory a clip (GB)", 1e9))
"""Quantity, label and divisor of each row of panels; memory is that of a batch over its clips."""


def efficiency_points(run: BenchRun, quantity: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """(frames, median) of each subject, by size and subject, in the order of frames; memory by clip."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in run.rows:
        if row.group.startswith("efficiency ") and row.quantity == quantity and row.samples:
            size = row.group.removeprefix("efficiency ").split(",")[0]
            value = row.median / (_number(row, "batch") if quantity == "peak memory" else 1)
            curve = points.setdefault(size, {}).setdefault(row.subject, [])
            curve.append((int(_number(row, "frames")), value))
    return {
        size: {subject: sorted(curve) for subject, curve in curves.items()} for size, curves in points.items()
    }


def _number(row: Row, name: str) -> float:
    value = row.case[name]
    assert isinstance(value, int | float)
    return value


@styled
def draw_efficiency(run: BenchRun, folder: Path) -> Path:
    """Draw clips a second and memory a clip against frames, a column a size, as PNG and SVG; the PNG's path.

    Raises:
        ValueError: where the run timed no model.
    """
    found = {quantity: efficiency_points(run, quantity) for quantity, _, _ in PANELS}
    columns = list(found["throughput"])
    if not columns:
        raise ValueError("the run holds no throughput of any model, so there is nothing to draw")
    figure = Figure((1.2 + 2.6 * len(columns), 5.2))
    axes = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
    for line, (quantity, label, divisor) in zip(axes, PANELS, strict=True):
        for ax, size in zip(line, columns, strict=True):
            _draw(ax, found[quantity].get(size, {}), divisor)
        line[0].set_ylabel(label)
    for ax, size in zip(axes[0], columns, strict=True):
        ax.set_title(size)
    for ax in axes[-1]:
        ax.set_xlabel("frames a clip")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return save_figure(figure, folder / "efficiency")


def _draw(ax: Axes, curves: Mapping[str, list[tuple[int, float]]], divisor: float) -> None:
    """The curves of one panel; it says so where there are none."""
    for subject, curve in curves.items():
        frames, values = zip(*curve, strict=True)
        ax.plot(frames, [value / divisor for value in values], label=subject, **LOOKS[subject])
    ax.set(xscale="log", yscale="log")
    ticks = sorted({frames for curve in curves.values() for frames, _ in curve})
    if not ticks:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
        return
    ax.xaxis.set(major_locator=FixedLocator(ticks), minor_locator=NullLocator())
    ax.xaxis.set(major_formatter="{x:g}", minor_formatter=NullFormatter())
