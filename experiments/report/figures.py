"""The report's figures: accuracy, the probes' numbers and curves, and probes against accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.draw import LOOKS, no_data, styled
from analysis.tables import number
from experiments.report.parts import Illustration
from experiments.report.probed import PAGE_CURVES, PAGE_QUANTITIES, SCOPE, page_rows, probe_label, quantities
from experiments.report.words import (
    VARIANT_LOOKS,
    interval,
    percent,
    plural,
    signed_points,
    slug,
    variant_label,
)
from experiments.statistics.association import CORRELATED, cell_probes
from experiments.statistics.bases import REFERENCE, can_read

WIDTH = 4.6
"""Inches of a figure: it is legible on a phone, and two fit beside each other on a page."""

CONDITION_LABELS: Mapping[str, str] = {
    "read_distance": "frames from the cue to the read-out",
    "mediator": "frames between the pair",
    "gap": "frames between the pair",
    "source": "source of the clip",
}
"""The label of the axis for each breakdown of the accuracy."""

SIDE_OFFSETS: Mapping[str, float] = {"forward": 0.16, "backward": -0.16, "both": 0.0}
"""Where each direction stands in a variant's line, up from its middle."""

_CURVE_WORDS: Mapping[str, tuple[str, str, str]] = {
    "frame_lag_profile": ("Frame-lag profiles", "frame lag τ (frames)", "m(τ) / m(first τ)"),
    "class_row": ("Class rows", "key frame t", "share of the class token's row"),
}
"""The heading of each curve, and the labels of its axes."""


def accuracy_illustrations(
    base: str,
    cells: pd.DataFrame,
    accuracy: pd.DataFrame,
    differences: pd.DataFrame,
    conditions: pd.DataFrame,
) -> Iterator[Illustration]:
    """The figures of one base: accuracy with differences, then accuracy by each condition.

    Args:
        base: its label.
        cells: its rows of the grid's table.
        accuracy, differences, conditions: its rows of what `experiments.statistics` makes of the grid.
    """
    yield Illustration(
        f"accuracy_{slug(base)}",
        f"Accuracy on {base}. Each dot is one seed, with the mean and the 95 % interval over seeds; the line is "
        f"chance. Below is the difference to {variant_label(REFERENCE)} of the same seed: the thick line is the "
        "bootstrap over seeds and clips, the thin line Student's interval over seeds.",
        _accuracy_text(accuracy, differences),
        partial(_accuracy_figure, cells, accuracy, differences),
    )
    for condition, label in CONDITION_LABELS.items():
        chosen = conditions[conditions["condition"] == condition]
        for direction in dict.fromkeys(chosen["read_direction"]):
            rows = chosen[chosen["read_direction"] == direction]
            if rows["level"].nunique() < 2:
                continue
            by = f"{label}, {direction}" if direction else label
            yield Illustration(
                f"accuracy-by-{slug(f'{condition} {direction}')}_{slug(base)}",
                f"Accuracy on {base} by {by}: mean and 95 % interval over seeds. {variant_label(REFERENCE)} is grey, "
                "and the dotted line is chance.",
                _condition_text(rows, by),
                partial(_condition_figure, rows, label),
            )


