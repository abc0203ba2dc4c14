"""Saved rows, asked for by name, and the judgements that targets are made of."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from experiments.bench.results import Row, Run


class Verdict(NamedTuple):
    """A figure in words, and whether it meets the target; None where there is none to judge."""

    figure: str
    met: bool | None


class Missing(Exception):
    """A row that a target needs and that is not there; the message says why. `failed` by the gate."""

    failed = False


@final
@dataclass(frozen=True)
class Saved:
    """Every saved run, by subcommand and device, asked for by what it measured."""

    runs: Mapping[tuple[str, str], Run]

    def run(self, subcommand: str, device: str = "cpu") -> Run:
        """The run of that name. Raises Missing where there is none, or only a quick one."""
        run = self.runs.get((subcommand, device))
        if run is None:
            if device == "cuda":
                raise Missing("not measured: `make gpu` has not been run")
            raise Missing(f"not measured: `python -m experiments.bench {subcommand}` has not been run")
        if run.quick:
            raise Missing("not measured: the saved run is a --quick one, of other sizes")
        return run

    def row(self, subcommand: str, group: str, subject: str, quantity: str, device: str = "cpu") -> Row:
        """A row that has a figure. Raises Missing where it has none, with the reason."""
        row = self.run(subcommand, device).row(group, subject, quantity)
        if row is None:
            raise Missing(f"not measured: the saved run of {subcommand} has not come to it")
        if not row.samples:
            missing = Missing(f"{subject}: {row.problem}")
            missing.failed = row.problem.startswith("FAILED")
            raise missing
        return row

    def median(self, subcommand: str, group: str, subject: str, quantity: str, device: str = "cpu") -> float:
        return self.row(subcommand, group, subject, quantity, device).median


Judge = Callable[[Saved], Verdict]


class Target(NamedTuple):
    """A row of the table of targets."""

    section: str
    what: str
    wanted: str
    judge: Judge

    def verdict(self, saved: Saved) -> Verdict:
        """What the saved runs say; the reason where they say nothing."""
        try:
            return self.judge(saved)
        except Missing as missing:
            return Verdict(str(missing), False if missing.failed else None)


def seconds(value: float) -> str:
    """Three digits, in the unit that suits."""
    for unit, size in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value / 1e-6)} us"


def amount(value: float) -> str:
    """Bytes, in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value / 1e3)} kB"


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def slope(lengths: Iterable[float], values: Iterable[float]) -> float:
    """The power p of a least-squares fit of log value = p log length + c."""
    return float(np.polyfit(np.log(list(lengths)), np.log(list(values)), 1)[0])


Where = tuple[str, str, str, str]
"""Subcommand, group, subject and quantity of a row."""


def at_most(limit: float, show: Callable[[float], str], where: Where, device: str = "cpu") -> Judge:
    """The median of a row is at most the limit."""

    def judge(saved: Saved) -> Verdict:
        value = saved.median(*where, device=device)
        return Verdict(show(value), value <= limit)

    return judge


def faster(
    subcommand: str,
    group: str,
    quantity: str,
    other: str,
    least: float,
    *,
    ours: str,
    device: str = "cpu",
) -> Judge:
    """One subject is at least so many times faster than another of the same group."""

    def judge(saved: Saved) -> Verdict:
        one = saved.median(subcommand, group, ours, quantity, device=device)
        two = saved.median(subcommand, group, other, quantity, device=device)
        ratio = two / one
        return Verdict(f"{digits(ratio)} x ({seconds(two)} : {seconds(one)})", ratio >= least)

    return judge
