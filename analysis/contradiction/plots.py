"""Plots of element contradiction: distributions, numbers by layer, sensitivity by lag, and transitivity residuals.

A plot shows the directions of one model. In a result of two models the other one is drawn beside, in looks of its own,
as a control is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.contradiction.metrics import BINS
from analysis.draw import (
    label_of,
    layer_axis,
    layer_grid,
    legend_above,
    look_of,
    new_axes,
    no_data,
    points,
    shifts,
    styled,
)
from analysis.result import Curve, Result

DISTRIBUTIONS: Mapping[str, str] = {
    "mediator_sensitivity": "mediator_quantiles",
    "transitivity_unmasked": "transitivity_quantiles",
    "block_rank": "block_rank_quantiles",
    "contradictory_mass": "contradictory_quantiles",
}
"""The number that stands for each of the four measures, and the measure's distribution."""

PARTS: Mapping[str, str] = {"ssm": "channels or heads", "mixer": "channels or outputs", "contribution": ""}
"""What a scope has a matrix for each of: the scan's channels, self-attention's heads or outputs; or one in all."""

BESIDE: Mapping[str, Any] = {"color": "#009E73", "linestyle": ":", "marker": "^"}
"""How the model beside is drawn, in all its directions."""

Line = tuple[str, str, str, Mapping[str, Any]]
"""A model and a direction of it, with the label and the look of both."""


def lines(result: Result, model: str | None = None) -> Iterator[Line]:
    """Give each direction that a plot shows: those of a model, then those of the other one of two."""
    first = model or result.model
    for direction in result.directions("contradiction", first):
        yield first, direction, direction, look_of(direction)
    if len(result.models) == 2:
        (other,) = (name for name in result.models if name != first)
        directions = result.directions("contradiction", other)
        for direction in directions:
            yield other, direction, other if len(directions) == 1 else f"{other}, {direction}", BESIDE


def _curve(result: Result, quantity: str, layer: int, line: Line, scope: str) -> Curve | None:
    """Return a curve with anything to draw, or None."""
    model, direction, *_ = line
    curve = result.curve(quantity, layer, direction, scope, model)
    return curve if curve is not None and np.isfinite(curve.value).any() else None


