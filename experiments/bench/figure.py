"""Time against L of every backend and peer, log-log, with the power of L that fits each."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.draw import save_figure, styled
from experiments.bench.peers import QUANTITIES
from experiments.bench.results import BenchRun
from experiments.bench.words import power

LOOKS: Sequence[Mapping[str, Any]] = [
    {"color": color, "marker": marker, "linestyle": line, "markerfacecolor": "white" if line == ":" else color}
    for color, marker, line in (
        ("#0072B2", "o", "-"), ("#56B4E9", "o", ":"), ("#D55E00", "s", "--"), ("#E69F00", "s", ":"),
        ("#009E73", "^", "-."), ("#000000", "D", "-"), ("#CC79A7", "v", "--"), ("#777777", "x", "-."),
    )
]  # fmt: skip
"""By order of subjects: colour, marker and line differ, so that the figure reads in grey."""


def growth_points(run: BenchRun, quantity: str) -> dict[str, list[tuple[int, float]]]:
    """Return (L, median seconds) of each subject that was timed, by length."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in run.rows:
        if row.group.startswith("growth L=") and row.quantity == quantity and row.samples:
            points.setdefault(row.subject, []).append((int(row.group.split("=")[1]), row.median))
    return points


@styled
def draw_growth(runs: Iterable[BenchRun], folder: Path) -> Path | None:
    """Draw the growth of every scan, forward and with gradients; None where no growth was measured."""
    scans = [run for run in runs if run.subcommand == "scan" and growth_points(run, QUANTITIES[0])]
    if not scans:
        return None
    figure = Figure((9, 5 * len(scans)))
    axes = figure.subplots(len(scans), 2, squeeze=False, sharey="row")
    for run, pair in zip(scans, axes, strict=True):
        for quantity, ax in zip(QUANTITIES, pair, strict=True):
            _draw(ax, growth_points(run, quantity))
            ax.set_title(f"{quantity.replace('+', ' + ')}, {run.device.upper()}")
            ax.label_outer(remove_inner_ticks=False)
    return save_figure(figure, folder / "growth")


def _draw(ax: Axes, points: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    for look, (subject, curve) in zip(cycle(LOOKS), points.items(), strict=False):
        lengths, times = zip(*curve, strict=True)
        fit = f"$L^{{{power(lengths, times):.2f}}}$" if len(curve) > 1 else "one length"
        ax.plot(lengths, times, label=f"{subject} ({fit})", **look)
    ax.set(xscale="log", yscale="log", xlabel="L (tokens)", ylabel="time (s)")
    ticks = sorted({length for curve in points.values() for length, _ in curve})[::2]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
