"""The figures of a contradiction result, as PNG and SVG."""

import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.contradiction import plots
from analysis.contradiction.example import RULE, Example
from analysis.contradiction.result import ContradictionResult
from analysis.figures import draw_all, layer_grid

ACROSS = 5
"""Frames in a row of the worked example."""


def write_figures(
    result: ContradictionResult,
    example: Example | None,
    directory: Path,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw everything a result holds into a folder, each figure as PNG and SVG, and return the PNG paths."""
    return draw_all(figure_makers(result, example), directory, progress)


def figure_makers(result: ContradictionResult, example: Example | None) -> dict[str, Callable[[], Figure]]:
    """What there is to draw, by file name: one function a figure."""
    makers: dict[str, Callable[[], Figure]] = {}
    for scope in result.scopes:
        grid = partial(layer_grid, result, scope)
        makers[f"distributions_{scope}"] = partial(measures_figure, result, scope, plots.plot_distribution)
        makers[f"by_layer_{scope}"] = partial(measures_figure, result, scope, plots.plot_by_layer)
        makers[f"sensitivity_by_lag_{scope}"] = partial(grid, plots.plot_by_lag)
        makers[f"transitivity_{scope}"] = partial(grid, plots.plot_transitivity)
    if example is not None:
        makers["example"] = partial(example_figure, example)
    return makers


def measures_figure(result: ContradictionResult, scope: str, draw: Callable[..., object]) -> Figure:
    """The four measures, a panel each."""
    figure = Figure(figsize=(8.2, 6.0))
    axes = figure.subplots(2, 2).flat
    for ax, measure in zip(axes, plots.MEASURES, strict=True):
        draw(result, measure, scope, ax)
    handles = {
        label: handle
        for ax in figure.axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
    clips = result.provenance.input.count
    about = f"{result.probed.label}, scope {scope}; {clips} clip{'s' if clips > 1 else ''}"
    figure.supxlabel(about, fontsize="small")
    return figure


def example_figure(example: Example) -> Figure:
    """The frames that the relation spans, i and k outlined, the tokens between shaded."""
    frames = plots.example_frames(example)
    columns = min(ACROSS, len(frames))
    rows = -(-len(frames) // columns)
    figure = Figure(figsize=(1.2 + 1.9 * max(columns, 3), 1.5 + 2.1 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    top = float(example.sensitivity.max()) if example.sensitivity.size else 0.0
    norm = Normalize(0, top or 1.0)
    for ax, frame in zip(axes.flat, frames, strict=False):
        plots.plot_example_frame(example, frame, ax, norm)
    for ax in list(axes.flat)[len(frames) :]:
        ax.remove()
    figure.colorbar(
        ScalarMappable(norm, "inferno"),
        ax=axes,
        label="change of the relation (nats)\nwith this token replaced",
        shrink=0.9,
    )
    strength = f"{example.share / example.blind:.1f} times" if example.blind > 0 else "more than"
    said = (
        f"Tokens i and k of clip {example.clip}: cosine {example.similarity:.2f}, P = {example.share:.3g}, {strength} "
        f"what their lag alone makes of it; layer {example.layer}, {example.direction}, scope {example.scope}."
    )
    figure.suptitle("\n".join(textwrap.wrap(said, 30 * max(columns, 3))), fontsize="small")
    figure.supxlabel(
        "\n".join(textwrap.wrap(f"Chosen by rule: {RULE}.", 34 * max(columns, 3))), fontsize="x-small"
    )
    return figure
