"""Time against L of every backend and peer, log-log, with the slope of each."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from analysis.plots import styled
from experiments.bench.results import Run
from experiments.bench.scan import QUANTITIES
from experiments.bench.verdicts import slope

LOOKS: Sequence[Mapping[str, Any]] = (
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#56B4E9", "marker": "o", "linestyle": ":", "markerfacecolor": "white"},
    {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    {"color": "#E69F00", "marker": "s", "linestyle": ":", "markerfacecolor": "white"},
    {"color": "#009E73", "marker": "^", "linestyle": "-."},
    {"color": "#000000", "marker": "D", "linestyle": "-"},
    {"color": "#CC79A7", "marker": "v", "linestyle": "--"},
    {"color": "#777777", "marker": "x", "linestyle": "-."},
)
"""By order of subjects: colour, marker and line differ, so that the figure reads in grey."""


@styled
def plot_growth(run: Run, quantity: str, ax: Axes | None = None) -> Axes:
    """Median seconds against L of one run, with the power of L that fits each subject in the legend."""
    ax = plt.subplots()[1] if ax is None else ax
    points = growth_points(run, quantity)
    for look, (subject, curve) in zip(cycle(LOOKS), points.items(), strict=False):
        lengths, times = zip(*curve, strict=True)
        power = f"$L^{{{slope(lengths, times):.2f}}}$" if len(curve) > 1 else "one length"
        ax.plot(lengths, times, label=f"{subject} ({power})", **look)
    ax.set(xscale="log", yscale="log", xlabel="L (tokens)", ylabel="time (s)")
    ax.set_title(f"{quantity.replace('+', ' + ')}, {run.device.upper()}")
    ticks = sorted({length for curve in points.values() for length, _ in curve})[::2]
    ax.xaxis.set(
        major_locator=FixedLocator(ticks), minor_locator=NullLocator(), minor_formatter=NullFormatter()
    )
    ax.set_xticklabels([f"{tick:,}" for tick in ticks])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return ax


def growth_points(run: Run, quantity: str) -> dict[str, list[tuple[int, float]]]:
    """(L, median seconds) of each subject that was timed, by length."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in run.rows:
        if row.group.startswith("growth") and row.quantity == quantity and row.samples:
            length = int(row.group.split("L=")[1].split()[0])
            points.setdefault(row.subject, []).append((length, row.median))
    return points


@styled
def save_plot(runs: Iterable[Run], folder: Path) -> Path | None:
    """Draw every scan's growth, forward and with gradients, as PNG and SVG; None where none was measured."""
    scans = [run for run in runs if run.subcommand == "scan" and growth_points(run, QUANTITIES[0])]
    if not scans:
        return None
    figure, axes = plt.subplots(len(scans), 2, figsize=(9, 5 * len(scans)), squeeze=False, sharey="row")
    for run, pair in zip(scans, axes, strict=True):
        for quantity, ax in zip(QUANTITIES, pair, strict=True):
            plot_growth(run, quantity, ax).label_outer(remove_inner_ticks=False)
    for suffix in ("png", "svg"):
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        figure.savefig(folder / f"growth.{suffix}", metadata=metadata)
    plt.close(figure)
    return folder / "growth.png"
