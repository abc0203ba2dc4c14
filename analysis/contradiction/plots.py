"""Contradiction results to matplotlib axes. Nothing is computed here that the result does not hold."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from analysis.contradiction.example import Example
from analysis.contradiction.measure import QUANTITIES
from analysis.contradiction.metrics import BINS
from analysis.contradiction.result import ContradictionResult, Side
from analysis.plots import LOOKS, layer_axis, new_axes, no_data, points, styled

MEASURES: Mapping[str, str] = {
    "mediator_sensitivity": "mediator_quantiles",
    "transitivity_unmasked": "transitivity_quantiles",
    "block_rank": "block_rank_quantiles",
    "contradictory_mass": "contradictory_quantiles",
}
"""The four measures, and the distribution of each."""

PARTS: Mapping[str, str] = {"ssm": "channels or heads", "mixer": "channels or outputs", "contribution": ""}
"""What a scope has a matrix for each of: the scan's channels, self-attention's heads or outputs; or one in all."""

CONTROL: Mapping[str, Any] = {"color": "#009E73", "linestyle": ":", "marker": "^"}
OTHER: Mapping[str, Any] = {"color": "#000000", "linestyle": "-", "marker": "D"}
"""A direction that is neither forward nor backward."""


def lines(result: ContradictionResult) -> Iterator[tuple[Side, str, str, Mapping[str, Any]]]:
    """Each model and direction with its label and look."""
    for side in result.sides:
        for direction in side.directions:
            if side is result.control:
                label = side.label if len(side.directions) == 1 else f"{side.label}, {direction}"
                yield side, direction, label, CONTROL
            else:
                yield side, direction, direction, LOOKS.get(direction, OTHER)


@styled
def plot_distribution(result: ContradictionResult, measure: str, scope: str, ax: Axes | None = None) -> Axes:
    """Quantiles of one measure by layer: a dot for the median, thick to the quartiles, thin to 5 % and 95 %."""
    ax = new_axes(ax)
    drawn = list(lines(result))
    shifts = np.linspace(-0.22, 0.22, len(drawn)) if len(drawn) > 1 else np.zeros(1)
    seen = []
    for shift, (side, direction, label, look) in zip(shifts, drawn, strict=True):
        quantiles = np.array(
            [side.curve(layer, direction, scope, MEASURES[measure]).value for layer in result.layers]
        )
        if not np.isfinite(quantiles).any():
            continue
        seen.append(quantiles)
        x, colour = np.arange(len(result.layers)) + shift, look["color"]
        ax.vlines(x, quantiles[:, 0], quantiles[:, 4], color=colour, linewidth=0.9)
        ax.vlines(x, quantiles[:, 1], quantiles[:, 3], color=colour, linewidth=3.2)
        ax.plot(
            x,
            quantiles[:, 2],
            linestyle="none",
            marker=look["marker"],
            color=colour,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.9,
            label=label,
        )
    if not seen:
        no_data(ax, "no data: see the notes")
    _scale(result, measure, scope, ax, np.concatenate(seen) if seen else np.zeros(0))
    ax.set(xlabel="layer", ylabel=label_of(measure))
    ax.set_xticks(*_layer_ticks(result.layers))
    ax.set_xlim(-0.5, len(result.layers) - 0.5)
    ax.set_title(_over(measure, scope))
    return ax


def _over(measure: str, scope: str) -> str:
    """What a measure's distribution in a scope is over."""
    parts = PARTS[scope]
    if measure == "contradictory_mass":
        return "over rows"
    if measure == "block_rank":
        return f"over {parts}" if parts else "one matrix a clip"
    return f"over {parts}, and triples" if parts else "over triples"