@styled
def plot_distribution(
    result: Result, quantity: str, scope: str | None = None, ax: Axes | None = None, model: str | None = None
) -> Axes:
    """Draw quantiles of one measure by layer: a dot for the median, thick to the quartiles, thin to 5 % and 95 %.

    Args:
        result: A result with contradiction.
        quantity: One of `DISTRIBUTIONS`.
        scope: The result's first where None.
        ax: Axes to draw on; new ones where None.
        model: The result's first where None.
    """
    ax, scope = new_axes(ax), scope or result.scopes[0]
    drawn, layers = list(lines(result, model)), result.layers_of(model or result.model)
    seen = []
    for shift, line in zip(shifts(len(drawn), 0.22), drawn, strict=True):
        curves = [_curve(result, DISTRIBUTIONS[quantity], layer, line, scope) for layer in layers]
        if not any(curves):
            continue
        quantiles = np.array([np.full(5, np.nan) if curve is None else curve.value for curve in curves])
        seen.append(quantiles)
        *_, label, look = line
        x, colour = np.arange(len(layers)) + shift, look["color"]
        ax.vlines(x, quantiles[:, 0], quantiles[:, 4], color=colour, linewidth=0.9)
        ax.vlines(x, quantiles[:, 1], quantiles[:, 3], color=colour, linewidth=3.2)
        ax.plot(
            x, quantiles[:, 2], linestyle="none", marker=look["marker"], color=colour, markersize=6,
            markeredgecolor="white", markeredgewidth=0.9, label=label,
        )  # fmt: skip
    if not seen:
        no_data(ax, "no data: see the notes")
    _scale(result, quantity, scope, ax, np.concatenate(seen) if seen else np.zeros(0), model)
    ax.set(xlabel="layer", ylabel=label_of(result, quantity), xlim=(-0.5, len(layers) - 0.5))
    every = max(1, len(layers) // 8)
    ax.set_xticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    ax.set_title(_over(quantity, scope))
    return ax


def _over(quantity: str, scope: str) -> str:
    """Say what a measure's distribution in a scope is over."""
    parts = PARTS[scope]
    if quantity == "contradictory_mass":
        return "over rows"
    if quantity == "block_rank":
        return f"over {parts}" if parts else "one matrix a clip"
    return f"over {parts}, and triples" if parts else "over triples"


def _scale(
    result: Result, quantity: str, scope: str, ax: Axes, drawn: Float[np.ndarray, "*n"], model: str | None
) -> None:
    """Set the axis that suits a measure, and draw the values that it is read against."""
    if quantity == "mediator_sensitivity":
        _log_scale(ax, drawn)
    elif quantity == "transitivity_unmasked":
        ax.set_ylim(-0.02, 1.02)
    elif quantity == "contradictory_mass":
        ax.axhline(1, color="0.3", linewidth=0.9)
    else:
        bounds = result.summary("block_rank_bound", model=model or result.model, scope=scope)["value"]
        for bound in sorted(set(bounds.dropna())):
            ax.set_yscale("log", base=2)
            ax.yaxis.set_major_formatter("{x:g}")
            ax.axhline(bound, color="0.3", linewidth=0.9, linestyle="--")
            ax.annotate(
                f"bound {bound:.0f}", (1, bound), (-2, 2), ("axes fraction", "data"), "offset points",
                ha="right", fontsize=7,
            )  # fmt: skip


def _log_scale(ax: Axes, drawn: Float[np.ndarray, "*n"]) -> None:
    """Set a log axis; linear below the smallest value above 0 where some are exactly 0, so that they are seen too."""
    if (drawn == 0).any():
        positive = drawn[drawn > 0] if (drawn > 0).any() else np.ones(1)
        ax.set_yscale("symlog", linthresh=positive.min())
        ax.set_ylim(-0.5 * positive.min(), 1.5 * positive.max())
    else:
        ax.set_yscale("log")


@styled
def plot_beside(
    result: Result, quantity: str, scope: str | None = None, ax: Axes | None = None, model: str | None = None
) -> Axes:
    """Draw one number by layer for every direction and for the model beside, with intervals over clips.

    The arguments are those of `plot_distribution`, and the quantity is any number of `Contradiction`.
    """
    ax, scope = new_axes(ax), scope or result.scopes[0]
    drawn, layers = list(lines(result, model)), result.layers_of(model or result.model)
    for shift, (name, direction, label, look) in zip(shifts(len(drawn), 0.12), drawn, strict=True):
        rows = [result.number(quantity, layer, direction, scope, name) for layer in layers]
        points(ax, np.array(layers) + shift, rows, label, look)
    if quantity == "contradictory_mass":
        ax.axhline(1, color="0.3", linewidth=0.9)
    ax.set_ylabel(label_of(result, quantity))
    layer_axis(ax, layers)
    return ax


@styled
def plot_by_lag(
    result: Result, layer: int = 0, scope: str | None = None, ax: Axes | None = None, model: str | None = None
) -> Axes:
    """Draw mediator sensitivity by octave of the lag between the two tokens, with its interval over clips."""
    ax, scope = new_axes(ax), scope or result.scopes[0]
    drawn = []
    for line in lines(result, model):
        curve = _curve(result, "mediator_by_lag", layer, line, scope)
        if curve is None:
            continue
        *_, label, look = line
        drawn.append(curve.value)
        lag = 2.0 ** np.arange(len(curve.value))
        ax.plot(lag, curve.value, **look, label=label)
        if curve.low is not None and curve.high is not None:
            ax.fill_between(lag, curve.low, curve.high, color=look["color"], alpha=0.2, linewidth=0)
            drawn += [curve.low, curve.high]
    if ax.lines:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        _log_scale(ax, np.concatenate(drawn))
    else:
        no_data(ax, "no triples: see the notes")
    ax.set(xlabel="lag i - k, from (tokens)", ylabel="sensitivity (nats)")
    ax.set_title(f"layer {layer}, scope {scope}")
    return ax


@styled
def plot_transitivity(
    result: Result, layer: int = 0, scope: str | None = None, ax: Axes | None = None, model: str | None = None
) -> Axes:
    """Draw a histogram of the transitivity residual before the mask, over channels and triples."""
    ax, scope = new_axes(ax), scope or result.scopes[0]
    edges = np.linspace(0, 1, BINS + 1)
    for line in lines(result, model):
        curve = _curve(result, "transitivity_histogram", layer, line, scope)
        if curve is not None:
            *_, label, look = line
            ax.stairs(curve.value, edges, color=look["color"], linestyle=look["linestyle"], label=label)
    if not ax.patches:
        no_data(ax, "no triples: see the notes")
    ax.set(xlabel="transitivity residual", ylabel="share", xlim=(0, 1))
    ax.set_title(f"layer {layer}, scope {scope}")
    return ax


PLOTS: Mapping[str, Callable[..., Any]] = {
    **{curve: partial(plot_distribution, quantity=number) for number, curve in DISTRIBUTIONS.items()},
    "mediator_by_lag": plot_by_lag,
    "transitivity_histogram": plot_transitivity,
}


def figures(result: Result, model: str) -> dict[str, Callable[[], Figure]]:
    """Give what there is to draw of one model, by file name."""
    makers: dict[str, Callable[[], Figure]] = {}
    for scope in result.scopes:
        makers[f"distributions_{scope}"] = partial(measures_figure, result, scope, plot_distribution, model)
        makers[f"by_layer_{scope}"] = partial(measures_figure, result, scope, plot_beside, model)
        for name, plot in (("sensitivity_by_lag", plot_by_lag), ("transitivity", plot_transitivity)):
            makers[f"{name}_{scope}"] = partial(_grid, result, scope, plot, model)
    return makers


def measures_figure(
    result: Result, scope: str, draw: Callable[..., Any] = plot_distribution, model: str | None = None
) -> Figure:
    """Draw the four measures, a panel each, by `plot_distribution` or `plot_beside`."""
    figure = Figure(figsize=(8.2, 6.0))
    axes = list(figure.subplots(2, 2).flat)
    for ax, quantity in zip(axes, DISTRIBUTIONS, strict=True):
        draw(result, quantity, scope, ax, model)
    legend_above(figure, axes, 3)
    clips = f"{result.n_clips} clip{'s' if result.n_clips > 1 else ''}"
    figure.supxlabel(f"{model or result.model}, scope {scope}; {clips}", fontsize="small")
    return figure


def _grid(result: Result, scope: str, plot: Callable[..., Any], model: str) -> Figure:
    return layer_grid(result.layers_of(model), lambda layer, ax: plot(result, layer, scope, ax, model))