def probe_illustrations(base: str, rows: pd.DataFrame, profiles: pd.DataFrame) -> Iterator[Illustration]:
    """The figures of one base's probes: each probe's numbers, then each curve.

    Args:
        base: its label.
        rows, profiles: its rows of what `probe_summary` and `probe_profiles` give.
    """
    for probe in PAGE_QUANTITIES:
        chosen = page_rows(rows, probe, ("forward", "backward"))
        if there := quantities(chosen, probe):
            both = " Self-attention has one number for both sides." * ("both" in set(chosen["direction"]))
            yield Illustration(
                f"{probe}_{slug(base)}",
                f"{probe.capitalize()} of every model on {base}: mean over layers and {_seeds(chosen)}. Filled markers "
                "are after training, with the 95 % interval over seeds; hollow ones are before the first step. The "
                f"scope is {SCOPE}; each side of self-attention stands where the scan stands that sees the same "
                f"keys.{both}",
                _numbers_text(chosen, there),
                partial(_numbers_figure, chosen, there),
            )
    for quantity in PAGE_CURVES:
        chosen = profiles[profiles["quantity"] == quantity]
        if len(chosen):
            heading, *labels = _CURVE_WORDS[quantity]
            yield Illustration(
                f"{quantity}_{slug(base)}",
                f"{heading} of the last layer on {base}, mean over {_seeds(chosen)}: lines are after training, dots "
                f"before the first step. The scope is {SCOPE}.",
                _curves_text(chosen, heading),
                partial(_curves_figure, chosen, labels, quantity == "frame_lag_profile"),
            )


def correlation_illustrations(
    cells: pd.DataFrame, probes: pd.DataFrame
) -> Iterator[tuple[str, Illustration]]:
    """By task and probe: every trained model's accuracy against the numbers that `rank_correlations` takes."""
    numbers = cell_probes(probes)
    chosen = (numbers["scope"] == numbers["quantity"].map(CORRELATED)) & (numbers["direction"] == "mean")
    merged = numbers[chosen].merge(cells[can_read(cells)], on="cell")
    for task in dict.fromkeys(cells["task"]):
        for probe in dict.fromkeys(merged["probe"]):
            rows = merged[(merged["task"] == task) & (merged["probe"] == probe)]
            finite = rows[np.isfinite(rows["value"])]
            there = [name for name in CORRELATED if name in set(finite["quantity"])]
            if there:
                beyond = " Numbers beyond the sequence are left out." * (len(finite) < len(rows))
                yield (
                    task,
                    Illustration(
                        f"{slug(probe)}-against-accuracy_{slug(task)}",
                        f"{probe.capitalize()} against accuracy on {task}. Each point is one trained model, of all "
                        f"bases and seeds; numbers are means over layers and directions.{beyond}",
                        _against_text(finite, there),
                        partial(_against_figure, finite, there),
                    ),
                )


