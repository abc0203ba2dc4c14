"""Figures of accuracy: every model's, its difference to the reference, and by what a clip shows."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots import styled
from experiments.report.illustration import WIDTH, Illustration, shared_legend
from experiments.report.names import LOOKS, slug, variant_label
from experiments.report.numbers import interval, percent, points
from experiments.statistics import REFERENCE

CONDITIONS: Mapping[str, str] = {
    "read_distance": "frames from the cue to the read-out",
    "mediator": "frames between the pair",
    "gap": "frames between the pair",
    "source": "source of the clip",
}
"""What each breakdown of accuracy goes by, as the label of its axis."""


def accuracy_illustrations(
    base: str,
    cells: pd.DataFrame,
    accuracy: pd.DataFrame,
    differences: pd.DataFrame,
    conditions: pd.DataFrame,
) -> Iterator[Illustration]:
    """Of one base: accuracy with differences, then accuracy by each condition.

    Args:
        base: what it is called.
        cells: its rows of the grid's table; accuracy, differences, conditions: its rows of what
            `experiments.statistics` makes of it.
    """
    yield Illustration(
        f"accuracy_{slug(base)}",
        f"Accuracy on {base}: a dot a seed, mean and 95 % interval over seeds; the line is chance. Below, the "
        f"difference to {variant_label(REFERENCE)} seed by seed: thick, bootstrap over seeds and clips; thin, "
        "Student's interval over seeds.",
        _accuracy_text(accuracy, differences),
        partial(_accuracy_figure, cells, accuracy, differences),
    )
    for condition, label in CONDITIONS.items():
        chosen = conditions[conditions["condition"] == condition]
        for direction in dict.fromkeys(chosen["read_direction"]):
            rows = chosen[chosen["read_direction"] == direction]
            if rows["level"].nunique() < 2:
                continue
            by = f"{label}, {direction}" if direction else label
            yield Illustration(
                f"accuracy-by-{slug(f'{condition} {direction}')}_{slug(base)}",
                f"Accuracy on {base} by {by}: mean and 95 % interval over seeds; grey, "
                f"{variant_label(REFERENCE)}; dotted, chance.",
                _condition_text(rows, by),
                partial(_condition_figure, rows, label),
            )


def _accuracy_text(accuracy: pd.DataFrame, differences: pd.DataFrame) -> str:
    parts = [
        f"{variant_label(row['variant'])} {percent(row['mean'])} ({interval(row['low'], row['high'], percent)})"
        for row in accuracy.to_dict("records")
    ]
    less = [
        f"{variant_label(row['variant'])} {points(row['difference'])} "
        f"({interval(row['seed_low'], row['seed_high'], points)})"
        for row in differences.to_dict("records")
    ]
    said = f"Accuracy: {'; '.join(parts)}; chance is {percent(accuracy['chance'].iloc[0])}."
    return said + f" Less {variant_label(REFERENCE)}, in points: {'; '.join(less)}." * bool(less)


@styled
def _accuracy_figure(cells: pd.DataFrame, accuracy: pd.DataFrame, differences: pd.DataFrame) -> Figure:
    panels = 1 + bool(len(differences))
    figure = Figure(figsize=(WIDTH, 2.6 * panels))
    axes = list(figure.subplots(panels, 1, squeeze=False).flat)
    plot_accuracy(cells, accuracy, axes[0])
    if len(differences):
        plot_differences(differences, axes[1])
    return figure


def plot_accuracy(cells: pd.DataFrame, accuracy: pd.DataFrame, ax: Axes) -> Axes:
    """A line a variant: each seed's accuracy, their mean and its interval; chance as a line through all."""
    places = _places(accuracy["variant"], ax)
    for row in accuracy.to_dict("records"):
        y, look = places[row["variant"]], LOOKS[row["variant"]]
        seeds = cells.loc[cells["variant"] == row["variant"], "accuracy"] * 100
        ax.plot(seeds, [y] * len(seeds), "o", markersize=2.5, color=look["color"], alpha=0.6)
        if np.isfinite(row["low"]):
            ax.plot([100 * row["low"], 100 * row["high"]], [y, y], color=look["color"])
        ax.plot(100 * row["mean"], y, marker=look["marker"], color=look["color"], markersize=6)
    ax.axvline(100 * accuracy["chance"].iloc[0], color="0.3", linestyle=":", linewidth=1)
    ax.set_xlabel("accuracy (%)")
    return ax


