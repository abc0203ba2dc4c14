"""The parts of the page: figures, tables and statements with their words, and the sections that hold them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from experiments.report.untested import Untested


@dataclass(frozen=True)
class Illustration:
    """One figure.

    Attributes:
        name: the name of its files, in lower case letters, digits, "-" and "_".
        caption: a sentence or two for every reader.
        alt: what it shows, in words and numbers, for readers who do not see it.
        draw: draws it.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Table:
    """One table of text; `marked` holds the rows that are set apart, counted from 0."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class StatementCard:
    """A statement of the paper with its verdict.

    Attributes:
        kind: holds, fails or untold, which decides how it looks.
        verdict: the verdict in words.
        says: the statement.
        sentence: the measurement and the verdict's reason.
        source: where the statement comes from.
        bases: the number in each base as text, if there are several.
    """

    kind: str
    verdict: str
    says: str
    sentence: str
    source: str
    bases: Sequence[str]


@dataclass(frozen=True)
class PagePart:
    """A part of a section: a heading, and what stands below it, kind by kind."""

    heading: str = ""
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Illustration] = ()
    judged: Sequence[StatementCard] = ()
    untested: Sequence[Untested] = ()


@dataclass(frozen=True)
class Section:
    """A section of the page; links lead to its `id`."""

    id: str
    title: str
    parts: Sequence[PagePart]