def _panels(count: int, columns: int, head: float, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes, left to right and down; `head` inches besides `height` for each line of them."""
    lines = -(-count // columns)
    figure = Figure(figsize=(WIDTH, head + height * lines))
    axes = list(figure.subplots(lines, columns, squeeze=False, **shared).flat)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def _by_variant(
    rows: pd.DataFrame, head: float
) -> tuple[Figure, Iterator[tuple[Axes, pd.DataFrame]], list[Axes]]:
    """A figure with one titled panel for each variant, and the rows of each."""
    variants = list(dict.fromkeys(rows["variant"]))
    figure, axes = _panels(len(variants), min(2, len(variants)), head, 1.7, sharex=True, sharey=True)
    for ax, variant in zip(axes, variants, strict=True):
        ax.set_title(variant_label(variant))
    chosen = (rows[rows["variant"] == variant] for variant in variants)
    return figure, zip(axes, chosen, strict=True), axes


def _label(figure: Figure, axes: Sequence[Axes], x: str | None, y: str | None) -> None:
    """Name what all panels share, and put one legend above them with each entry once."""
    if x is not None:
        figure.supxlabel(x, fontsize=9)
    if y is not None:
        figure.supylabel(y, fontsize=9)
    handles = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    place: dict[str, Any] = {
        "loc": "outside upper left",
        "ncols": 3,
        "columnspacing": 1.0,
        "handletextpad": 0.4,
    }
    figure.legend(handles.values(), handles.keys(), **place)


def _variant_lines(variants: Sequence[str] | pd.Series, ax: Axes) -> dict[str, int]:
    """The line of each variant on the y axis; the first is on top."""
    names = list(dict.fromkeys(variants))
    places = {name: len(names) - 1 - k for k, name in enumerate(names)}
    ax.set_yticks(list(places.values()), [variant_label(name) for name in names])
    return places


def _accuracy_text(accuracy: pd.DataFrame, differences: pd.DataFrame) -> str:
    parts = [
        f"{variant_label(row['variant'])} {percent(row['mean'])} ({interval(row['low'], row['high'], percent)})"
        for row in accuracy.to_dict("records")
    ]
    less = [
        f"{variant_label(row['variant'])} {signed_points(row['difference'])} "
        f"({interval(row['seed_low'], row['seed_high'], signed_points)})"
        for row in differences.to_dict("records")
    ]
    said = f"Accuracy: {'; '.join(parts)}; chance is {percent(accuracy['chance'].iloc[0])}."
    return said + f" Less {variant_label(REFERENCE)}, in points: {'; '.join(less)}." * bool(less)


@styled
def _accuracy_figure(cells: pd.DataFrame, accuracy: pd.DataFrame, differences: pd.DataFrame) -> Figure:
    figure, axes = _panels(1 + bool(len(differences)), 1, 0, 2.6)
    plot_accuracy(cells, accuracy, axes[0])
    if len(differences):
        plot_differences(differences, axes[1])
    return figure


def plot_accuracy(cells: pd.DataFrame, accuracy: pd.DataFrame, ax: Axes) -> Axes:
    """One line for each variant: each seed's accuracy, their mean and its interval; chance runs through all."""
    places = _variant_lines(accuracy["variant"], ax)
    ax.set_ylim(-0.6, len(places) - 0.4)
    for row in accuracy.to_dict("records"):
        y, look = places[row["variant"]], VARIANT_LOOKS[row["variant"]]
        seeds = cells.loc[cells["variant"] == row["variant"], "accuracy"] * 100
        ax.plot(seeds, [y] * len(seeds), "o", markersize=2.5, color=look["color"], alpha=0.6)
        if np.isfinite(row["low"]):
            ax.plot([100 * row["low"], 100 * row["high"]], [y, y], color=look["color"])
        ax.plot(100 * row["mean"], y, markersize=6, **look)
    ax.axvline(100 * accuracy["chance"].iloc[0], color="0.3", linestyle=":", linewidth=1)
    ax.set_xlabel("accuracy (%)")
    return ax


def plot_differences(differences: pd.DataFrame, ax: Axes) -> Axes:
    """One line for each variant: its difference to the reference with both intervals, and a line at 0."""
    places = _variant_lines(differences["variant"], ax)
    ax.set_ylim(-0.6, len(places) - 0.4)
    for row in differences.to_dict("records"):
        y, look = places[row["variant"]], VARIANT_LOOKS[row["variant"]]
        for low, high, width in (("seed_low", "seed_high", 1.0), ("low", "high", 3.5)):
            if np.isfinite(row[low]):
                ends = [100 * row[low], 100 * row[high]]
                ax.plot(ends, [y, y], color=look["color"], linewidth=width, alpha=0.8)
        ax.plot(100 * row["difference"], y, markersize=6, **look)
    ax.axvline(0, color="0.3", linewidth=0.9)
    ax.set_xlabel(f"accuracy less {variant_label(REFERENCE)} (points)")
    return ax


def _condition_text(rows: pd.DataFrame, label: str) -> str:
    parts = []
    for variant, chosen in rows.groupby("variant", sort=False):
        said = ", ".join(
            f"{str(row['level']).removesuffix('.0')} {percent(row['mean'])}"
            for row in chosen.to_dict("records")
        )
        parts.append(f"{variant_label(str(variant))}: {said}")
    return f"Accuracy by {label}. {'. '.join(parts)}."


@styled
def _condition_figure(rows: pd.DataFrame, label: str) -> Figure:
    figure, panels, axes = _by_variant(rows, 0.9)
    for ax, chosen in panels:
        plot_condition(chosen, rows[rows["variant"] == REFERENCE], ax)
    _label(figure, axes[:1], label, "accuracy (%)")
    return figure


def plot_condition(rows: pd.DataFrame, reference: pd.DataFrame, ax: Axes) -> Axes:
    """One variant's accuracy by level with its interval, beside the reference's; lines where levels are numbers."""
    counted = rows["at"].notna().all()
    levels = list(dict.fromkeys(rows["level"]))
    look = VARIANT_LOOKS[rows["variant"].iloc[0]]
    line = "-" if counted else "none"

    def at(chosen: pd.DataFrame) -> pd.Series:
        return chosen["at"] if counted else chosen["level"].map(levels.index)

    if len(reference) and not reference["variant"].isin(rows["variant"]).all():
        ax.plot(at(reference), 100 * reference["mean"], color="0.6", linestyle=line, marker="s", markersize=3)
    ends = 100 * rows[["low", "high"]].to_numpy(dtype=float).T
    mean = 100 * rows["mean"].to_numpy(dtype=float)
    bars = np.nan_to_num(np.abs(ends - mean))
    ax.errorbar(at(rows), mean, yerr=bars, linestyle=line, elinewidth=1, **look)
    ax.axhline(100 * rows["chance"].iloc[0], color="0.3", linestyle=":", linewidth=1)
    if counted:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    else:
        names = [level.replace(" to ", "\nto ") for level in levels]
        ax.set_xticks(range(len(levels)), names, rotation=30, ha="right")
        ax.set_xlim(-0.5, len(levels) - 0.5)
    return ax


def _seeds(rows: pd.DataFrame) -> str:
    known = rows.loc[rows["n"] > 0, "n"]
    least, most = int(known.min()), int(known.max())
    return plural(most, "seed") if least == most else f"{least} to {most} seeds"


def _numbers_text(rows: pd.DataFrame, names: Sequence[str]) -> str:
    keys = ["quantity", "variant", "direction", "trained"]
    means = rows.set_index(keys)["mean"].to_dict()
    said = []
    for quantity in names:
        chosen = rows[rows["quantity"] == quantity]
        parts = [
            f"{variant_label(variant)} {direction} {number(means.get((quantity, variant, direction, True)))}, "
            f"before {number(means.get((quantity, variant, direction, False)))}"
            for variant, direction in dict.fromkeys(zip(chosen["variant"], chosen["direction"], strict=True))
        ]
        said.append(f"{probe_label(quantity)}: {'; '.join(parts)}.")
    return " ".join(said)


@styled
def _numbers_figure(rows: pd.DataFrame, names: Sequence[str]) -> Figure:
    figure, axes = _panels(len(names), 1, 0.6, 2.2)
    for ax, quantity in zip(axes, names, strict=True):
        plot_probe(rows[rows["quantity"] == quantity], ax)
    _label(figure, axes, None, None)
    return figure


def plot_probe(rows: pd.DataFrame, ax: Axes) -> Axes:
    """One quantity: one line for each variant, with each direction, filled after training and hollow before.

    An infinite number is a triangle at the right edge.
    """
    places = _variant_lines(rows["variant"], ax)
    for direction, up in SIDE_OFFSETS.items():
        color, marker = LOOKS[direction]["color"], LOOKS[direction]["marker"]
        chosen = rows[rows["direction"] == direction]
        for variant, pair in chosen[np.isfinite(chosen["mean"])].groupby("variant"):
            at = [places[str(variant)] + up] * len(pair)
            ax.plot(pair["mean"], at, color=color, linewidth=0.8, linestyle=":")
        for row in chosen.to_dict("records"):
            y, trained = places[row["variant"]] + up, row["trained"]
            look: dict[str, Any] = {
                "color": color,
                "markerfacecolor": color if trained else "white",
                "linestyle": "none",
            }
            if np.isinf(row["mean"]):
                ax.plot(0.985, y, marker=">", transform=ax.get_yaxis_transform(), **look)
                continue
            if trained and np.isfinite(row["low"]):
                ax.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1.2, alpha=0.6)
            ax.plot(row["mean"], y, marker=marker, zorder=3 if trained else 2.5, **look)
        for trained in sorted(set(chosen["trained"]), reverse=True):
            look = {
                "color": color,
                "marker": marker,
                "markerfacecolor": color if trained else "white",
            }
            ax.plot([], [], label=_when(direction, trained), linestyle="none", **look)
    ax.set_xlabel(probe_label(rows["quantity"].iloc[0]))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    return ax


