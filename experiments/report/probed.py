"""Decay and contradiction of every model of a grid, trained and as it was before its first step."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.contradiction.measure import QUANTITIES as CONTRADICTION
from analysis.decay.measure import QUANTITIES as DECAY
from analysis.plots import LOOKS, no_data, styled
from analysis.tables import number
from experiments.report.illustration import Illustration, Table
from experiments.report.names import base_labels, slug, variant_label
from experiments.report.saved import SavedGrid
from experiments.statistics import base_fields, cell_probes, ordered, seed_interval
from experiments.statistics.association import DIRECTIONS

SCOPE = "contribution"
"""The scope in which scans and self-attention are compared (docs/math.md, section 2)."""

SHOWN: Mapping[str, Sequence[str]] = {
    "decay": ("decay_index_frames", "decay_index_tokens", "half_life_frames", "effective_context_tokens"),
    "contradiction": (
        *("mediator_sensitivity", "transitivity_unmasked", "block_rank", "contradictory_mass"),
    ),
}
"""Quantities of each probe that the page shows; the tables beside it have all."""

PROFILES: Mapping[str, tuple[str, str, str]] = {
    "frame_lag_profile": (
        "Frame-lag profiles",
        "frame lag τ (frames)",
        "m(τ) / m(0)",
    ),
    "class_row": (
        "Class rows",
        "key frame t",
        "share of the class token's row",
    ),
}
"""Curves that the page shows: heading, and labels of the axes."""

WIDTH = 4.6
"""Inches of a figure: legible on a phone, and two fit beside each other on a page."""

SIDES = {"forward": 0.16, "backward": -0.16, "both": 0.0}
"""Directions and where they stand in a variant's line, up from its middle."""


