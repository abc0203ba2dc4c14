"""The figures of a decay result, as PNG and SVG."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import plots
from analysis.decay.heatmaps import Heatmap
from analysis.decay.result import DecayResult

PANEL = (3.3, 2.6)
"""Inches of one panel of a grid."""

COLUMNS = 3


def write_figures(
    result: DecayResult,
    heatmaps: Sequence[Heatmap],
    directory: Path,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw everything a result holds into a folder, each figure as PNG and SVG, and return the PNG paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.style.context(plots.STYLE):
        for name, draw in figure_makers(result, heatmaps).items():
            written.append(save_figure(draw(), directory / name))
            if progress is not None:
                progress(name)
    return written


def save_figure(figure: Figure, stem: Path) -> Path:
    """Write ``stem``.png and ``stem``.svg and return the first."""
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(stem.with_suffix(".png"))
    return stem.with_suffix(".png")


def figure_makers(result: DecayResult, heatmaps: Sequence[Heatmap]) -> dict[str, Callable[[], Figure]]:
    """What there is to draw, by file name: one function a figure."""
    makers: dict[str, Callable[[], Figure]] = {}
    drawn = list(dict.fromkeys(h.layer for h in heatmaps)) or list(result.layers)
    for scope in result.scopes:
        for layer in dict.fromkeys(h.layer for h in heatmaps):
            pair = [h for h in heatmaps if h.layer == layer and h.scope == scope]
            makers[f"attention_{scope}_layer{layer:02d}"] = partial(attention_figure, result, pair)
        grid = partial(layer_grid, result, scope)
        makers[f"lag_profile_{scope}"] = partial(grid, plots.plot_lag_profile)
        makers[f"half_life_{scope}"] = partial(half_life_figure, result, scope)
        makers[f"by_layer_{scope}"] = partial(by_layer_figure, result, scope)
        if result.layout.frames < 2:
            continue
        makers[f"frame_lag_profile_{scope}"] = partial(grid, plots.plot_frame_lag_profile)
        makers[f"frame_matrix_{scope}"] = partial(frame_matrix_figure, result, scope, drawn)
        if result.layout.class_positions:
            makers[f"class_row_{scope}"] = partial(grid, plots.plot_class_row, legend=False)
    return makers


def attention_figure(result: DecayResult, heatmaps: Sequence[Heatmap]) -> Figure:
    """W of one layer and scope, its directions side by side on one colour scale."""
    figure = Figure(figsize=(1.0 + 3.6 * len(heatmaps), 3.9))
    norm = plots.log_norm(heatmaps)
    axes = figure.subplots(1, len(heatmaps), squeeze=False)[0]
    for ax, heatmap in zip(axes, heatmaps, strict=True):
        plots.plot_implicit_attention(heatmap, result.layout, ax, norm=norm)
    figure.colorbar(axes[-1].images[0], ax=list(axes), label=plots.weight_label(heatmaps[0].scope))
    return figure


def frame_matrix_figure(result: DecayResult, scope: str, layers: Sequence[int]) -> Figure:
    """Frame matrices of some layers, a row each, on one colour scale."""
    directions = result.directions
    figure = Figure(figsize=(1.0 + 3.2 * len(directions), 3.0 * len(layers)))
    axes = figure.subplots(len(layers), len(directions), squeeze=False)
    for row, layer in zip(axes, layers, strict=True):
        for ax, direction in zip(row, directions, strict=True):
            plots.plot_frame_matrix(result, layer, direction, scope, ax).set_title(
                f"layer {layer}, {direction}"
            )
    figure.suptitle(f"scope {scope}", fontsize="medium")
    images = [ax.images[0] for ax in axes.flat if ax.images]
    if images:
        figure.colorbar(
            images[0], ax=axes, label="share of the row's weight", shrink=max(0.3, 1 / len(layers))
        )
    return figure


def by_layer_figure(result: DecayResult, scope: str) -> Figure:
    """Four numbers of every layer at a glance."""
    quantities = (
        "half_life_tokens",
        "decay_index_tokens",
        "mean_distance_tokens",
        "effective_context_tokens",
    )
    figure = Figure(figsize=(7.6, 5.4))
    for ax, quantity in zip(figure.subplots(2, 2).flat, quantities, strict=True):
        plots.plot_by_layer(result, quantity, scope, ax)
    return figure


def half_life_figure(result: DecayResult, scope: str) -> Figure:
    """Measured against predicted half-lives."""
    figure = Figure(figsize=(5.6, 4.2))
    plots.plot_half_lives(result, scope, figure.subplots())
    return figure


def layer_grid(
    result: DecayResult,
    scope: str,
    draw: Callable[[DecayResult, int, str, Axes], Axes],
    *,
    legend: bool = True,
) -> Figure:
    """A panel a layer, with one legend for all where their entries are the same."""
    layers = result.layers
    columns = 2 if len(layers) in (2, 4) else min(COLUMNS, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = Figure(figsize=(max(5.2, PANEL[0] * columns), PANEL[1] * rows + 0.5 * legend))
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for ax, layer in zip(axes, layers, strict=False):
        draw(result, layer, scope, ax)
    for ax in axes[len(layers) :]:
        ax.remove()
    handles = {
        label: handle
        for ax in axes[: len(layers)]
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if legend and handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=min(4, len(handles))
        )
    return figure
