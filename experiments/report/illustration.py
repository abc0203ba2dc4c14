"""Parts of the page: figures and tables with their words, blocks and sections of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.untested import Untested

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


@dataclass(frozen=True)
class Judged:
    """A claim of the paper with its verdict.

    Attributes:
        kind: of the verdict, for its looks: holds, fails or untold.
        bases: the number in each base, as text, where there are several.
    """

    kind: str
    verdict: str
    says: str
    sentence: str
    source: str
    bases: Sequence[str]


@dataclass(frozen=True)
class Block:
    """A part of a section: a heading, and what stands below it, kind by kind."""

    heading: str = ""
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Illustration] = ()
    judged: Sequence[Judged] = ()
    untested: Sequence[Untested] = ()


@dataclass(frozen=True)
class Section:
    """A section of the page; ``id`` is what links to it."""

    id: str
    title: str
    blocks: Sequence[Block]


def shared_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend above all axes, each entry once."""
    handles = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper left",
        ncols=3,
        columnspacing=1.0,
        handletextpad=0.4,
    )
