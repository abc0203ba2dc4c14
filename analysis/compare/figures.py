"""The figures of a comparison, as PNG and SVG: one a measure."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import plots as decay_plots
from analysis.compare import plots
from analysis.compare.result import CompareResult, ModelResult
from analysis.compare.table import CONTRADICTION, DECAY
from analysis.contradiction.measure import QUANTITIES
from analysis.figures import draw_all

DRAWN = ("rollout contribution", "last row contribution", "gradient", "gradient x change")
"""Measures whose deletion curves are drawn; areas are drawn of all."""


def write_figures(
    result: CompareResult, directory: Path, progress: Callable[[str], None] | None = None
) -> list[Path]:
    """Draw everything a result holds into a folder, each figure as PNG and SVG, and return the PNG paths."""
    return draw_all(figure_makers(result), directory, progress)


def figure_makers(result: CompareResult) -> dict[str, Callable[[], Figure]]:
    """What there is to draw, by file name: one function a figure."""
    labels = {name: decay_plots.quantity_label(name) for name in DECAY}
    labels |= {
        name: f"{QUANTITIES[name].label} ({QUANTITIES[name].unit.replace('none', 'no unit')})"
        for name in CONTRADICTION
    }
    makers: dict[str, Callable[[], Figure]] = {
        name: partial(_sides, result, name, label) for name, label in labels.items()
    }
    parts = dict.fromkeys(c.part for model in result.models for c in model.faithfulness.curves)
    if parts:
        makers["relevance_by_frame"] = partial(_frames, result)
        makers["faithfulness"] = partial(_areas, result, tuple(parts))
    for part in parts:
        makers[f"deletion_{part}"] = partial(_curves, result, part)
    return makers


def _sides(result: CompareResult, quantity: str, label: str) -> Figure:
    figure = Figure(figsize=(7.6, 3.5 + 0.12 * len(result.models)))
    axes = figure.subplots(1, 2, sharey=True)
    for ax, side in zip(axes, plots.SIDES, strict=True):
        plots.plot_quantity(result, quantity, label, side, ax)
        handles, names = ax.get_legend_handles_labels()
        if handles:
            ax.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    axes[1].set_ylabel("")
    return figure


def _areas(result: CompareResult, parts: tuple[str, ...]) -> Figure:
    figure = Figure(figsize=(1.4 + 3.4 * len(parts), 1.6 + 0.16 * len(result.models) * 8))
    axes = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    for ax, part in zip(axes, parts, strict=True):
        plots.plot_less_random(result, part, ax)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(names)))
    return figure


def _each(result: CompareResult, draw: Callable[[ModelResult, Axes], Axes]) -> Figure:
    """A panel a model, with one legend for all."""
    n = len(result.models)
    columns = min(3, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(max(5.2, 2.9 * columns), 2.5 * rows + 0.6))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for place, (ax, model) in enumerate(zip(axes, result.models, strict=False)):
        draw(model, ax)
        if place % columns:
            ax.set_ylabel("")
    for ax in axes[n:]:
        ax.remove()
    handles = {
        name: handle for ax in axes[:n] for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
    return figure


def _curves(result: CompareResult, part: str) -> Figure:
    return _each(result, lambda model, ax: plots.plot_deletion(result, model, part, DRAWN, ax))


def _frames(result: CompareResult) -> Figure:
    return _each(result, lambda model, ax: plots.plot_by_frame(result, model, DRAWN, ax))
