"""Plots of relevance: how faithful each ranking is, deletion curves, and relevance by frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.draw import legend_above, model_look, new_axes, no_data, shifts, styled, whole_numbers
from analysis.relevance.deletion import PARTS
from analysis.relevance.rankings import RANDOM, RANKINGS, parts_of
from analysis.result import Result

DRAWN = ("rollout contribution", "last row contribution", "gradient", "gradient x change")
"""Rankings whose deletion curves are drawn; areas are drawn of all."""


@styled
def plot_less_random(
    result: Result, ax: Axes | None = None, model: str | None = None, part: str | None = None
) -> Axes:
    """The area of each ranking's deletion curves less that of random orders, paired, with 95 % intervals over clips.

    Args:
        model: All models where None.
        part: "frame" or "tube"; the first that the result has where None.
    """
    ax, part = new_axes(ax), part or (*parts_of(result), *PARTS)[0]
    rankings = [ranking for ranking in RANKINGS if ranking != RANDOM]
    models = [model] if model is not None else list(result.models)
    for name, shift in zip(models, shifts(len(models), 0.22), strict=True):
        found = [
            result.number("deletion_area_less_random", model=name, part=part, ranking=ranking)
            for ranking in rankings
        ]
        there = [(place + shift, m) for place, m in enumerate(found) if np.isfinite(m.value)]
        if not there:
            continue
        bars = np.nan_to_num([[m.value - m.low, m.high - m.value] for _, m in there]).clip(0).T
        look = {**model_look(result.models.index(name)), "linestyle": "none"}
        at, values = [place for place, _ in there], [m.value for _, m in there]
        ax.errorbar(values, at, xerr=bars, capsize=2, elinewidth=1, label=name, **look)
    if not ax.has_data():
        no_data(ax, _why(result, models[0], part))
    ax.axvline(0, color="0.3", linewidth=0.9)
    ax.set_yticks(range(len(rankings)), rankings)
    if not ax.yaxis_inverted():  # Panels that share an axis are turned once.
        ax.invert_yaxis()
    ax.set_xlabel("deletion area less random orders (probability)\n← more faithful")
    ax.set_title(f"{part}s removed")
    return ax


@styled
def plot_deletion(
    result: Result,
    ax: Axes | None = None,
    model: str | None = None,
    part: str | None = None,
    rankings: Sequence[str] = DRAWN,
) -> Axes:
    """Mean deletion curves of one model, random orders in black with their 95 % band over clips.

    Args:
        part: "frame" or "tube"; the first that the result has where None.
    """
    ax, model, part = new_axes(ax), model or result.model, part or (*parts_of(result), *PARTS)[0]
    for index, ranking in enumerate([RANDOM, *rankings]):
        curve = result.curve(f"deletion_curve_{part}", model=model, ranking=ranking)
        if curve is None:
            continue
        removed = np.arange(len(curve.value))
        look = {**model_look(index), "markersize": 3}
        ax.plot(removed, curve.value, label=ranking, **look)
        if ranking == RANDOM and curve.low is not None and curve.high is not None:
            ax.fill_between(removed, curve.low, curve.high, color=look["color"], alpha=0.15, linewidth=0)
    if not ax.lines:
        no_data(ax, _why(result, model, part))
    ax.set(xlabel=f"{part}s removed", ylabel="probability of the\nmodel's own class", ylim=(0, 1.02))
    ax.xaxis.set_major_locator(whole_numbers(6))
    ax.set_title(fill(model, 22))
    return ax


@styled
def plot_by_frame(
    result: Result, ax: Axes | None = None, model: str | None = None, rankings: Sequence[str] = DRAWN
) -> Axes:
    """The share of relevance that each ranking gives to each of a model's temporal positions, with 95 % intervals."""
    ax, model = new_axes(ax), model or result.model
    # Panels share an axis: none cuts another's data off.
    top = 0.0 if ax.get_autoscaley_on() else ax.get_ylim()[1]
    places = shifts(len(rankings), 0.025 * (len(rankings) - 1))
    for index, (ranking, shift) in enumerate(zip(rankings, places, strict=True), 1):
        curve = result.curve("relevance_by_frame", model=model, ranking=ranking)
        if curve is None or not np.isfinite(curve.value).all():
            continue
        ends = np.zeros((2, len(curve.value)))
        if curve.low is not None and curve.high is not None:
            ends = np.stack([curve.value - curve.low, curve.high - curve.value]).clip(0)
        look = {**model_look(index), "markersize": 3}
        at = np.arange(len(curve.value)) + shift
        ax.errorbar(at, curve.value, yerr=ends, capsize=2, elinewidth=1, label=ranking, **look)
        top = max(top, 1.05 * float((curve.value + ends[1]).max()))
    if not ax.lines:
        no_data(ax, _why(result, model, "frame") or "no finite relevance")
    ax.set(xlabel="frame", ylabel="share of relevance", ylim=(0, top or 1))
    ax.xaxis.set_major_locator(whole_numbers())
    ax.set_title(fill(model, 22))
    return ax


def _why(result: Result, model: str, part: str) -> str:
    return result.note("deletion_area", model=model, part=part, ranking=RANDOM)


PLOTS: Mapping[str, Callable[..., Any]] = {
    "deletion_area_less_random": plot_less_random,
    "deletion_curve": plot_deletion,
    "relevance_by_frame": plot_by_frame,
}


def figures(result: Result, models: Sequence[str]) -> dict[str, Callable[[], Figure]]:
    """What there is to draw of some models of a result, by file name; nothing where none has deletion curves."""
    parts = parts_of(result)
    if not parts:
        return {}
    makers: dict[str, Callable[[], Figure]] = {
        "relevance_by_frame": partial(_panels, plot_by_frame, result, models),
        "faithfulness": partial(_areas, result, models, parts),
    }
    for part in parts:
        makers[f"deletion_{part}"] = partial(_panels, partial(plot_deletion, part=part), result, models)
    return makers


def _areas(result: Result, models: Sequence[str], parts: Sequence[str]) -> Figure:
    """The differences to random orders of all models, a panel for each kind of part."""
    figure = Figure(figsize=(1.4 + 3.4 * len(parts), 1.6 + 0.16 * len(models) * 8))
    axes = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    for ax, part in zip(axes, parts, strict=True):
        plot_less_random(result, ax, models[0] if len(models) == 1 else None, part)
    legend_above(figure, axes, 3)
    return figure


def _panels(draw: Callable[..., Axes], result: Result, models: Sequence[str]) -> Figure:
    """A panel for each model, with one legend for all."""
    columns = min(3, len(models))
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(max(5.2, 2.9 * columns), 2.5 * rows + 0.6))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for place, (ax, model) in enumerate(zip(axes, models, strict=False)):
        draw(result, ax, model)
        if place % columns:
            ax.set_ylabel("")
    for ax in axes[len(models) :]:
        ax.remove()
    legend_above(figure, axes[: len(models)], 3)
    return figure
