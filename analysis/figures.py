"""Drawing figures into a folder, and grids with a panel a layer."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plots import STYLE

PANEL = (3.3, 2.6)
"""Inches of one panel of a grid."""

COLUMNS = 3


class Layered(Protocol):
    """A result of some layers."""

    @property
    def layers(self) -> Sequence[int]: ...


R = TypeVar("R", bound=Layered)


def draw_all(
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
    """Write ``stem``.png and ``stem``.svg and return the first."""
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(stem.with_suffix(".png"))
    return stem.with_suffix(".png")


def layer_grid(
    result: R,
    scope: str,
    draw: Callable[[R, int, str, Axes], Axes],
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
