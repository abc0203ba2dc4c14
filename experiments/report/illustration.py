"""A figure of the report, and a table of it, with their words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure


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
