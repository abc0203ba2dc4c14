"""Figures in words: three digits, in the unit that suits."""

import math
from collections.abc import Iterable

import numpy as np

SCALES = {"s": {"s": 1.0, "ms": 1e-3, "us": 1e-6}, "bytes": {"GB": 1e9, "MB": 1e6, "kB": 1e3}}
"""What a unit is shown in, from the largest; the last of them whatever the value."""


def in_unit(value: float, unit: str) -> str:
    """Return a number in words, with its unit."""
    if unit not in SCALES:
        return f"{value:.4g} {unit}".rstrip()
    scales = SCALES[unit]
    name = next((name for name, size in scales.items() if value >= size), list(scales)[-1])
    return f"{digits(value / scales[name])} {name}"


def seconds(value: float) -> str:
    """Return a time in words."""
    return in_unit(value, "s")


def digits(value: float) -> str:
    """Return three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def power(lengths: Iterable[float], values: Iterable[float]) -> float:
    """Return the power p of a least-squares fit of log value = p log length + c."""
    return float(np.polyfit(np.log(list(lengths)), np.log(list(values)), 1)[0])
