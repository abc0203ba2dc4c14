"""Comparisons to matplotlib axes, one line or mark a model; looks differ in marker and dash as well as in colour."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.bootstrap import percentile_interval, resample_weights
from analysis.compare.faithful import MEASURES, RANDOM
from analysis.compare.result import CompareResult, ModelResult
from analysis.plots import MODEL_LOOKS, layer_axis, new_axes, no_data, points, styled, whole_numbers
from analysis.results import Measurement

LOOKS: Sequence[Mapping[str, Any]] = (
    *MODEL_LOOKS,
    {"color": "#0072B2", "marker": "s", "linestyle": "-."},
    {"color": "#D55E00", "marker": "v", "linestyle": (0, (1, 3))},
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (5, 1))},
)

SIDES = {"forward": "j<=i", "backward": "j>=i"}
WHOLE = ("both", "time", "space")
"""What a scan's direction stands beside in self-attention: that side alone, or the whole where sides are not apart;
with attention divided in two, each of the two."""


def model_look(index: int) -> Mapping[str, Any]:
    """The look of a model; they repeat after `LOOKS`."""
    return LOOKS[index % len(LOOKS)]


@styled
def plot_quantity(
    result: CompareResult, quantity: str, label: str, side: str, ax: Axes | None = None
) -> Axes:
    """One quantity of decay or contradiction by layer, with intervals over clips, for every model.

    Args:
        side: "forward" or "backward": the scan's direction, and in self-attention the keys on that side.
    """
    ax = new_axes(ax)
    shifts = np.linspace(-0.12, 0.12, len(result.models))
    for index, (model, shift) in enumerate(zip(result.models, shifts, strict=True)):
        for direction, rows in _rows(model, quantity, side):
            look = {**model_look(index), "markerfacecolor": "none" if direction.startswith("space") else None}
            at = np.array([row.layer for row in rows]) + shift
            points(ax, at, rows, f"{model.name}, {direction}", look)
    if not ax.lines:
        no_data(ax, "no such direction in any model")
    ax.set_ylabel(label)
    layer_axis(ax, [m.layer for model in result.models for m in model.decay.measurements])
    ax.set_title(f"{side}, scope contribution")
    return ax


def _rows(model: ModelResult, quantity: str, side: str) -> Iterator[tuple[str, list[Measurement]]]:
    found: dict[str, list[Measurement]] = {}
    for m in (*model.decay.measurements, *model.contradiction.probed.measurements):
        if m.quantity == quantity:
            found.setdefault(m.direction, []).append(m)
    for candidates in ((side,), *((f"{whole} {SIDES[side]}", whole) for whole in WHOLE)):
        direction = next((name for name in candidates if name in found), None)
        if direction is not None:
            yield direction, found[direction]


@styled
def plot_less_random(result: CompareResult, part: str, ax: Axes | None = None) -> Axes:
    """Area of each measure's deletion curves less that of random orders, paired, with 95 % intervals over clips."""
    ax = new_axes(ax)
    measures = [measure for measure in MEASURES if measure != RANDOM]
    shifts = np.linspace(-0.22, 0.22, len(result.models)) if len(result.models) > 1 else [0.0]
    for index, (model, shift) in enumerate(zip(result.models, shifts, strict=True)):
        found = [
            (place, m)
            for place, measure in enumerate(measures)
            for m in model.faithfulness.measurements
            if (m.direction, m.scope, m.quantity) == (part, measure, "deletion_area_less_random")
            and m.value is not None
        ]
        if not found:
            continue
        at = np.array([place for place, _ in found]) + shift
        value, low, high = (
            np.array([getattr(m, end) if getattr(m, end) is not None else m.value for _, m in found])
            for end in ("value", "low", "high")
        )
        bars = np.stack([value - low, high - value]).clip(0)
        ax.errorbar(
            value,
            at,
            xerr=bars,
            capsize=2,
            elinewidth=1,
            label=model.name,
            **{**model_look(index), "linestyle": "none"},
        )
    ax.axvline(0, color="0.3", linewidth=0.9)
    ax.set_yticks(range(len(measures)), measures)
    if not ax.yaxis_inverted():  # Panels that share an axis are turned once.
        ax.invert_yaxis()
    ax.set_xlabel("deletion area less random orders (probability)\n← more faithful")
    ax.set_title(f"{part}s removed")
    return ax


@styled
def plot_deletion(
    result: CompareResult,
    model: ModelResult,
    part: str,
    measures: Sequence[str],
    ax: Axes | None = None,
) -> Axes:
    """Mean deletion curves of one model, random orders in black with their 95 % band over clips."""
    ax = new_axes(ax)
    curves = {c.measure: c.curves for c in model.faithfulness.curves if c.part == part}
    for index, measure in enumerate([RANDOM, *measures]):
        if measure not in curves:
            continue
        values = curves[measure]
        removed = np.arange(values.shape[1])
        look = {**model_look(index), "markersize": 3}
        ax.plot(removed, values.mean(0), label=measure, **look)
        if measure == RANDOM and len(values) > 1:
            seed = model.decay.provenance.input.seed
            weights = resample_weights(len(values), result.resamples, seed)
            low, high, _ = percentile_interval(weights @ values)
            ax.fill_between(removed, low, high, color=look["color"], alpha=0.15, linewidth=0)
    if not ax.lines:
        no_data(ax, model.faithfulness.note)
    ax.set(xlabel=f"{part}s removed", ylabel="probability of the\nmodel's own class", ylim=(0, 1.02))
    ax.xaxis.set_major_locator(whole_numbers(6))
    ax.set_title(fill(model.name, 22))
    return ax


@styled
def plot_by_frame(
    result: CompareResult, model: ModelResult, measures: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Share of relevance that each measure gives to each of the model's temporal positions, mean over clips."""
    ax = new_axes(ax)
    top = (
        0.0 if ax.get_autoscaley_on() else ax.get_ylim()[1]
    )  # Panels share an axis: none cuts another's off.
    found = {r.measure: r.frames for r in model.faithfulness.relevance}
    for index, measure in enumerate(measures, 1):
        if measure not in found or not np.isfinite(found[measure]).all():
            continue
        values = found[measure]
        ends = None
        if len(values) > 1:
            seed = model.decay.provenance.input.seed
            low, high, _ = percentile_interval(resample_weights(len(values), result.resamples, seed) @ values)
            ends = np.stack([values.mean(0) - low, high - values.mean(0)]).clip(0)
        at = np.arange(values.shape[1]) + 0.05 * (index - (len(measures) + 1) / 2)
        look = {**model_look(index), "markersize": 3}
        ax.errorbar(at, values.mean(0), yerr=ends, capsize=2, elinewidth=1, label=measure, **look)
        top = max(top, 1.05 * float((values.mean(0) if ends is None else values.mean(0) + ends[1]).max()))
    if not ax.lines:
        no_data(ax, model.faithfulness.note or "no finite relevance")
    ax.set(xlabel="frame", ylabel="share of relevance", ylim=(0, top or 1))
    ax.xaxis.set_major_locator(whole_numbers())
    ax.set_title(fill(model.name, 22))
    return ax
