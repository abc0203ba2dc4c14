"""What every figure shares: style, looks, axes, panels, and numbers by layer; nothing is computed here.

A plot draws on the axes given, or on new ones, and returns them. Directions and models differ in line style and marker
as well as in colour, so that figures read in grey.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.measure import Measure, Quantity

if TYPE_CHECKING:
    from analysis.result import Number, Result

STYLE = Path(__file__).with_name("style.mplstyle")

LOOKS: Mapping[str, Mapping[str, Any]] = {
    "forward": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "backward": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "both": {"color": "#000000", "linestyle": "-", "marker": "D"},
    "both j<=i": {"color": "#56B4E9", "linestyle": "--", "marker": "<"},
    "both j>=i": {"color": "#E69F00", "linestyle": ":", "marker": ">"},
    "time": {"color": "#009E73", "linestyle": "-", "marker": "o"},
    "time j<=i": {"color": "#009E73", "linestyle": "--", "marker": "<"},
    "time j>=i": {"color": "#009E73", "linestyle": ":", "marker": ">"},
    "space": {"color": "#CC79A7", "linestyle": "-", "marker": "s"},
    "space j<=i": {"color": "#CC79A7", "linestyle": "--", "marker": "<"},
    "space j>=i": {"color": "#CC79A7", "linestyle": ":", "marker": ">"},
}
"""How each direction, and side of self-attention, is drawn; markers are used where points are few."""

OTHER: Mapping[str, Any] = {"color": "#000000", "linestyle": "-", "marker": "D"}
"""A direction that a family of a user's own may name."""

MODEL_LOOKS: Sequence[Mapping[str, Any]] = (
    {"color": "#000000", "marker": "D", "linestyle": "-"},
    {"color": "#009E73", "marker": "o", "linestyle": "--"},
    {"color": "#CC79A7", "marker": "^", "linestyle": ":"},
    {"color": "#0072B2", "marker": "s", "linestyle": "-."},
    {"color": "#D55E00", "marker": "v", "linestyle": (0, (1, 3))},
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (5, 1))},
)

FILLS = {"backward": "none", "j<=i": "left", "j>=i": "right"}
"""How full the markers of a direction, or side, are where colours and shapes tell models apart."""

SIDE_OF = {"forward": "j<=i", "backward": "j>=i"}
WHOLE_ROWS = ("both", "time", "space")
"""What a scan's direction stands beside in self-attention: that side alone, or the whole where sides are not apart;
with attention divided in two, each of the two."""

PANEL = (3.3, 2.6)
"""Inches of one panel of a grid."""

ACROSS = 3
"""Panels in a row of a grid, at most."""

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw with this package's style sheet and leave matplotlib's settings as they were."""

    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.style.context(STYLE):
            return draw(*args, **kwargs)

    return inner


def new_axes(ax: Axes | None) -> Axes:
    """The axes given, or new ones."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # Only where new axes are asked for: pyplot keeps every figure it makes.

    return plt.subplots()[1]


def look_of(direction: str) -> Mapping[str, Any]:
    return LOOKS.get(direction, OTHER)


def model_look(index: int) -> Mapping[str, Any]:
    """The look of a model; looks repeat after `MODEL_LOOKS`."""
    return MODEL_LOOKS[index % len(MODEL_LOOKS)]


def label_of(result: Result, quantity: str) -> str:
    """A quantity's name as an axis label, with its unit, in lines that a small panel has room for."""
    about = result.data[quantity].attrs  # Whether its measure is installed or not.
    return fill(Quantity(about["units"], about["long_name"]).axis_label, 32)


def titled(result: Result, model: str | None, title: str) -> str:
    """The title of a plot of one model, which is named where the result has several."""
    return f"{model or result.model}, {title}" if len(result.models) > 1 else title


def whole_directions(result: Result, measure: str, model: str | None = None) -> list[str]:
    """Directions without those that are one side of another."""
    return [direction for direction in result.directions(measure, model) if " " not in direction]


def shifts(count: int, reach: float) -> list[float]:
    """Places along an axis, so that none of `count` lines hides another."""
    return np.linspace(-reach, reach, count).tolist() if count > 1 else [0.0]