def _when(direction: str, trained: bool) -> str:
    return f"{direction}, {'trained' if trained else 'before'}"


def _curves_text(rows: pd.DataFrame, heading: str) -> str:
    parts = []
    for (variant, direction), chosen in rows[rows["trained"]].groupby(["variant", "direction"], sort=False):
        values = ", ".join(number(value) for value in chosen.sort_values("at")["mean"])
        parts.append(f"{variant_label(str(variant))}, {direction}: {values}")
    return f"{heading} after training. {'. '.join(parts)}."


@styled
def _curves_figure(rows: pd.DataFrame, labels: Sequence[str], log: bool) -> Figure:
    figure, panels, axes = _by_variant(rows, 0.8)
    for ax, chosen in panels:
        plot_curves(chosen, ax, log=log)
    _label(figure, axes, *labels)
    return figure


def plot_curves(rows: pd.DataFrame, ax: Axes, *, log: bool) -> Axes:
    """Curves of one variant by direction: lines after training, dots before.

    On a logarithmic axis, self-attention's whole rows are left out, as its two sides are there.
    """
    for direction, look in LOOKS.items():
        for trained in (True, False):
            chosen = rows[(rows["direction"] == direction) & (rows["trained"] == trained)].sort_values("at")
            values = chosen["mean"].where(chosen["mean"] > 0) if log else chosen["mean"]
            if not values.notna().any() or (log and direction == "both"):
                continue
            shape: dict[str, Any] = {
                "linestyle": look["linestyle"] if trained else "none",
                "marker": "" if trained else look["marker"],
            }
            small: dict[str, Any] = {"markersize": 3, "markerfacecolor": "white", "color": look["color"]}
            ax.plot(chosen["at"], values, label=_when(direction, trained), **shape, **small)
    if not ax.lines:
        no_data(ax, "no data")
    elif log:
        ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return ax


