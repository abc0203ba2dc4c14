"""Numbers as the page shows them."""

from collections.abc import Callable

import numpy as np


def percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """A difference of shares in points, with its sign; none where it rounds to 0."""
    said = f"{100 * difference:+.1f}"
    return "-" if np.isnan(difference) else "0.0" if float(said) == 0 else said


def p_value(p: float) -> str:
    return "-" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float, high: float, said: Callable[[float], str]) -> str:
    """Both ends, or that there is no interval."""
    return "no interval" if np.isnan(low) or np.isnan(high) else f"{said(low)} to {said(high)}"