@styled
def plot_by_layer(
    result: Result,
    quantity: str,
    scope: str | None = None,
    ax: Axes | None = None,
    *,
    model: str | None = None,
    direction: str | None = None,
    **own: Any,
) -> Axes:
    """One quantity by layer and direction with intervals over clips; gaps are left open, arrows go beyond.

    Args:
        scope: the result's first where None. model: its only one; all of a comparison where None.
        direction: that one alone.
        own: the place on each of the quantity's own axes, such as `ranking="random"`.

    Raises:
        KeyError: for another argument.
        ValueError: where no model has the direction.
    """
    axes = [str(axis) for axis in result.data[quantity].dims[4:]]
    if foreign := [name for name in own if name not in axes]:
        takes = ", ".join(("scope", "ax", "model", "direction", *axes))
        raise KeyError(f"plot {quantity!r} takes no {foreign[0]!r}; it takes {takes}")
    ax = new_axes(ax)
    scope = scope or result.scopes[0]
    measure = result.data[quantity].attrs["measure"]
    models = [model] if model is not None else list(result.models)
    lines = [(m, d) for m in models for d in result.directions(measure, m) if direction in (None, d)]
    if not lines:
        known = dict.fromkeys(d for m in models for d in result.directions(measure, m))
        raise ValueError(f"no direction {direction!r} in any model; there are {', '.join(known)}")
    for shift, (name, where) in zip(shifts(len(lines), 0.03 * min(len(lines), 4)), lines, strict=True):
        layers = result.layers_of(name)
        rows = [result.number(quantity, layer, where, scope, name, **own) for layer in layers]
        look = look_of(where) if len(models) == 1 else model_look(result.models.index(name))
        if len(models) > 1 and direction is None:
            look = {**look, "fillstyle": FILLS.get(where.rpartition(" ")[2], "full")}
        label = where if len(models) == 1 else name if direction is not None else f"{name}, {where}"
        points(ax, np.array(layers) + shift, rows, label, look)
    ax.set_ylabel(label_of(result, quantity))
    layer_axis(ax, [layer for name in models for layer in result.layers_of(name)])
    said = [f"{axis} {place}" for axis, place in own.items()]
    ax.set_title(", ".join(filter(None, [direction, *said, f"scope {scope}"])))
    ax.legend(loc="best")
    return ax


@styled
def plot_side(
    result: Result, quantity: str, side: str, ax: Axes | None = None, *, scope: str | None = None
) -> Axes:
    """One quantity by layer for every model: a scan's direction, and self-attention's keys on that side.

    Args:
        side: "forward" or "backward".
    """
    ax = new_axes(ax)
    scope = scope or result.scopes[0]
    measure = result.data[quantity].attrs["measure"]
    for index, shift in enumerate(shifts(len(result.models), 0.12)):
        name = result.models[index]
        for direction in _sides(result.directions(measure, name), side):
            look = {**model_look(index), "markerfacecolor": "none" if direction.startswith("space") else None}
            layers = result.layers_of(name)
            rows = [result.number(quantity, layer, direction, scope, name) for layer in layers]
            points(ax, np.array(layers) + shift, rows, f"{name}, {direction}", look)
    if not ax.lines:
        no_data(ax, "no such direction in any model")
    ax.set_ylabel(label_of(result, quantity))
    layer_axis(ax, result.layers)
    ax.set_title(f"{side}, scope {scope}")
    return ax


def _sides(there: Sequence[str], side: str) -> Iterator[str]:
    for candidates in ((side,), *((f"{whole} {SIDE_OF[side]}", whole) for whole in WHOLE_ROWS)):
        direction = next((name for name in candidates if name in there), None)
        if direction is not None:
            yield direction


def side_figure(result: Result, quantity: str) -> Figure:
    """One quantity of several models, both directions side by side."""
    figure = Figure(figsize=(7.6, 3.5 + 0.12 * len(result.models)))
    axes = figure.subplots(1, 2, sharey=True)
    for ax, side in zip(axes, SIDE_OF, strict=True):
        plot_side(result, quantity, side, ax)
        handles, names = ax.get_legend_handles_labels()
        if handles:
            ax.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    axes[1].set_ylabel("")
    return figure


def figures_of(measure: Measure, result: Result, model: str) -> Mapping[str, Callable[[], Figure]]:
    """What there is to draw of a measure and a model, by file name."""
    own = measure.figures(result, model)
    return by_layer_figures(measure, result, model) if own is None else own


def by_layer_figures(measure: Measure, result: Result, model: str) -> dict[str, Callable[[], Figure]]:
    """A figure for each number of a measure that names no figures of its own."""
    numbers = [name for name, quantity in measure.quantities.items() if not quantity.dims]
    return {
        f"{name}_{scope}": partial(_by_layer, result, name, scope, model)
        for name in numbers
        for scope in result.scopes
        if measure.level == "matrix"
    }