def _against_text(rows: pd.DataFrame, names: list[str]) -> str:
    said = []
    for name in names:
        chosen = rows[rows["quantity"] == name]
        parts = [
            f"{variant_label(variant)} {number(part['value'].mean())} with {100 * part['accuracy'].mean():.1f} %"
            for variant in VARIANT_LOOKS
            if len(part := chosen[chosen["variant"] == variant])
        ]
        said.append(f"{probe_label(name)} and accuracy, means over models: {'; '.join(parts)}.")
    return " ".join(said)


@styled
def _against_figure(rows: pd.DataFrame, names: list[str]) -> Figure:
    figure, axes = _panels(len(names), 2, 0.8, 2.1, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        plot_against(rows[rows["quantity"] == name], ax)
    _label(figure, axes, None, "accuracy (%)")
    return figure


def plot_against(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy against one quantity: one point for each model, with the variant's colour and marker."""
    for variant, look in VARIANT_LOOKS.items():
        chosen = rows[rows["variant"] == variant]
        if len(chosen):
            shape: dict[str, Any] = {"linestyle": "none", "alpha": 0.8, "label": variant_label(variant)}
            ax.plot(chosen["value"], 100 * chosen["accuracy"], **shape, **look)
    ax.set_xlabel(probe_label(rows["quantity"].iloc[0]))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    return ax
