"""Plots of historical decay: profiles by lag, half-lives, frame matrices, class rows and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from analysis.decay.metrics import block_size
from analysis.draw import (
    layer_grid,
    look_of,
    new_axes,
    no_data,
    plot_by_layer,
    positive,
    shifts,
    styled,
    titled,
    whole_directions,
    whole_numbers,
)
from analysis.result import Curve, Result
from vmp.layout import TokenLayout

DECADES = 6
"""Heatmaps show weights down to this many decades below the largest."""

CLOSE = 0.15
"""Half-lives that differ by less than this, in logs, are named together."""

BY_LAYER = ("half_life_tokens", "decay_index_tokens", "mean_distance_tokens", "effective_context_tokens")


@styled
def plot_lag_profile(
    result: Result, layer: int = 0, scope: str | None = None, ax: Axes | None = None, model: str | None = None
) -> Axes:
    """m(k) by token lag with its interval, and the exponential fit over the lags it was made on."""
    return _profiles(result, layer, scope, "lag_profile", "tokens", new_axes(ax), model)


@styled
def plot_frame_lag_profile(
    result: Result, layer: int = 0, scope: str | None = None, ax: Axes | None = None, model: str | None = None
) -> Axes:
    """m(tau) by frame lag with its interval, and the exponential fit."""
    return _profiles(result, layer, scope, "frame_lag_profile", "frames", new_axes(ax), model)


def _profiles(
    result: Result, layer: int, scope: str | None, quantity: str, unit: str, ax: Axes, model: str | None
) -> Axes:
    scope = scope or result.scopes[0]
    whole, seen = whole_directions(result, "decay", model), False
    for direction in result.directions("decay", model):
        curve = result.curve(quantity, layer, direction, scope, model)
        seen = seen or curve is not None
        if curve is None or not positive(curve.value).any():
            continue
        look, few = look_of(direction), len(curve.value) <= 32
        lags = np.arange(len(curve.value))
        ax.plot(lags, curve.value, **{**look, "marker": look["marker"] if few else ""}, label=direction)
        if curve.low is not None and curve.high is not None:
            ax.fill_between(lags, curve.low, curve.high, color=look["color"], alpha=0.2, linewidth=0)
        if direction in whole:
            rate, scale = (
                result.number(f"decay_{name}_{unit}", layer, direction, scope, model).value
                for name in ("rate", "fit_log_scale")
            )
            _fit_line(curve, direction, rate, scale, ax)
    if ax.lines:
        ax.set_yscale("log")
    else:
        no_data(ax, "no data: see the notes" if seen else "no such profile: see the notes")
    symbol = {"tokens": "k", "frames": "τ"}[unit]
    ax.set(
        xlabel=f"lag {symbol} ({unit})", ylabel=f"m({symbol})\n({result.weight_unit(scope, layer, model)})"
    )
    ax.xaxis.set_major_locator(whole_numbers(7))
    ax.set_title(titled(result, model, f"layer {layer}, scope {scope}"))
    return ax


def _fit_line(curve: Curve, direction: str, rate: float, scale: float, ax: Axes) -> None:
    if np.isnan(rate) or np.isnan(scale):
        return
    lags = np.linspace(1.0, len(curve.value) - 1, 64)
    shown = curve.value[positive(curve.value)]
    low, high = shown.min(), shown.max()
    line = np.exp(scale - rate * lags)
    # A fit is drawn only as far as the data go.
    line[(line < low / 2) | (line > high * 2)] = np.nan
    ax.plot(
        lags,
        line,
        color="black",
        linewidth=0.9,
        linestyle="-." if direction == "backward" else ":",
        label=f"exponential fit, {direction}",
    )


@styled
def plot_half_lives(
    result: Result, scope: str | None = None, ax: Axes | None = None, model: str | None = None
) -> Axes:
    """Measured half-life against the predicted one, in tokens; each point is one layer and direction.

    Across, a bar spans the 10th to the 90th percentile of predictions over channels and states; up, the interval over
    clips. The line is where an exponential profile lies whose half-life is the predicted one: lag 1 and then the
    half-life. A half-life beyond the sequence stands on the upper edge as a hollow triangle.
    """
    ax, scope = new_axes(ax), scope or result.scopes[0]
    ceiling = 1.6 * result.layout(model).length
    across: list[float] = []
    up: list[float] = []
    for direction in result.directions("decay", model):
        look = look_of(direction)
        names: dict[tuple[float, float], list[str]] = {}
        for layer in result.layers_of(model or result.model):
            measured, predicted, near, far = (
                result.number(name, layer, direction, scope, model)
                for name in (
                    "half_life_tokens",
                    "predicted_half_life_tokens",
                    "predicted_half_life_p10_tokens",
                    "predicted_half_life_p90_tokens",
                )
            )
            if np.isnan(measured.value) or np.isnan(predicted.value):
                continue
            x, y = predicted.value, min(measured.value, ceiling)
            beyond = np.isinf(measured.value)
            ends = [y if np.isnan(end) else min(end, ceiling) for end in (measured.low, measured.high)]
            ax.plot([near.value or x, far.value or x], [y, y], color=look["color"], linewidth=0.6, alpha=0.5)
            ax.plot([x, x], ends, color=look["color"], linewidth=1.4)
            ax.plot(
                x,
                y,
                color=look["color"],
                marker="^" if beyond else look["marker"],
                markerfacecolor="none" if beyond else look["color"],
                linestyle="none",
            )
            across += [x, near.value or x, far.value or x]
            up += [y, *ends]
            # Layers at one place share a name; those of the other direction stand on the other side of it.
            place = next(
                (p for p in names if np.allclose(np.log(p), np.log((x, y)), rtol=0, atol=CLOSE)), (x, y)
            )
            names.setdefault(place, []).append(str(layer))
        side, aligned = (-6, "right") if direction == "forward" else (6, "left")
        for place, layers in names.items():
            ax.annotate(
                ", ".join(layers), place, (side, 4), textcoords="offset points", fontsize=7, ha=aligned
            )
        ax.plot([], [], linestyle="none", marker=look["marker"], color=look["color"], label=direction)
    if up:
        there = [value for value in across if np.isfinite(value)] or up
        grid = np.geomspace(max(min(there) / 1.5, 1e-3), 1.5 * max(there), 64)
        ax.plot(grid, 1 + grid, color="0.4", linewidth=0.9, linestyle=":", label="lag 1 + predicted")
        ax.set(xscale="log", yscale="log", ylim=(min(up) / 1.5, 1.5 * max(up)))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    else:
        no_data(ax, "no half-life is defined: see the notes")
    ax.set(
        xlabel="predicted half-life (tokens), median and 10th to 90th percentile",
        ylabel="measured half-life (tokens)",
    )
    ax.set_title(titled(result, model, f"half-life by layer, scope {scope}"))
    ax.legend(loc="best")
    return ax


@styled
def plot_frame_matrix(
    result: Result,
    layer: int = 0,
    direction: str | None = None,
    scope: str | None = None,
    ax: Axes | None = None,
    model: str | None = None,
) -> Axes:
    """F[s, t]: which share of its weight a token of frame s gives to frame t."""
    ax, scope = new_axes(ax), scope or result.scopes[0]
    direction = direction or whole_directions(result, "decay", model)[0]
    curve = result.curve("frame_matrix", layer, direction, scope, model)
    if curve is None or not np.isfinite(curve.value).any():
        no_data(ax, "no frames to tell apart: see the notes" if curve is None else "no data: see the notes")
        return ax
    ax.imshow(curve.value, vmin=0, vmax=1, origin="upper")
    ax.grid(False)
    if len(curve.value) <= 10:
        for s, t in np.argwhere(curve.value > 0):
            share = curve.value[s, t]
            text = f"{share:.2f}".removeprefix("0")
            colour = "white" if share < 0.6 else "black"
            ax.text(t, s, text, ha="center", va="center", fontsize=6, color=colour)
    ax.set(xlabel="key frame t", ylabel="query frame s")
    ax.xaxis.set_major_locator(whole_numbers(8))
    ax.yaxis.set_major_locator(whole_numbers(8))
    ax.set_title(titled(result, model, f"layer {layer}, {direction}, scope {scope}"))
    return ax


@styled
def plot_class_row(
    result: Result, layer: int = 0, scope: str | None = None, ax: Axes | None = None, model: str | None = None
) -> Axes:
    """What the class token gives to each frame, by direction, with what it keeps to itself in the legend."""
    ax, scope = new_axes(ax), scope or result.scopes[0]
    directions = whole_directions(result, "decay", model)
    for shift, direction in zip(shifts(len(directions), 0.08), directions, strict=True):
        curve = result.curve("class_row", layer, direction, scope, model)
        if curve is None or not np.isfinite(curve.value).any():
            continue
        kept = result.number("class_self", layer, direction, scope, model).value
        label = f"{direction}, no weight" if np.isnan(kept) else f"{direction}, keeps {kept:.2f}"
        frames = np.arange(len(curve.value)) + shift
        bars = None
        if curve.low is not None and curve.high is not None:
            bars = np.stack([curve.value - curve.low, curve.high - curve.value]).clip(0)
        ax.errorbar(
            frames, curve.value, yerr=bars, capsize=2, elinewidth=1, label=label, **look_of(direction)
        )
    if ax.lines:
        ax.legend(loc="best")
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    else:
        no_data(ax, "no class token, one frame, or no data: see the notes")
    ax.set(xlabel="key frame t", ylabel="share of the class token's row")
    ax.xaxis.set_major_locator(whole_numbers())
    ax.set_title(titled(result, model, f"layer {layer}, scope {scope}"))
    return ax


@styled
def plot_weights(
    result: Result,
    layer: int = 0,
    direction: str | None = None,
    scope: str | None = None,
    ax: Axes | None = None,
    model: str | None = None,
) -> Axes:
    """W of one layer and direction, mean over clips, on a log scale with frame borders as lines; white where W is 0."""
    scope = scope or result.scopes[0]
    direction = direction or whole_directions(result, "decay", model)[0]
    curve = result.curve("weight_matrix", layer, direction, scope, model)
    if curve is None:
        raise KeyError("weight_matrix: no layer was drawn; Decay(draw=(layer, ...)) chooses those that are")
    title = titled(result, model, f"layer {layer}, {direction}, scope {scope}")
    return plot_matrix(curve.value, result.layout(model), ax, title=title, unit=curve.unit)


@styled
def plot_matrix(
    values: np.ndarray,
    layout: TokenLayout,
    ax: Axes | None = None,
    *,
    title: str = "",
    unit: str = "",
    norm: LogNorm | None = None,
) -> Axes:
    """Weights by query and key on a log scale; `norm` shares a scale, and its colour bar is left to the caller.

    Args:
        values: W (L, L), or its mean over blocks of tokens. unit: of W, for the colour bar.
    """
    ax = new_axes(ax)
    shown = np.ma.masked_less_equal(values, 0)
    length = layout.length
    image = ax.imshow(shown, norm=norm or log_norm([values]), extent=(0, length, length, 0), rasterized=True)
    for border in frame_borders(layout):
        ax.axhline(border, color="white", linewidth=0.5, alpha=0.8)
        ax.axvline(border, color="white", linewidth=0.5, alpha=0.8)
    ax.grid(False)
    if not positive(values).any():
        no_data(ax, "no data: see the notes")
    ax.set(xlabel="key j (token)", ylabel="query i (token)")
    ax.set_title(title)
    if norm is None:
        ax.figure.colorbar(image, ax=ax, label=f"W ({unit})" if unit else "W")
    return ax


def log_norm(matrices: Sequence[np.ndarray]) -> LogNorm:
    """A log colour scale over matrices, from their largest weight down to `DECADES` below it."""
    there = np.concatenate([values[positive(values)] for values in matrices])
    if there.size == 0:
        return LogNorm(0.1, 1)
    top = there.max()
    return LogNorm(max(there.min(), top * 10.0**-DECADES), top, clip=True)


def frame_borders(layout: TokenLayout) -> list[float]:
    """Positions between frames, in tokens; class tokens before or among the patches move them."""
    patches = layout.patch_positions().tolist()
    return [float(patches[t * layout.patches]) for t in range(1, layout.frames)]


PLOTS: Mapping[str, Callable[..., Any]] = {
    "lag_profile": plot_lag_profile,
    "frame_lag_profile": plot_frame_lag_profile,
    "half_lives": plot_half_lives,
    "frame_matrix": plot_frame_matrix,
    "class_row": plot_class_row,
    "weight_matrix": plot_weights,
}


def figures(result: Result, model: str) -> dict[str, Callable[[], Figure]]:
    """What there is to draw of one model, by file name."""
    makers: dict[str, Callable[[], Figure]] = {}
    layers, layout = result.layers_of(model), result.layout(model)
    drawn = _drawn(result, model)
    scan = not result.provenance.models[model].backend.startswith("none")
    for scope in result.scopes:

        def grid(draw: Callable[..., Any], scope: str = scope, legend: bool = True) -> Figure:
            return layer_grid(layers, lambda at, ax: draw(result, at, scope, ax, model=model), legend=legend)

        for layer in drawn:
            makers[f"attention_{scope}_layer{layer:02d}"] = partial(
                weights_figure, result, layer, scope, model
            )
        makers[f"lag_profile_{scope}"] = partial(grid, plot_lag_profile)
        if scan:
            makers[f"half_life_{scope}"] = partial(half_life_figure, result, scope, model)
        makers[f"by_layer_{scope}"] = partial(by_layer_figure, result, scope, model)
        if layout.frames < 2:
            continue
        makers[f"frame_lag_profile_{scope}"] = partial(grid, plot_frame_lag_profile)
        makers[f"frame_matrix_{scope}"] = partial(frame_matrix_figure, result, scope, drawn or layers, model)
        if layout.class_positions:
            makers[f"class_row_{scope}"] = partial(grid, plot_class_row, legend=False)
    return makers


def _drawn(result: Result, model: str) -> list[int]:
    """Layers whose mean matrix the model's result holds."""
    if "weight_matrix" not in result.data:
        return []
    there = set(result.layers_of(model))
    return [int(layer) for layer in result.data["drawn_layer"].values if int(layer) in there]


