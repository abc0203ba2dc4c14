"""Saved results to matplotlib axes. Nothing is computed here that the result does not hold.

Every function draws on the axes given, or on new ones, and returns them: ``plot_lag_profile(result, 0, "ssm",
ax)``. Directions differ in line style and marker as well as in colour, so figures read in grey.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from analysis.decay.heatmaps import Heatmap
from analysis.decay.measure import QUANTITIES, WEIGHT_UNITS
from analysis.decay.result import DecayResult
from analysis.results import Curve, Layout, Measurement

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

MODEL_LOOKS: Sequence[Mapping[str, Any]] = (
    {"color": "#000000", "marker": "D", "linestyle": "-"},
    {"color": "#009E73", "marker": "o", "linestyle": "--"},
    {"color": "#CC79A7", "marker": "^", "linestyle": ":"},
)

DECADES = 6
"""Heatmaps show weights down to this many decades below the largest."""

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
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # Only where new axes are asked for: pyplot keeps every figure it makes.

    return plt.subplots()[1]


@styled
def plot_implicit_attention(
    heatmap: Heatmap,
    layout: Layout,
    ax: Axes | None = None,
    *,
    norm: LogNorm | None = None,
    unit: str | None = None,
) -> Axes:
    """W of one layer and direction on a log scale, frame borders as lines; white where W is 0.

    ``norm`` shares a colour scale between axes; a colour bar is then left to the caller. ``unit`` of W is that of a
    scan's scope where None.
    """
    ax = new_axes(ax)
    shown = np.ma.masked_less_equal(heatmap.values, 0)
    length = layout.length
    image = ax.imshow(shown, norm=norm or log_norm([heatmap]), extent=(0, length, length, 0), rasterized=True)
    for border in frame_borders(layout):
        ax.axhline(border, color="white", linewidth=0.5, alpha=0.8)
        ax.axvline(border, color="white", linewidth=0.5, alpha=0.8)
    ax.grid(False)
    ax.set(xlabel="key j (token)", ylabel="query i (token)")
    ax.set_title(f"layer {heatmap.layer}, {heatmap.direction}, scope {heatmap.scope}")
    if norm is None:
        ax.figure.colorbar(image, ax=ax, label=weight_label(unit or WEIGHT_UNITS[heatmap.scope]))
    return ax


def log_norm(heatmaps: Sequence[Heatmap]) -> LogNorm:
    """A log colour scale over the heatmaps, from their largest weight down to `DECADES` below it."""
    positive = np.concatenate([h.values[_positive(h.values)] for h in heatmaps])
    if positive.size == 0:
        return LogNorm(0.1, 1)
    top = positive.max()
    return LogNorm(max(positive.min(), top * 10.0**-DECADES), top, clip=True)


def weight_label(unit: str) -> str:
    return f"W ({unit})"


def frame_borders(layout: Layout) -> list[float]:
    """Positions between frames, in tokens; class tokens before or among the patches move them."""
    patches = [i for i in range(layout.length) if i not in layout.class_positions]
    return [float(patches[t * layout.patches]) for t in range(1, layout.frames)]


@styled
def plot_lag_profile(result: DecayResult, layer: int, scope: str, ax: Axes | None = None) -> Axes:
    """m(k) by token lag with its interval, and the exponential fit over the lags it was made on."""
    return _profiles(result, layer, scope, "lag_profile", "tokens", new_axes(ax))


@styled
def plot_frame_lag_profile(result: DecayResult, layer: int, scope: str, ax: Axes | None = None) -> Axes:
    """m(tau) by frame lag with its interval, and the exponential fit."""
    return _profiles(result, layer, scope, "frame_lag_profile", "frames", new_axes(ax))


def _profiles(result: DecayResult, layer: int, scope: str, quantity: str, unit: str, ax: Axes) -> Axes:
    found = [result.curve(layer, direction, scope, quantity) for direction in result.directions]
    curves = [curve for curve in found if curve is not None]
    for curve in curves:
        if not _positive(curve.value).any():
            continue
        direction = curve.direction
        look, few = LOOKS[direction], len(curve.value) <= 32
        lags = np.arange(len(curve.value))
        ax.plot(lags, curve.value, **{**look, "marker": look["marker"] if few else ""}, label=direction)
        if curve.low is not None and curve.high is not None:
            ax.fill_between(lags, curve.low, curve.high, color=look["color"], alpha=0.2, linewidth=0)
        if direction in result.whole_directions:
            _fit_line(result, curve, unit, ax)
    if ax.lines:
        ax.set_yscale("log")
    else:
        no_data(ax, "no data: see the notes" if curves else "no such profile: see the notes")
    symbol = {"tokens": "k", "frames": "τ"}[unit]
    ax.set(xlabel=f"lag {symbol} ({unit})", ylabel=f"m({symbol})\n({result.weight_unit(scope)})")
    ax.xaxis.set_major_locator(whole_numbers(7))
    ax.set_title(f"layer {layer}, scope {scope}")
    return ax


def _positive(values: np.ndarray) -> np.ndarray:
    """Which entries a log axis can show."""
    return np.isfinite(values) & (values > 0)


def _fit_line(result: DecayResult, curve: Curve, unit: str, ax: Axes) -> None:
    rate, scale = (
        result.measurement(curve.layer, curve.direction, curve.scope, f"decay_{name}_{unit}").value
        for name in ("rate", "fit_log_scale")
    )
    if rate is None or scale is None:
        return
    lags = np.linspace(1.0, len(curve.value) - 1, 64)
    shown = curve.value[_positive(curve.value)]
    low, high = shown.min(), shown.max()
    line = np.exp(scale - rate * lags)
    # A fit is drawn only as far as the data go.
    line[(line < low / 2) | (line > high * 2)] = np.nan
    ax.plot(
        lags,
        line,
        color="black",
        linewidth=0.9,
        linestyle="-." if curve.direction == "backward" else ":",
        label=f"exponential fit, {curve.direction}",
    )


@styled
def plot_half_lives(result: DecayResult, scope: str, ax: Axes | None = None) -> Axes:
    """Measured half-life against the predicted one, in tokens; each point is a layer and direction.

    Across, a bar spans the 10th to the 90th percentile of predictions over channels and states; up, the
    interval over clips. The line is where an exponential profile lies whose half-life is the predicted one:
    lag 1 and then the half-life. A half-life beyond the sequence stands on the upper edge as a hollow
    triangle.
    """
    ax = new_axes(ax)
    ceiling = 1.6 * result.layout.length
    values: list[float] = []
    for direction in result.directions:
        look = LOOKS[direction]
        for layer in result.layers:
            measured, predicted, near, far = (
                result.measurement(layer, direction, scope, name)
                for name in (
                    "half_life_tokens",
                    "predicted_half_life_tokens",
                    "predicted_half_life_p10_tokens",
                    "predicted_half_life_p90_tokens",
                )
            )
            if measured.value is None or predicted.value is None:
                continue
            x, y = predicted.value, min(measured.value, ceiling)
            beyond = np.isinf(measured.value)
            ends = [min(end, ceiling) if end is not None else y for end in (measured.low, measured.high)]
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
            # Layers of both directions may lie at one place: names stand left of one and right of the other.
            side = -1 if direction == "forward" else 1
            aligned = "right" if side < 0 else "left"
            ax.annotate(
                str(layer), (x, y), xytext=(6 * side, 4), textcoords="offset points", fontsize=7, ha=aligned
            )
            values += [x, y, near.value or x]
        ax.plot([], [], linestyle="none", marker=look["marker"], color=look["color"], label=direction)
    if values:
        grid = np.geomspace(max(min(values) / 2, 1e-3), ceiling, 64)
        ax.plot(grid, 1 + grid, color="0.4", linewidth=0.9, linestyle=":", label="lag 1 + predicted")
        ax.set(xscale="log", yscale="log", ylim=(min(1.0, min(values)) * 0.8, ceiling * 1.3))
    else:
        no_data(ax, "no half-life is defined: see the notes")
    ax.set(
        xlabel="predicted half-life (tokens), median and 10th to 90th percentile",
        ylabel="measured half-life (tokens)",
    )
    ax.set_title(f"half-life by layer, scope {scope}")
    ax.legend(loc="best")
    return ax


@styled
def plot_frame_matrix(
    result: DecayResult, layer: int, direction: str, scope: str, ax: Axes | None = None
) -> Axes:
    """F[s, t]: which share of its weight a token of frame s gives to frame t."""
    ax = new_axes(ax)
    curve = result.curve(layer, direction, scope, "frame_matrix")
    if curve is None:
        no_data(ax, "no frames to tell apart: see the notes")
        return ax
    if not np.isfinite(curve.value).any():
        no_data(ax, "no data: see the notes")
        return ax
    ax.imshow(curve.value, vmin=0, vmax=1, origin="upper")
    ax.grid(False)
    frames = len(curve.value)
    if frames <= 10:
        for s, t in np.argwhere(curve.value > 0):
            share = curve.value[s, t]
            text = f"{share:.2f}".removeprefix("0")
            ax.text(
                t, s, text, ha="center", va="center", fontsize=6, color="white" if share < 0.6 else "black"
            )
    ax.set(xlabel="key frame t", ylabel="query frame s")
    ax.xaxis.set_major_locator(whole_numbers(8))
    ax.yaxis.set_major_locator(whole_numbers(8))
    ax.set_title(f"layer {layer}, {direction}, scope {scope}")
    return ax


@styled
def plot_class_row(result: DecayResult, layer: int, scope: str, ax: Axes | None = None) -> Axes:
    """What the class token gives to each frame, by direction, with what it keeps to itself in the legend."""
    ax = new_axes(ax)
    for shift, direction in _side_by_side(result.whole_directions, 0.08):
        curve = result.curve(layer, direction, scope, "class_row")
        if curve is None or not np.isfinite(curve.value).any():
            continue
        kept = result.measurement(layer, direction, scope, "class_self").value
        label = f"{direction}, keeps {kept:.2f}" if kept is not None else f"{direction}, no weight"
        frames = np.arange(len(curve.value)) + shift
        ax.errorbar(
            frames,
            curve.value,
            yerr=_error_bars(curve),
            capsize=2,
            elinewidth=1,
            label=label,
            **LOOKS[direction],
        )
    if ax.lines:
        ax.legend(loc="best")
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    else:
        no_data(ax, "no class token, one frame, or no data: see the notes")
    ax.set(xlabel="key frame t", ylabel="share of the class token's row")
    ax.xaxis.set_major_locator(whole_numbers())
    ax.set_title(f"layer {layer}, scope {scope}")
    return ax


def _side_by_side(directions: Sequence[str], reach: float) -> Iterator[tuple[float, str]]:
    """Each direction with its shift along the axis, so that none hides another."""
    shifts = np.linspace(-reach, reach, len(directions)) if len(directions) > 1 else [0.0]
    yield from zip(map(float, shifts), directions, strict=True)


def _error_bars(curve: Curve) -> np.ndarray | None:
    if curve.low is None or curve.high is None:
        return None
    return np.stack([curve.value - curve.low, curve.high - curve.value]).clip(0)


@styled
def plot_by_layer(result: DecayResult, quantity: str, scope: str, ax: Axes | None = None) -> Axes:
    """One quantity by layer and direction with intervals over clips; gaps are left open, arrows go beyond."""
    ax = new_axes(ax)
    for shift, direction in _side_by_side(result.directions, 0.06):
        rows = [result.measurement(layer, direction, scope, quantity) for layer in result.layers]
        points(ax, np.array(result.layers) + shift, rows, direction, LOOKS[direction])
    ax.set_ylabel(quantity_label(quantity))
    layer_axis(ax, result.layers)
    ax.set_title(f"scope {scope}")
    ax.legend(loc="best")
    return ax


@styled
def plot_models(
    results: Mapping[str, DecayResult], quantity: str, scope: str, direction: str, ax: Axes | None = None
) -> Axes:
    """One quantity by layer for several models in one direction, with intervals over clips.

    Raises ValueError where no model has that direction; one that lacks it is left out.
    """
    known = list(dict.fromkeys(d for result in results.values() for d in result.directions))
    if direction not in known:
        raise ValueError(f"no direction {direction!r} in any model; there are {', '.join(known)}")
    ax = new_axes(ax)
    shifts = np.linspace(-0.08, 0.08, len(results)) if len(results) > 1 else [0.0]
    for (name, result), look, shift in zip(results.items(), cycle(MODEL_LOOKS), shifts, strict=False):
        if direction in result.directions:
            rows = [result.measurement(layer, direction, scope, quantity) for layer in result.layers]
            points(ax, np.array(result.layers) + shift, rows, name, look)
    ax.set_ylabel(quantity_label(quantity))
    layer_axis(ax, [layer for made in results.values() for layer in made.layers])
    ax.set_title(f"{direction}, scope {scope}")
    ax.legend(loc="best")
    return ax


def layer_axis(ax: Axes, layers: Iterable[int]) -> None:
    """Label the axis of layers, with ticks at those that were probed: all, or evenly some of many."""
    probed = sorted(set(layers))
    ax.set_xlabel("layer")
    ax.set_xticks(probed[:: max(1, len(probed) // 8)])


def quantity_label(quantity: str) -> str:
    """A quantity's name as an axis label, with its unit."""
    known = QUANTITIES[quantity]
    return f"{known.label} ({'no unit' if known.unit == 'none' else known.unit})"


def points(
    ax: Axes, at: np.ndarray, rows: Sequence[Measurement], label: str, look: Mapping[str, Any]
) -> None:
    value, low, high = (
        np.array([np.nan if v is None or np.isinf(v) else v for v in (getattr(row, name) for row in rows)])
        for name in ("value", "low", "high")
    )
    bars = np.nan_to_num(np.stack([value - low, high - value]).clip(0))
    ax.errorbar(at, value, yerr=bars, capsize=2, elinewidth=1, label=label, **look)
    for x, row in zip(at, rows, strict=True):
        _mark_beyond(ax, x, row, look)


def _mark_beyond(ax: Axes, x: float, row: Measurement, look: Mapping[str, Any]) -> None:
    """An arrow to the edge where an end of the interval is infinite, and a hollow triangle where the value is."""
    known = [v for v in (row.value, row.low, row.high) if v is not None]
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
    ax.text(0.5, 0.5, fill(why, 24), ha="center", va="center", transform=ax.transAxes, color="0.3")


def whole_numbers(most: int | Literal["auto"] = "auto") -> MaxNLocator:
    """Ticks at whole numbers alone, be there but one, such as layers and frames."""
    return MaxNLocator(nbins=most, integer=True, min_n_ticks=1)