def _layer_ticks(layers: Sequence[int]) -> tuple[list[int], list[str]]:
    every = max(1, len(layers) // 8)
    return list(range(0, len(layers), every)), [str(layer) for layer in layers[::every]]


def _scale(
    result: ContradictionResult, measure: str, scope: str, ax: Axes, drawn: Float[np.ndarray, "*n"]
) -> None:
    """The axis that suits a measure, and the values that it is read against."""
    if measure == "mediator_sensitivity":
        _log_scale(ax, drawn)
    elif measure == "transitivity_unmasked":
        ax.set_ylim(-0.02, 1.02)
    elif measure == "contradictory_mass":
        ax.axhline(1, color="0.3", linewidth=0.9)
    else:
        bounds = {
            m.value
            for m in result.probed.measurements
            if (m.scope, m.quantity) == (scope, "block_rank_bound") and m.value is not None
        }
        if bounds:
            ax.set_yscale("log", base=2)
            ax.yaxis.set_major_formatter("{x:g}")
        for bound in bounds:
            ax.axhline(bound, color="0.3", linewidth=0.9, linestyle="--")
            ax.annotate(
                f"bound {bound:.0f}", (1, bound), (-2, 2), ("axes fraction", "data"), "offset points",
                ha="right", fontsize=7,
            )  # fmt: skip


def _log_scale(ax: Axes, drawn: Float[np.ndarray, "*n"]) -> None:
    """A log axis; linear below the smallest value above 0 where some are exactly 0, so that they are seen too."""
    if (drawn == 0).any():
        positive = drawn[drawn > 0] if (drawn > 0).any() else np.ones(1)
        ax.set_yscale("symlog", linthresh=positive.min())
        ax.set_ylim(-0.5 * positive.min(), 1.5 * positive.max())
    else:
        ax.set_yscale("log")


def label_of(quantity: str) -> str:
    """A quantity's name as an axis label, with its unit where it has one."""
    known = QUANTITIES[quantity]
    return known.label if known.unit == "none" else f"{known.label} ({known.unit})"


@styled
def plot_by_layer(result: ContradictionResult, quantity: str, scope: str, ax: Axes | None = None) -> Axes:
    """One number by layer for every model and direction, with intervals over clips."""
    ax = new_axes(ax)
    drawn = list(lines(result))
    shifts = np.linspace(-0.12, 0.12, len(drawn)) if len(drawn) > 1 else np.zeros(1)
    for shift, (side, direction, label, look) in zip(shifts, drawn, strict=True):
        rows = [side.measurement(layer, direction, scope, quantity) for layer in result.layers]
        points(ax, np.array(result.layers) + shift, rows, label, look)
    if quantity == "contradictory_mass":
        ax.axhline(1, color="0.3", linewidth=0.9)
    ax.set_ylabel(label_of(quantity))
    layer_axis(ax, result.layers)
    return ax


@styled
def plot_by_lag(result: ContradictionResult, layer: int, scope: str, ax: Axes | None = None) -> Axes:
    """Mediator sensitivity by octave of the lag between the two tokens, with its interval over clips."""
    ax = new_axes(ax)
    drawn = []
    for side, direction, label, look in lines(result):
        curve = side.curve(layer, direction, scope, "mediator_by_lag")
        if not np.isfinite(curve.value).any():
            continue
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
def plot_transitivity(result: ContradictionResult, layer: int, scope: str, ax: Axes | None = None) -> Axes:
    """Histogram of the transitivity residual before the mask, over channels and triples."""
    ax = new_axes(ax)
    edges = np.linspace(0, 1, BINS + 1)
    for side, direction, label, look in lines(result):
        share = side.curve(layer, direction, scope, "transitivity_histogram").value
        if np.isfinite(share).any():
            ax.stairs(share, edges, color=look["color"], linestyle=look["linestyle"], label=label)
    if not ax.patches:
        no_data(ax, "no triples: see the notes")
    ax.set(xlabel="transitivity residual", ylabel="share", xlim=(0, 1))
    ax.set_title(f"layer {layer}, scope {scope}")
    return ax


LARGE = 6
"""Patches down a frame up to which one has room for a letter."""


def example_frames(example: Example) -> list[int]:
    """The frames that a relation spans."""
    frames = example.places[[example.row, example.column], 0]
    return list(range(int(frames.min()), int(frames.max()) + 1))


@styled
def plot_example_frame(example: Example, frame: int, ax: Axes, norm: Normalize) -> Axes:
    """One frame with the tokens i and k outlined and those between shaded by how much they change the relation."""
    down, across = example.grid
    height, width = example.frames.shape[1:3]
    side_y, side_x = height / down, width / across
    ax.imshow(example.frames[frame])
    colours = matplotlib.colormaps["inferno"]

    def box(position: int, **look: Any) -> tuple[float, float]:
        _, r, c = example.places[position]
        corner = (c * side_x - 0.5, r * side_y - 0.5)
        ax.add_patch(Rectangle(corner, side_x, side_y, **look))
        return corner[0] + side_x / 2, corner[1] + side_y / 2

    for position, value in zip(example.between.tolist(), example.sensitivity, strict=True):
        if example.places[position, 0] == frame:
            red, green, blue, _ = colours(norm(value))
            box(position, facecolor=(red, green, blue, 0.6), edgecolor="white", linewidth=0.3)
    # A letter would hide a small patch, so it stands beside it.
    beside = (0, 0) if down <= LARGE else (0, 13)
    for position, name, colour in ((example.column, "k", "#D55E00"), (example.row, "i", "#0072B2")):
        if example.places[position, 0] == frame:
            box(position, facecolor="none", edgecolor="white", linewidth=3.6)
            centre = box(position, facecolor="none", edgecolor=colour, linewidth=2)
            ax.annotate(
                name, centre, beside, textcoords="offset points", ha="center", va="center", fontsize=8,
                fontweight="bold", color="white",
                bbox={"boxstyle": "circle,pad=0.15", "facecolor": colour, "edgecolor": "white"},
            )  # fmt: skip
    ax.set_axis_off()
    ax.set_title(f"frame {frame}", fontsize=8)
    return ax
