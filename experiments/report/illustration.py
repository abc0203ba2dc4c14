"""A figure and a table of the report with their words, and what its figures share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 4.6
"""Inches of a figure: legible on a phone, and two fit beside each other on a page."""


@dataclass(frozen=True)
class Illustration:
    """One figure.

    Attributes:
        name: of its files, and of what its ids begin with: lower case letters, digits, "-" and "_".
        caption: a sentence or two for all; alt: what it shows, in words and numbers, for those who do not see it.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Table:
    """One table of text.

    Attributes:
        marked: rows that are set apart, counted from 0.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()


def shared_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend above all axes, each entry once."""
    handles = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3)
