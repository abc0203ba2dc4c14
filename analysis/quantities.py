"""Numbers of a report: what each is called, and its interval over clips with every gap said."""

from dataclasses import dataclass

import numpy as np

from analysis.bootstrap import percentile_interval
from analysis.results import Measurement


@dataclass(frozen=True)
class Quantity:
    """A number of the report: its unit, its name in words, and what a sequence must have for it.

    Attributes:
        needs: "frames" for two frames or more, "patches" for one or more, "class" for a class token, "" for
            nothing.
    """

    unit: str
    label: str
    needs: str = ""


MOST_UNDEFINED = 0.05
"""An interval is given where at most this share of the resamples leaves the quantity undefined."""


def summarise(
    quantity: str,
    unit: str,
    value: float,
    draws: np.ndarray | None,
    *,
    missing: str,
    beyond: str,
    layer: int,
    direction: str,
    scope: str,
    n_clips: int,
) -> Measurement:
    """A measurement from its value and bootstrap draws, with every gap said in the note.

    Args:
        missing: the note where the value is undefined.
        beyond: the note where it is infinite.
    """
    notes: list[str] = []
    low = high = None
    if np.isnan(value):
        notes.append(missing)
    elif draws is None:
        notes.append("one clip: no interval")
    else:
        ends = percentile_interval(draws)
        if ends[2] <= MOST_UNDEFINED:
            low, high = float(ends[0]), float(ends[1])
        if ends[2] > 0:
            said = "undefined in" if low is not None else "no interval: undefined in"
            notes.append(f"{said} {100 * float(ends[2]):.1f} % of resamples")
    if np.isinf(value):
        notes.insert(0, beyond)
    return Measurement(
        layer=layer,
        direction=direction,
        scope=scope,
        quantity=quantity,
        unit=unit,
        value=None if np.isnan(value) else float(value),
        low=low,
        high=high,
        n_clips=n_clips,
        note="; ".join(notes),
    )
