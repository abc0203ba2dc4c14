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
from experiments.report.probed import SCOPE, SHOWN, probe_label, quantities
from experiments.statistics import can_read, cell_probes


def correlation_illustrations(
    cells: pd.DataFrame, probes: pd.DataFrame
) -> Iterator[tuple[str, Illustration]]:
    """By task and probe: every trained model's accuracy against the probe's numbers."""
    numbers = cell_probes(probes)
    numbers = numbers[(numbers["scope"] == SCOPE) & (numbers["direction"] == "mean")]
    merged = numbers.merge(cells[can_read(cells)], on="cell")
    for task in dict.fromkeys(cells["task"]):
        for probe in SHOWN:
            rows = merged[(merged["task"] == task) & np.isfinite(merged["value"])]
            there = quantities(rows, probe)
            if there:
                yield (
                    task,
                    Illustration(
                        f"{probe}-against-accuracy_{slug(task)}",
                        f"{probe.capitalize()} against accuracy on {task}, a point a trained model, of all bases and "
                        f"seeds. Scope {SCOPE}, mean over layers and directions.",
                        _text(rows, there),
                        partial(_figure, rows, there),
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
