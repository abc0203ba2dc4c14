"""Figures of the probes: every model's numbers, and its curves, trained and before the first step."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots import LOOKS, no_data, styled
from analysis.tables import number
from experiments.report.illustration import WIDTH, Illustration, shared_legend
from experiments.report.names import slug, variant_label
from experiments.report.probed import CURVES, SCOPE, SHOWN, probe_label, quantities, shown

SIDES: Mapping[str, float] = {"forward": 0.16, "backward": -0.16, "both": 0.0}
"""Directions and where they stand in a variant's line, up from its middle."""

_AXES: Mapping[str, tuple[str, str, str]] = {
    "frame_lag_profile": ("Frame-lag profiles", "frame lag τ (frames)", "m(τ) / m(first τ)"),
    "class_row": ("Class rows", "key frame t", "share of the class token's row"),
}
"""Heading of each curve, and labels of its axes."""


def probe_illustrations(base: str, rows: pd.DataFrame, profiles: pd.DataFrame) -> Iterator[Illustration]:
    """Each probe's numbers, then each curve, of one base.

    Args:
        base: what it is called; rows, profiles: what `probe_summary` and `probe_profiles` give of it.
    """
    for probe in SHOWN:
        chosen = shown(rows, probe, ("forward", "backward"))
        there = quantities(chosen, probe)
        if there:
            both = " Self-attention has one number for both sides." * ("both" in set(chosen["direction"]))
            yield Illustration(
                f"{probe}_{slug(base)}",
                f"{probe.capitalize()} of every model on {base}: mean over layers and {_seeds(chosen)}, filled "
                f"after training with its 95 % interval over seeds, hollow before the first step. Scope {SCOPE}; "
                f"self-attention's two sides stand where the scans stand that see the same keys.{both}",
                _numbers_text(chosen, there),
                partial(_numbers_figure, chosen, there),
            )
    for quantity in CURVES:
        chosen = profiles[profiles["quantity"] == quantity]
        if len(chosen):
            heading, *labels = _AXES[quantity]
            yield Illustration(
                f"{quantity}_{slug(base)}",
                f"{heading} of the last layer on {base}, mean over {_seeds(chosen)}: lines after training, dots "
                f"before the first step. Scope {SCOPE}.",
                _curves_text(chosen, heading),
                partial(_curves_figure, chosen, labels, quantity == "frame_lag_profile"),
            )


def _seeds(rows: pd.DataFrame) -> str:
    known = rows.loc[rows["n"] > 0, "n"]
    least, most = int(known.min()), int(known.max())
    return f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"


def _numbers_text(rows: pd.DataFrame, names: Sequence[str]) -> str:
    means = {
        (row["quantity"], row["variant"], row["direction"], row["trained"]): row["mean"]
        for row in rows.to_dict("records")
    }
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
    figure = Figure(figsize=(WIDTH, 0.6 + 2.2 * len(names)))
    axes = list(figure.subplots(len(names), 1, squeeze=False).flat)
    for ax, quantity in zip(axes, names, strict=True):
        plot_probe(rows[rows["quantity"] == quantity], ax)
    shared_legend(figure, axes)
    return figure


def plot_probe(rows: pd.DataFrame, ax: Axes) -> Axes:
    """One quantity of every variant: a line a variant, each direction, filled after training and hollow before.

    A quantity that is infinite stands as a triangle at the right edge.
    """
    variants = list(dict.fromkeys(rows["variant"]))
    places = {variant: len(variants) - 1 - k for k, variant in enumerate(variants)}
    for direction, up in SIDES.items():
        color, marker = LOOKS[direction]["color"], LOOKS[direction]["marker"]
        chosen = rows[rows["direction"] == direction]
        for variant, pair in chosen[np.isfinite(chosen["mean"])].groupby("variant"):
            at = [places[str(variant)] + up] * len(pair)
            ax.plot(pair["mean"], at, color=color, linewidth=0.8, linestyle=":")
        for row in chosen.to_dict("records"):
            y, trained = places[row["variant"]] + up, row["trained"]
            look = {"color": color, "markerfacecolor": color if trained else "white", "linestyle": "none"}
            if np.isinf(row["mean"]):
                ax.plot(0.985, y, marker=">", transform=ax.get_yaxis_transform(), **look)
                continue
            if trained and np.isfinite(row["low"]):
                ax.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1.2, alpha=0.6)
            ax.plot(row["mean"], y, marker=marker, zorder=3 if trained else 2.5, **look)
        for trained in sorted(set(chosen["trained"]), reverse=True):
            fill = color if trained else "white"
            said = f"{direction}, {'trained' if trained else 'before'}"
            ax.plot([], [], label=said, color=color, marker=marker, markerfacecolor=fill, linestyle="none")
    ax.set_yticks(list(places.values()), [variant_label(variant) for variant in variants])
    ax.set_xlabel(probe_label(rows["quantity"].iloc[0]))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    return ax


def _curves_text(rows: pd.DataFrame, heading: str) -> str:
    trained = rows[rows["trained"]]
    parts = []
    for variant, direction in dict.fromkeys(zip(trained["variant"], trained["direction"], strict=True)):
        chosen = trained[(trained["variant"] == variant) & (trained["direction"] == direction)]
        values = ", ".join(number(value) for value in chosen.sort_values("at")["mean"])
        parts.append(f"{variant_label(variant)}, {direction}: {values}")
    return f"{heading} after training. {'. '.join(parts)}."


@styled
def _curves_figure(rows: pd.DataFrame, labels: Sequence[str], log: bool) -> Figure:
    variants = list(dict.fromkeys(rows["variant"]))
    columns = min(2, len(variants))
    lines = -(-len(variants) // columns)
    figure = Figure(figsize=(WIDTH, 0.8 + 1.7 * lines))
    axes = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for ax, variant in zip(axes, variants, strict=False):
        plot_curves(rows[rows["variant"] == variant], ax, log=log)
        ax.set_title(variant_label(variant))
    for ax in axes[len(variants) :]:
        ax.remove()
    xlabel, ylabel = labels
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    shared_legend(figure, axes[: len(variants)])
    return figure


def plot_curves(rows: pd.DataFrame, ax: Axes, *, log: bool) -> Axes:
    """Curves of one variant by direction: a line after training, dots before. On a log axis self-attention's whole
    rows are left out, as its sides are there."""
    for direction, look in LOOKS.items():
        for trained in (True, False):
            chosen = rows[(rows["direction"] == direction) & (rows["trained"] == trained)].sort_values("at")
            values = chosen["mean"].where(chosen["mean"] > 0) if log else chosen["mean"]
            if not values.notna().any() or (log and direction == "both"):
                continue
            ax.plot(
                chosen["at"],
                values,
                label=f"{direction}, {'trained' if trained else 'before'}",
                color=look["color"],
                linestyle=look["linestyle"] if trained else "none",
                marker="" if trained else look["marker"],
                markersize=3,
                markerfacecolor="white",
            )
    if not ax.lines:
        no_data(ax, "no data")
    elif log:
        ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return ax
