"""The figures of a decay result, as PNG and SVG."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from analysis import plots
from analysis.decay.heatmaps import Heatmap
from analysis.decay.result import DecayResult
from analysis.figures import draw_all, layer_grid


def write_figures(
    result: DecayResult,
    heatmaps: Sequence[Heatmap],
    directory: Path,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw everything a result holds into a folder, each figure as PNG and SVG, and return the PNG paths."""
    return draw_all(figure_makers(result, heatmaps), directory, progress)


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
        if any(sums.predicted is not None for sums in result.sums):
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
    figure.colorbar(
        axes[-1].images[0], ax=list(axes), label=plots.weight_label(result.weight_unit(heatmaps[0].scope))
    )
    return figure


def frame_matrix_figure(result: DecayResult, scope: str, layers: Sequence[int]) -> Figure:
    """Frame matrices of some layers, a row each, on one colour scale."""
    directions = result.whole_directions
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