def plot_differences(differences: pd.DataFrame, ax: Axes) -> Axes:
    """A line a variant: its difference to the reference with both intervals, and a line at 0."""
    places = _places(differences["variant"], ax)
    for row in differences.to_dict("records"):
        y, look = places[row["variant"]], LOOKS[row["variant"]]
        for low, high, width in (("seed_low", "seed_high", 1.0), ("low", "high", 3.5)):
            if np.isfinite(row[low]):
                ax.plot(
                    [100 * row[low], 100 * row[high]], [y, y], color=look["color"], linewidth=width, alpha=0.8
                )
        ax.plot(100 * row["difference"], y, marker=look["marker"], color=look["color"], markersize=6)
    ax.axvline(0, color="0.3", linewidth=0.9)
    ax.set_xlabel(f"accuracy less {variant_label(REFERENCE)} (points)")
    return ax


def _places(variants: Sequence[str] | pd.Series, ax: Axes) -> dict[str, int]:
    """Each variant's line, the first on top."""
    names = list(dict.fromkeys(variants))
    places = {name: len(names) - 1 - k for k, name in enumerate(names)}
    ax.set_yticks(list(places.values()), [variant_label(name) for name in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    return places


def _condition_text(rows: pd.DataFrame, label: str) -> str:
    parts = []
    for variant in dict.fromkeys(rows["variant"]):
        chosen = rows[rows["variant"] == variant]
        said = ", ".join(f"{_level(row)} {percent(row['mean'])}" for row in chosen.to_dict("records"))
        parts.append(f"{variant_label(variant)}: {said}")
    return f"Accuracy by {label}. {'. '.join(parts)}."


def _level(row: Mapping[str, object]) -> str:
    return str(row["level"]).removesuffix(".0")


@styled
def _condition_figure(rows: pd.DataFrame, label: str) -> Figure:
    variants = list(dict.fromkeys(rows["variant"]))
    columns = min(2, len(variants))
    lines = -(-len(variants) // columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 1.7 * lines))
    axes = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    reference = rows[rows["variant"] == REFERENCE]
    for ax, variant in zip(axes, variants, strict=False):
        plot_condition(rows[rows["variant"] == variant], reference, ax)
        ax.set_title(variant_label(variant))
    for ax in axes[len(variants) :]:
        ax.remove()
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("accuracy (%)", fontsize=9)
    shared_legend(figure, axes[:1])
    return figure


def plot_condition(rows: pd.DataFrame, reference: pd.DataFrame, ax: Axes) -> Axes:
    """One variant's accuracy by level with its band, beside the reference's: lines where levels are numbers."""
    counted = rows["at"].notna().all()
    levels = list(dict.fromkeys(rows["level"]))
    look = LOOKS[rows["variant"].iloc[0]]
    line = "-" if counted else "none"

    def at(chosen: pd.DataFrame) -> pd.Series:
        return chosen["at"] if counted else chosen["level"].map(levels.index)

    if len(reference) and not reference["variant"].isin(rows["variant"]).all():
        ax.plot(at(reference), 100 * reference["mean"], color="0.6", linestyle=line, marker="s", markersize=3)
    ends = 100 * rows[["low", "high"]].to_numpy(dtype=float).T
    mean = 100 * rows["mean"].to_numpy(dtype=float)
    bars = np.nan_to_num(np.abs(ends - mean))
    ax.errorbar(
        at(rows), mean, yerr=bars, color=look["color"], linestyle=line, marker=look["marker"], elinewidth=1
    )
    ax.axhline(100 * rows["chance"].iloc[0], color="0.3", linestyle=":", linewidth=1)
    if counted:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    else:
        ax.set_xticks(
            range(len(levels)), [level.replace(" to ", "\nto ") for level in levels], rotation=30, ha="right"
        )
        ax.set_xlim(-0.5, len(levels) - 0.5)
    return ax