def probe_summary(grid: SavedGrid) -> pd.DataFrame:
    """Mean over seeds of each probe's number, which is a mean over layers, with Student's 95 % interval over seeds.

    Columns: those of the base, variant, trained, probe, scope, quantity, unit, direction, mean, low, high, n, note.
    """
    fields = base_fields(grid.cells)
    keys = [*fields, "variant", "trained", "probe", "scope", "quantity", "unit", "direction"]
    numbers = pd.concat(
        cell_probes(grid.tables["probes"], trained).assign(trained=trained) for trained in (True, False)
    )
    merged = numbers.merge(grid.cells[["cell", *fields, "variant"]], on="cell")
    rows = []
    for key, group in merged.groupby(keys, dropna=False):
        values = group["value"].to_numpy(dtype=float)
        named = dict(zip(keys, key, strict=True))
        if np.isinf(values).any():
            beyond = f"beyond the sequence in {int(np.isinf(values).sum())} of {len(values)} seeds"
            rows.append({**named, "mean": np.inf, "n": len(values), "note": beyond})
            continue
        found = seed_interval(values)
        rows.append(
            {**named, "mean": found.value, "low": found.low, "high": found.high, "n": found.n, "note": found.note}
        )
    return ordered(pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n", "note"]), keys)


def probe_profiles(grid: SavedGrid) -> pd.DataFrame:
    """Mean over seeds of the curves in `PROFILES`, in the last layer; profiles of lags relative to lag 0.

    Columns: those of the base, variant, trained, layer, quantity, direction, at, mean, n.
    """
    fields = base_fields(grid.cells)
    curves = grid.tables["profiles"]
    curves = curves[curves["quantity"].isin(PROFILES) & (curves["scope"] == SCOPE)]
    curves = curves[curves["layer"] == curves.groupby("cell")["layer"].transform("max")]
    curves = curves.assign(at=curves["index"].astype(int), direction=curves["direction"].replace(DIRECTIONS))
    first = curves[curves["at"] == 0].set_index(["cell", "trained", "quantity", "direction"])["value"]
    scale = first.reindex(pd.MultiIndex.from_frame(curves[["cell", "trained", "quantity", "direction"]]))
    relative = curves["value"] / scale.to_numpy()
    curves = curves.assign(value=curves["value"].where(curves["quantity"] != "frame_lag_profile", relative))
    merged = curves.merge(grid.cells[["cell", *fields, "variant"]], on="cell")
    keys = [*fields, "variant", "trained", "layer", "quantity", "direction", "at"]
    means = merged.groupby(keys, dropna=False)["value"].agg(mean="mean", n="count").reset_index()
    return ordered(means, keys)


def probe_label(quantity: str) -> str:
    """A probe's quantity in words, with its unit."""
    known = (DECAY | CONTRADICTION).get(quantity)  # type: ignore[operator]
    if known is None:
        return quantity.replace("_", " ")
    return known.label if known.unit == "none" else f"{known.label} ({known.unit})"


def probe_tables(summary: pd.DataFrame, grid: SavedGrid) -> Iterator[tuple[str, str, Table]]:
    """For each base and probe: label of the base, probe, and its table, a line a variant."""
    for base, rows in _by_base(summary, grid):
        for probe, quantities in SHOWN.items():
            chosen = rows[(rows["scope"] == SCOPE) & (rows["probe"] == probe)]
            chosen = chosen[chosen["direction"].isin(["mean", "both"])]
            # Self-attention's whole rows, where there is no number of its sides to average.
            chosen = chosen[(chosen["direction"] == "mean") | ~_has_sides(chosen)]
            there = [q for q in quantities if q in set(chosen["quantity"])]
            cells = chosen.set_index(["variant", "quantity", "trained"])
            variants = list(dict.fromkeys(chosen["variant"]))
            lines = [
                [variant_label(variant), *(_trained_and_not(cells, variant, quantity) for quantity in there)]
                for variant in variants
            ]
            head = ["model", *(probe_label(quantity) for quantity in there)]
            yield base, probe, Table(f"{probe.capitalize()}, {base}", head, lines)


def _has_sides(rows: pd.DataFrame) -> pd.Series:
    """Whether the variant of each row has numbers of this quantity by direction."""
    keys = ["variant", "quantity", "trained"]
    sided = rows["direction"].isin(["mean", "forward", "backward"])
    return sided.groupby([rows[key] for key in keys]).transform("any")


def _trained_and_not(cells: pd.DataFrame, variant: str, quantity: str) -> str:
    parts = []
    for trained in (True, False):
        if (variant, quantity, trained) not in cells.index:
            parts.append("-")
            continue
        row = cells.loc[(variant, quantity, trained)]
        interval = "" if np.isnan(row["low"]) else f" ({number(row['low'])} to {number(row['high'])})"
        parts.append(number(row["mean"]) + (interval if trained else ""))
    return f"{parts[0]}\nbefore {parts[1]}"


def probe_illustrations(
    summary: pd.DataFrame, profiles: pd.DataFrame, grid: SavedGrid
) -> Iterator[tuple[str, Illustration]]:
    """Label of the base, and a figure: each probe's numbers, then each curve, base by base."""
    curves = dict(_by_base(profiles, grid))
    for base, rows in _by_base(summary, grid):
        for probe, quantities in SHOWN.items():
            chosen = rows[(rows["scope"] == SCOPE) & rows["quantity"].isin(quantities) & rows["direction"].isin(SIDES)]
            chosen = chosen[(chosen["direction"] != "both") | ~_has_sides(chosen)]
            there = [q for q in quantities if q in set(chosen["quantity"])]
            if there:
                note = " Self-attention has one number for both sides." if "both" in set(chosen["direction"]) else ""
                yield base, Illustration(
                    f"{probe}_{slug(base)}",
                    f"{probe.capitalize()} of every model on {base}: mean over layers and {_seeds(chosen)}, filled "
                    "after training with its 95 % interval over seeds, hollow before the first step. Scope "
                    f"{SCOPE}; self-attention's two sides stand where the scans stand that see the same keys.{note}",
                    _numbers_text(chosen, there),
                    partial(_numbers_figure, chosen, there),
                )
        for quantity, (heading, *labels) in PROFILES.items():
            chosen = curves[base][curves[base]["quantity"] == quantity]
            if len(chosen):
                yield base, Illustration(
                    f"{quantity}_{slug(base)}",
                    f"{heading} of the last layer on {base}, mean over {_seeds(chosen)}: lines after training, dots "
                    f"before the first step. Scope {SCOPE}.",
                    _curves_text(chosen, heading),
                    partial(_curves_figure, chosen, *labels, quantity == "frame_lag_profile"),
                )


def _by_base(table: pd.DataFrame, grid: SavedGrid) -> Iterator[tuple[str, pd.DataFrame]]:
    labels = base_labels(table, base_fields(grid.cells), grid.cells)
    for label in dict.fromkeys(labels):
        yield label, table[labels == label]


def _seeds(rows: pd.DataFrame) -> str:
    least, most = int(rows["n"].min()), int(rows["n"].max())
    return f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"


def _numbers_text(rows: pd.DataFrame, quantities: Sequence[str]) -> str:
    said = []
    for quantity in quantities:
        chosen = rows[rows["quantity"] == quantity]
        by = chosen.set_index(["variant", "direction", "trained"])["mean"]
        parts = [
            f"{variant_label(variant)} {direction} {number(by.get((variant, direction, True)))}, before "
            f"{number(by.get((variant, direction, False)))}"
            for variant, direction in dict.fromkeys(zip(chosen["variant"], chosen["direction"], strict=True))
        ]
        said.append(f"{probe_label(quantity)}: {'; '.join(parts)}.")
    return " ".join(said)


@styled
def _numbers_figure(rows: pd.DataFrame, quantities: Sequence[str]) -> Figure:
    figure = Figure(figsize=(WIDTH, 0.6 + 2.2 * len(quantities)))
    axes = figure.subplots(len(quantities), 1, squeeze=False).ravel()
    for ax, quantity in zip(axes, quantities, strict=True):
        plot_probe(rows[rows["quantity"] == quantity], ax)
    _shared_legend(figure, axes)
    return figure


def plot_probe(rows: pd.DataFrame, ax: Axes) -> Axes:
    """One quantity of every variant: a line a variant, both directions, filled after training and hollow before.

    A quantity that is infinite stands as a triangle at the right edge.
    """
    variants = list(dict.fromkeys(rows["variant"]))
    for direction, up in SIDES.items():
        look = {"color": LOOKS[direction]["color"], "marker": LOOKS[direction]["marker"], "linestyle": "none"}
        chosen = rows[rows["direction"] == direction].set_index(["variant", "trained"])
        ends: dict[str, list[float]] = {}
        for (variant, trained), row in chosen.iterrows():
            y = len(variants) - 1 - variants.index(variant) + up
            fill = look["color"] if trained else "white"
            if np.isinf(row["mean"]):
                edge = ax.get_yaxis_transform()
                ax.plot(0.985, y, color=look["color"], marker=">", markerfacecolor=fill, transform=edge)
                continue
            ends.setdefault(variant, []).append(row["mean"])
            if trained and np.isfinite(row["low"]):
                ax.plot([row["low"], row["high"]], [y, y], color=look["color"], linewidth=1.2, alpha=0.6)
            ax.plot(row["mean"], y, markerfacecolor=fill, zorder=3 if trained else 2.5, **look)
        for variant, pair in ends.items():
            y = len(variants) - 1 - variants.index(variant) + up
            ax.plot(pair, [y] * len(pair), color=look["color"], linewidth=0.8, linestyle=":")
        for trained in sorted({trained for _, trained in chosen.index}, reverse=True):
            said = f"{direction}, {'trained' if trained else 'before'}"
            ax.plot([], [], label=said, markerfacecolor=look["color"] if trained else "white", **look)
    ax.set_yticks(range(len(variants)), [variant_label(variant) for variant in reversed(variants)])
    ax.set_xlabel(probe_label(rows["quantity"].iloc[0]))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    return ax


def _curves_text(rows: pd.DataFrame, heading: str) -> str:
    parts = []
    for (variant, direction), chosen in rows[rows["trained"]].groupby(["variant", "direction"], sort=False):
        values = ", ".join(number(value) for value in chosen.sort_values("at")["mean"])
        parts.append(f"{variant_label(variant)}, {direction}: {values}")
    return f"{heading} after training. {'. '.join(parts)}."


@styled
def _curves_figure(rows: pd.DataFrame, xlabel: str, ylabel: str, log: bool) -> Figure:
    variants = list(dict.fromkeys(rows["variant"]))
    columns = min(2, len(variants))
    lines = -(-len(variants) // columns)
    figure = Figure(figsize=(WIDTH, 0.8 + 1.7 * lines))
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, variant in zip(axes.flat, variants, strict=False):
        plot_curves(rows[rows["variant"] == variant], ax, log=log)
        ax.set_title(variant_label(variant))
    for ax in list(axes.flat)[len(variants) :]:
        ax.remove()
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    _shared_legend(figure, axes.flat[: len(variants)])
    return figure


def _shared_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    handles = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3)


def plot_curves(rows: pd.DataFrame, ax: Axes, *, log: bool) -> Axes:
    """Curves of one variant by direction: a line after training, dots before."""
    for (direction, trained), chosen in rows.groupby(["direction", "trained"], sort=False):
        chosen = chosen.sort_values("at")
        values = chosen["mean"].where(chosen["mean"] > 0) if log else chosen["mean"]
        if not values.notna().any() or (log and direction == "both"):
            continue
        look = LOOKS[direction]
        style = {"linestyle": look["linestyle"], "marker": ""} if trained else {"linestyle": "none"}
        said = f"{direction}, {'trained' if trained else 'before'}"
        ax.plot(
            chosen["at"],
            values,
            label=said,
            color=look["color"],
            **{"marker": look["marker"], "markersize": 3, "markerfacecolor": "white", **style},
        )
    if not ax.lines:
        no_data(ax, "no data")
    elif log:
        ax.set_yscale("log")
    return ax
