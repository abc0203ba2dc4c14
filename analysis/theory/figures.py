"""The figures of a `TheoryResult`, which compute nothing that it does not hold."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.draw import LOOKS, layer_axis, styled
from analysis.theory.consequences import RESIDUALS
from analysis.theory.run import TheoryResult

RESIDUAL_LOOKS: Mapping[str, Mapping[str, Any]] = {
    "none": {"color": "#000000", "linestyle": "-", "marker": "o", "label": "no residual"},
    "initial": {"color": "#009E73", "linestyle": "--", "marker": "s", "label": "residual initial"},
    "elemental": {
        "color": "#CC79A7",
        "linestyle": "-.",
        "marker": "^",
        "label": "residual elemental (our reading)",
    },
    "attention": {"color": "#0072B2", "linestyle": ":", "marker": "D", "label": "random attention"},
}


def figure_makers(result: TheoryResult) -> dict[str, Callable[[], Figure]]:
    """Return the functions that draw what the result has, by file name."""
    makers: dict[str, Callable[[], Figure]] = {"rank": partial(rank_figure, result)}
    if any(c.quantity == "class_row" for c in result.curves):
        makers["class_row"] = partial(class_figure, result)
    return makers


def rank_figure(result: TheoryResult) -> Figure:
    """Draw what a residual changes, the lag profile, and what it cannot change, the rank."""
    figure = Figure(figsize=(8.4, 3.6))
    left, right = figure.subplots(1, 2)
    plot_residual_profile(result, left)
    plot_spectrum(result, right)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def class_figure(result: TheoryResult) -> Figure:
    """Draw what the class token takes from other tokens in each layer, by direction."""
    figure = Figure(figsize=(5.6, 3.6))
    plot_class_evidence(result, figure.subplots())
    return figure


@styled
def plot_residual_profile(result: TheoryResult, ax: Axes) -> Axes:
    """Plot m(k) of one scan under each residual."""
    for residual in RESIDUALS:
        curve = result.curve("residual_profile", residual)
        value = np.array(curve.value)
        ax.plot(np.where(value > 0, value, np.nan), **{**RESIDUAL_LOOKS[residual], "marker": ""})
    ax.set(yscale="log", xlabel="lag k (tokens)", ylabel=f"m(k)\n({curve.unit})")
    ax.set_title("reweighed: mean weight by lag")
    return ax


@styled
def plot_spectrum(result: TheoryResult, ax: Axes) -> Axes:
    """Plot the singular values of the block under the diagonal, with the bound N that a checkpoint names."""
    floor = 1e-18  # Values of exact zero are drawn here on the log axis.
    for name, look in RESIDUAL_LOOKS.items():
        curve = result.curve("spectrum", name)
        at = np.arange(1, len(curve.value) + 1)
        ax.plot(at, np.maximum(curve.value, floor), **{**look, "markersize": 3})
        if curve.low is not None and curve.high is not None:
            low, high = (np.maximum(end, floor) for end in (curve.low, curve.high))
            ax.fill_between(at, low, high, color=look["color"], alpha=0.15, linewidth=0)
    bound = result.states + 0.5
    ax.axvline(bound, color="0.3", linewidth=0.9)
    ax.annotate(
        f"N = {result.states}", (bound, 0.5), xytext=(3, 0), xycoords=ax.get_xaxis_transform(),
        textcoords="offset points", fontsize=8,
    )  # fmt: skip
    ax.set(
        yscale="log",
        xlabel="singular value of α[m+1:, :m], m = L/2",
        ylabel="fraction of the largest (1e-18: zero)",
    )
    ax.set_title("not freed: rank of the block")
    return ax


@styled
def plot_class_evidence(result: TheoryResult, ax: Axes) -> Axes:
    """Plot the percent of the class token's contributions that come from other tokens, by layer and direction."""
    curves = [c for c in result.curves if c.quantity == "class_row"]
    directions = dict.fromkeys(c.direction for c in curves)
    for shift, direction in zip((-0.17, 0.17), directions, strict=False):
        found = [c for c in curves if c.direction == direction]
        low, value, high = np.array(
            [[np.nan if end is None else end[1] for end in (c.low, c.value, c.high)] for c in found]
        ).T
        at = np.array([c.layer for c in found]) + shift
        bars = None if np.isnan(low).any() else np.stack([value - low, high - value]).clip(0)
        look = {"color": LOOKS[direction]["color"], "hatch": "//" if direction == "backward" else ""}
        ax.bar(at, value, 0.32, yerr=bars, capsize=2, label=direction, edgecolor="white", **look)
        for x in at[value == 0]:
            ax.annotate("0", (x, 0), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8)
    ax.set_ylabel("from other tokens (% of the class row,\nboth directions together)")
    layer_axis(ax, [c.layer for c in curves])
    ax.set_title(f"what reaches the class token, scope contribution, {curves[0].n_clips} clips")
    ax.legend(loc="upper left")
    ax.margins(y=0.2)
    return ax
