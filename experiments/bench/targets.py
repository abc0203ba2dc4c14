"""The targets, each a row: what, how far, and how saved rows are judged by it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from experiments.bench.gate import failure
from experiments.bench.results import Row, Run
from experiments.bench.scan import FIRST, QUANTITIES, ScanSizes

SLACK = 0.1
"""Growth is of a power where the slope of the log-log fit is within this of it."""
SIZES = ScanSizes()
LONGEST, STANDARD = max(SIZES.lengths), SIZES.length


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
                raise Missing("not measured: no GPU could be reached")
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
            return f"{_digits(value / size)} {unit}"
    return f"{_digits(value / 1e-6)} us"


def amount(value: float) -> str:
    """Bytes, in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{_digits(value / size)} {unit}"
    return f"{_digits(value / 1e3)} kB"


def _digits(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0:
        return "0"
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


def faster(subcommand: str, group: str, quantity: str, other: str, least: float, **more: str) -> Judge:
    """The first backend is at least so many times faster than another subject of the same group."""
    ours, device = more.get("ours", FIRST), more.get("device", "cpu")

    def judge(saved: Saved) -> Verdict:
        one = saved.median(subcommand, group, ours, quantity, device=device)
        two = saved.median(subcommand, group, other, quantity, device=device)
        ratio = two / one
        return Verdict(f"{_digits(ratio)} x ({seconds(two)} : {seconds(one)})", ratio >= least)

    return judge


def growth(kind: str, quantity: str, show: Callable[[float], str]) -> Judge:
    """The first backend's time or memory is linear in L."""

    def judge(saved: Saved) -> Verdict:
        values = [saved.median("scan", f"{kind} L={length}", FIRST, quantity) for length in SIZES.lengths]
        power = slope(SIZES.lengths, values)
        figure = (
            f"slope {power:.2f}; {show(values[0])} at {SIZES.lengths[0]}, {show(values[-1])} at {LONGEST:,}"
        )
        return Verdict(figure, abs(power - 1) <= SLACK)

    return judge


def per_state(dtype: str) -> Judge:
    """Every N is correct and takes at most 4 times as long for a state as N = 16 in float32."""

    def judge(saved: Saved) -> Verdict:
        worst, said = 0.0, []
        for quantity in QUANTITIES:
            group = "states"
            base = saved.median("scan", group, "N=16, float32", quantity) / 16
            ratios = {
                n: saved.median("scan", group, f"N={n}, {dtype}", quantity) / n / base
                for n in SIZES.all_states
            }
            slowest = max(ratios, key=lambda n: ratios[n])
            said.append(f"{quantity} {ratios[slowest]:.2f} x at N={slowest}")
            worst = max(worst, ratios[slowest])
        checks = [c for c in saved.run("scan").checks if c.group.startswith("states") and dtype in c.subject]
        wrong = failure(tuple(checks))
        return Verdict("; ".join(said) + f"; {wrong or 'all correct'}", worst <= 4 and not wrong)

    return judge


def no_slowdown(saved: Saved) -> Verdict:
    """Inputs whose states decay through the denormal numbers take at most 1.5 times as long as usual ones."""
    said, worst = [], 0.0
    for quantity in QUANTITIES:
        usual = saved.median("scan", "decay", "usual", quantity)
        for kind in ("decaying", "silent"):
            ratio = saved.median("scan", "decay", kind, quantity) / usual
            said.append(f"{kind}, {quantity} {ratio:.2f} x")
            worst = max(worst, ratio)
    return Verdict("; ".join(said), worst <= 1.5)


def full_width(saved: Saved) -> Verdict:
    """Nine tenths of the packed arithmetic uses registers of the machine's full width."""
    saved.row("scan", "assembly", "256 bit", "packed arithmetic")
    counts = {
        bits: saved.median("scan", "assembly", f"{bits} bit", "packed arithmetic") for bits in (128, 256, 512)
    }
    width = saved.run("scan").machine.vector
    share = counts[width] / max(1, sum(counts.values()))
    said = ", ".join(f"{count:.0f} of {bits} bit" for bits, count in counts.items() if count)
    return Verdict(
        f"packed arithmetic instructions: {said or 'none'}; the machine has {width} bit", share >= 0.9
    )


def first_calls(saved: Saved) -> Verdict:
    """A process that finds compiled code on disk makes its first call sooner."""
    cold, warm = (
        {q: saved.median("scan", "first call", cache, q) for q in QUANTITIES}
        for cache in ("empty cache", "cached on disk")
    )
    said = [f"{q} {seconds(cold[q])} compiling, {seconds(warm[q])} from disk" for q in QUANTITIES]
    return Verdict("; ".join(said), all(warm[q] < cold[q] for q in QUANTITIES))


CPU_SCAN = f"CPU scan, float32, B=1, D=384, N=16, L={STANDARD}, mask and elemental residual on, 2 threads"

SCAN_TARGETS = (
    Target(CPU_SCAN, "forward", "at most 4.5 ms", at_most(4.5e-3, seconds, ("scan", "forward", FIRST, "forward"))),
    Target(CPU_SCAN, "forward, over the token loop in torch", "at least 60 x faster",
           faster("scan", "forward", "forward", "token loop", 60)),
    Target(CPU_SCAN, "forward + backward", "at most 25 ms",
           at_most(25e-3, seconds, ("scan", "forward+backward", FIRST, "forward+backward"))),
    Target(CPU_SCAN, "forward + backward, over mambapy", "at least 40 x faster",
           faster("scan", "forward+backward", "forward+backward", "mambapy", 40)),
    *(
        Target(CPU_SCAN, f"growth of {kind} in L, 196 to 50,176: {quantity}", f"linear: log-log slope 1 +- {SLACK}",
               growth(group, quantity, show))
        for kind, group, show in (("time", "growth", seconds), ("memory above the inputs", "memory", amount))
        for quantity in QUANTITIES
    ),
    Target(CPU_SCAN, "N from 1 to 64, float32", "correct, at most 4 x the time a state of N=16", per_state("float32")),
    Target(CPU_SCAN, "N from 1 to 64, float64", "correct, at most 4 x the time a state of N=16 in float32",
           per_state("float64")),
    Target(CPU_SCAN, "strongly decaying inputs", "at most 1.5 x the time of usual ones", no_slowdown),
    Target(CPU_SCAN, "generated code", "full-width registers: nine tenths of packed arithmetic", full_width),
    Target(CPU_SCAN, "first call", "compiled code is cached on disk and reported apart", first_calls),
)  # fmt: skip

TARGETS: tuple[Target, ...] = (*SCAN_TARGETS,)
