"""Figures in words: three digits, in the unit that suits."""

import math
from collections.abc import Callable, Iterable

import numpy as np


def seconds(value: float) -> str:
    """Return a time in words."""
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if value >= size:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value / 1e-6)} us"


def amount(value: float) -> str:
    """Return a number of bytes in words, in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value / 1e3)} kB"


def digits(value: float) -> str:
    """Return three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


_BY_UNIT: dict[str, Callable[[float], str]] = {"s": seconds, "bytes": amount}


def in_unit(value: float, unit: str) -> str:
    """Return a number in words, with its unit."""
    return _BY_UNIT[unit](value) if unit in _BY_UNIT else f"{value:.4g} {unit}".rstrip()


def power(lengths: Iterable[float], values: Iterable[float]) -> float:
    """Return the power p of a least-squares fit of log value = p log length + c."""
    return float(np.polyfit(np.log(list(lengths)), np.log(list(values)), 1)[0])
