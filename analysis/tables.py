"""Numbers and headings of the tables that commands print."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from analysis.quantities import Quantity
from analysis.results import Measurement, Provenance


def heading(source: Provenance, resamples: int, notes: Sequence[str]) -> list[str]:
    """The lines above a result's tables: what was probed, with what, and the notes."""
    shown = source.input
    return [
        f"{source.checkpoint.path}: {source.checkpoint.recognised}",
        f"{shown.count} x {shown.source}, seed {shown.seed}, {shown.length} tokens each; {source.dtype} on "
        f"{source.device}, scan backend {source.backend}; {resamples} bootstrap resamples",
        *(f"Note: {note}" for note in notes),
    ]


def number(value: float | None, beyond: int | None = None) -> str:
    """A number in three digits; "-" for a gap; ">L", or an infinity where L is not given, for one beyond."""
    if value is None:
        return "-"
    if math.isinf(value):
        infinite = "∞" if value > 0 else "-∞"
        return infinite if beyond is None else f">{beyond}"
    if value != 0 and abs(value) < 0.001:
        return f"{value:.0e}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def with_interval(m: Measurement, beyond: int | None = None) -> str:
    """The number, and its interval on a line below."""
    value = number(m.value, beyond)
    if m.low is None or m.high is None:
        return value
    between = " to " if m.low < 0 else "–"
    return f"{value}\n{number(m.low, beyond)}{between}{number(m.high, beyond)}"


def thousandths(m: Measurement) -> Measurement:
    """A number in thousandths of its unit, for a table of such small ones."""
    value, low, high = (None if end is None else 1000 * end for end in (m.value, m.low, m.high))
    return replace(m, value=value, low=low, high=high, unit=f"0.001 {m.unit}")


def gaps(
    measurements: Iterable[Measurement], shown: Collection[str], quantities: Mapping[str, Quantity]
) -> list[str]:
    """A line for each reason why a number of a table, or its interval, is missing, with all that miss it.

    Args:
        shown: names of the quantities in the table; no other is spoken of. quantities: what each is called.
    """
    missing: dict[str, dict[str, None]] = {}
    for m in measurements:
        if m.quantity in shown and (m.value is None or (m.low is None and m.n_clips > 1)):
            named = quantities[m.quantity]
            unit = "" if named.unit == "none" else f" ({named.unit})"
            missing.setdefault(m.note, {})[named.label + unit] = None
    return [f"Gap: {', '.join(names)}: {why}" for why, names in missing.items()]
