"""Figures of probes against accuracy: a panel a probe, a point a model."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots import styled
from analysis.tables import number
from experiments.report.illustration import WIDTH, Illustration, shared_legend
from experiments.report.names import LOOKS, slug, variant_label
from experiments.report.probed import probe_label
from experiments.statistics import can_read, cell_probes
from experiments.statistics.association import QUANTITIES


def correlation_illustrations(
    cells: pd.DataFrame, probes: pd.DataFrame
) -> Iterator[tuple[str, Illustration]]:
    """By task and probe: every trained model's accuracy against the numbers that `rank_correlations` puts to it."""
    numbers = cell_probes(probes)
    chosen = (numbers["scope"] == numbers["quantity"].map(QUANTITIES)) & (numbers["direction"] == "mean")
    merged = numbers[chosen].merge(cells[can_read(cells)], on="cell")
    for task in dict.fromkeys(cells["task"]):
        for probe in dict.fromkeys(merged["probe"]):
            rows = merged[(merged["task"] == task) & (merged["probe"] == probe)]
            finite = rows[np.isfinite(rows["value"])]
            there = [name for name in QUANTITIES if name in set(finite["quantity"])]
            if there:
                beyond = " Numbers beyond the sequence are left out." * (len(finite) < len(rows))
                yield (
                    task,
                    Illustration(
                        f"{slug(probe)}-against-accuracy_{slug(task)}",
                        f"{probe.capitalize()} against accuracy on {task}, a point a trained model, of all bases and "
                        f"seeds; mean over layers and directions.{beyond}",
                        _text(finite, there),
                        partial(_figure, finite, there),
                    ),
                )


def _text(rows: pd.DataFrame, names: list[str]) -> str:
    said = []
    for name in names:
        chosen = rows[rows["quantity"] == name]
        parts = [
            f"{variant_label(variant)} {number(part['value'].mean())} with {100 * part['accuracy'].mean():.1f} %"
            for variant in LOOKS
            if len(part := chosen[chosen["variant"] == variant])
        ]
        said.append(f"{probe_label(name)} and accuracy, means over models: {'; '.join(parts)}.")
    return " ".join(said)


@styled
def _figure(rows: pd.DataFrame, names: list[str]) -> Figure:
    lines = -(-len(names) // 2)
    figure = Figure(figsize=(WIDTH, 0.8 + 2.1 * lines))
    axes = list(figure.subplots(lines, 2, sharey=True, squeeze=False).flat)
    for ax, name in zip(axes, names, strict=False):
        plot_against(rows[rows["quantity"] == name], ax)
    for ax in axes[len(names) :]:
        ax.remove()
    figure.supylabel("accuracy (%)", fontsize=9)
    shared_legend(figure, axes[: len(names)])
    return figure


def plot_against(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy against one quantity, a point a model, variants by colour and marker."""
    for variant, look in LOOKS.items():
        chosen = rows[rows["variant"] == variant]
        if len(chosen):
            ax.plot(
                chosen["value"],
                100 * chosen["accuracy"],
                linestyle="none",
                label=variant_label(variant),
                alpha=0.8,
                **look,
            )
    ax.set_xlabel(probe_label(rows["quantity"].iloc[0]))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    return ax