def weights_figure(result: Result, layer: int, scope: str, model: str | None = None) -> Figure:
    """W of one layer and scope, its directions side by side on one colour scale."""
    directions = whole_directions(result, "decay", model)
    curves = [result.curve("weight_matrix", layer, direction, scope, model) for direction in directions]
    values = {d: c.value for d, c in zip(directions, curves, strict=True) if c is not None}
    figure = Figure(figsize=(1.0 + 3.6 * len(values), 3.9))
    norm, layout = log_norm(list(values.values())), result.layout(model)
    axes = figure.subplots(1, len(values), squeeze=False)[0]
    for ax, (direction, matrix) in zip(axes, values.items(), strict=True):
        plot_matrix(matrix, layout, ax, title=f"layer {layer}, {direction}, scope {scope}", norm=norm)
    block = block_size(layout.length)
    blocks = "" if block == 1 else f", mean of {block} x {block} tokens"
    unit = result.weight_unit(scope, layer, model)
    figure.colorbar(axes[-1].images[0], ax=list(axes), label=f"W ({unit}{blocks})")
    return figure


def frame_matrix_figure(
    result: Result, scope: str, layers: Sequence[int], model: str | None = None
) -> Figure:
    """Frame matrices of some layers, a row each, on one colour scale."""
    directions = whole_directions(result, "decay", model)
    figure = Figure(figsize=(1.0 + 3.2 * len(directions), 3.0 * len(layers)))
    axes = figure.subplots(len(layers), len(directions), squeeze=False)
    for row, layer in zip(axes, layers, strict=True):
        for ax, direction in zip(row, directions, strict=True):
            plot_frame_matrix(result, layer, direction, scope, ax, model)
            ax.set_title(f"layer {layer}, {direction}")
    figure.suptitle(f"scope {scope}", fontsize="medium")
    images = [ax.images[0] for ax in axes.flat if ax.images]
    if images:
        shrink = max(0.3, 1 / len(layers))
        figure.colorbar(images[0], ax=axes, label="share of the row's weight", shrink=shrink)
    return figure


def by_layer_figure(result: Result, scope: str, model: str | None = None) -> Figure:
    """Four numbers of every layer at a glance."""
    figure = Figure(figsize=(7.6, 5.4))
    for ax, quantity in zip(figure.subplots(2, 2).flat, BY_LAYER, strict=True):
        plot_by_layer(result, quantity, scope, ax, model=model or result.model)
    return figure


def half_life_figure(result: Result, scope: str, model: str | None = None) -> Figure:
    """Measured against predicted half-lives."""
    figure = Figure(figsize=(5.6, 4.2))
    plot_half_lives(result, scope, figure.subplots(), model)
    return figure