def _by_layer(result: Result, quantity: str, scope: str, model: str) -> Figure:
    figure = Figure(figsize=(5.2, 3.6))
    plot_by_layer(result, quantity, scope, figure.subplots(), model=model)
    return figure


def layer_axis(ax: Axes, layers: Iterable[int]) -> None:
    """Label the axis of layers, with ticks at those that were probed: all, or evenly some of many."""
    probed = sorted(set(layers))
    ax.set_xlabel("layer")
    ax.set_xticks(probed[:: max(1, len(probed) // 8)])


def points(ax: Axes, at: np.ndarray, rows: Sequence[Number], label: str, look: Mapping[str, Any]) -> None:
    """Numbers with their intervals as error bars; an infinite one is a mark at the edge."""
    value, low, high = (
        np.array([v if np.isfinite(v) else np.nan for v in (getattr(row, name) for row in rows)])
        for name in ("value", "low", "high")
    )
    bars = np.nan_to_num(np.stack([value - low, high - value]).clip(0))
    ax.errorbar(at, value, yerr=bars, capsize=2, elinewidth=1, label=label, **look)
    for x, row in zip(at, rows, strict=True):
        _mark_beyond(ax, x, row, look)


def _mark_beyond(ax: Axes, x: float, row: Number, look: Mapping[str, Any]) -> None:
    """An arrow to the edge where an end of the interval is infinite, and a hollow triangle where the value is."""
    known = [v for v in (row.value, row.low, row.high) if not np.isnan(v)]
    infinite = [v for v in known if np.isinf(v)]
    if not infinite:
        return
    edge, marker = (0.98, "^") if infinite[0] > 0 else (0.02, "v")
    at_edge = ax.get_xaxis_transform()
    if np.isinf(known[0]):
        ax.plot(x, edge, marker, color=look["color"], markerfacecolor="none", transform=at_edge)
    finite = [v for v in known if np.isfinite(v)]
    if finite:
        start = known[0] if np.isfinite(known[0]) else finite[0]
        # An annotation is no part of the data: without this its start may lie beyond the axes.
        ax.update_datalim([(x, start)])
        ax.autoscale_view()
        arrow = {"arrowstyle": "->", "color": look["color"], "linewidth": 1}
        ax.annotate("", (x, edge), (x, start), at_edge, "data", arrowprops=arrow)


def no_data(ax: Axes, why: str) -> None:
    """Say in the place of data why there is none."""
    ax.text(0.5, 0.5, fill(why, 24), ha="center", va="center", transform=ax.transAxes, color="0.3")


def whole_numbers(most: int | Literal["auto"] = "auto") -> MaxNLocator:
    """Ticks at whole numbers alone, be there but one, such as layers and frames."""
    return MaxNLocator(nbins=most, integer=True, min_n_ticks=1)


def positive(values: np.ndarray) -> np.ndarray:
    """Which entries a log axis can show."""
    return np.isfinite(values) & (values > 0)


def legend_above(figure: Figure, axes: Iterable[Axes], columns: int) -> None:
    """One legend for all axes, above them, where their entries are the same."""
    handles = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=min(columns, len(handles))
        )


def layer_grid(layers: Sequence[int], draw: Callable[[int, Axes], Any], *, legend: bool = True) -> Figure:
    """A panel a layer, with one legend for all."""
    columns = 2 if len(layers) in (2, 4) else min(ACROSS, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = Figure(figsize=(max(5.2, PANEL[0] * columns), PANEL[1] * rows + 0.5 * legend))
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for ax, layer in zip(axes, layers, strict=False):
        draw(layer, ax)
    for ax in axes[len(layers) :]:
        ax.remove()
    if legend:
        legend_above(figure, axes[: len(layers)], 4)
    return figure


def write_figures(
    makers: Mapping[str, Callable[[], Figure]],
    directory: Path,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw figures, given by name, into a folder as PNG and SVG; return the PNG paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.style.context(STYLE):
        for name, draw in makers.items():
            written.append(save_figure(draw(), directory / name))
            if progress is not None:
                progress(name)
    return written


def save_figure(figure: Figure, stem: Path) -> Path:
    """Write `stem`.png and `stem`.svg within this package's style, always the same bytes, and return the first.

    The figure keeps the layout, resolution and canvas that it is written with.
    """
    # Not by `savefig`, which lays a figure out once and draws it twice for each file.
    figure.set_dpi(matplotlib.rcParams["savefig.dpi"])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return png
