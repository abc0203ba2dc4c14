"""The targets, each a row: what, how far, and how saved rows are judged by it."""

from collections.abc import Callable

from experiments.bench.gate import failure
from experiments.bench.gpu.targets import GPU_TARGETS
from experiments.bench.model import WHOLE, WITHOUT
from experiments.bench.reduce import ReduceSizes
from experiments.bench.scan import FIRST, QUANTITIES, ScanSizes
from experiments.bench.verdicts import (
    Judge,
    Missing,
    Saved,
    Target,
    Verdict,
    amount,
    at_most,
    digits,
    faster,
    seconds,
    slope,
)

SLACK = 0.1
"""Growth is no faster than a power where the slope of the log-log fit is at most this above it. A slope below the power
is a fixed cost that short sequences have not outgrown."""
SIZES = ScanSizes()
LONGEST, STANDARD = max(SIZES.lengths), SIZES.length


def growth(kind: str, quantity: str, show: Callable[[float], str]) -> Judge:
    """The first backend's time or memory is linear in L."""

    def judge(saved: Saved) -> Verdict:
        values = [saved.median("scan", f"{kind} L={length}", FIRST, quantity) for length in SIZES.lengths]
        if min(values) <= 0:
            raise Missing(f"not told: {FIRST} took nothing that could be measured at one of the lengths")
        power = slope(SIZES.lengths, values)
        late = slope(SIZES.lengths[-4:], values[-4:])
        ends = f"{show(values[0])} at {SIZES.lengths[0]}, {show(values[-1])} at {LONGEST:,}"
        figure = f"slope {power:.2f}, of the last four {late:.2f}; {ends}"
        return Verdict(figure, power <= 1 + SLACK)

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
    if not any(counts.values()):
        raise Missing("not told: the count knows x86's packed instructions alone, and there are none")
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


LINEAR = f"linear: log-log slope at most {1 + SLACK}"
SQUARE = f"as L squared: log-log slope at most {2 + SLACK}"
CPU_SCAN = f"CPU scan, float32, B=1, D=384, N=16, L={STANDARD}, mask and elemental residual on, 2 threads"

SCAN_TARGETS = (
    Target(CPU_SCAN, "forward", "at most 4.5 ms", at_most(4.5e-3, seconds, ("scan", "forward", FIRST, "forward"))),
    Target(CPU_SCAN, "forward, over the token loop in torch", "at least 60 x faster",
           faster("scan", "forward", "forward", "token loop", 60, ours=FIRST)),
    Target(CPU_SCAN, "forward + backward", "at most 25 ms",
           at_most(25e-3, seconds, ("scan", "forward+backward", FIRST, "forward+backward"))),
    Target(CPU_SCAN, "forward + backward, over mambapy", "at least 40 x faster",
           faster("scan", "forward+backward", "forward+backward", "mambapy", 40, ours=FIRST)),
    *(
        Target(CPU_SCAN, f"growth of {kind} in L, 196 to 50,176: {quantity}", LINEAR,
               growth(group, quantity, show))
        for kind, group, show in (("time", "growth", seconds), ("memory above the inputs", "memory", amount))
        for quantity in QUANTITIES
    ),
    Target(CPU_SCAN, "N from 1 to 64, float32", "correct, at most 4 x the time a state of N=16", per_state("float32")),
    Target(CPU_SCAN, "N from 1 to 64, float64", "correct, at most 4 x the time a state of N=16 in float32",
           per_state("float64")),
    Target(CPU_SCAN, "strongly decaying inputs", "at most 1.5 x the time of usual ones", no_slowdown),
    Target(CPU_SCAN, "exp over the normal range, relative error beyond |x| eps of float32's own", "at most 2 eps",
           at_most(2.0, lambda value: f"{digits(value)} eps", ("scan", "exp", FIRST, "error"))),
    Target(CPU_SCAN, "generated code", "full-width registers: nine tenths of packed arithmetic", full_width),
    Target(CPU_SCAN, "first call", "compiled code is cached on disk and reported apart", first_calls),
)  # fmt: skip

REDUCE = (
    "Implicit attention, CPU: mean |alpha|, lag profile, frame matrix and row mass in one pass, D=1152, N=16, one "
    "direction"
)
FRAMES = ReduceSizes().frames
TOKENS = tuple(ReduceSizes().layout(frames).length for frames in FRAMES)


def pass_growth(saved: Saved) -> Verdict:
    """The time of one pass grows as L squared."""
    values = [saved.median("reduce", f"reduce frames={frames}", "reduce", "time") for frames in FRAMES]
    power = slope(TOKENS, values)
    said = ", ".join(f"{seconds(value)} at {length:,}" for length, value in zip(TOKENS, values, strict=True))
    return Verdict(f"slope {power:.2f}; {said}", power <= 2 + SLACK)


def pass_completes(saved: Saved) -> Verdict:
    """The longest pass ends, in memory below 2 GB above its inputs."""
    peak = saved.median("reduce", f"memory frames={FRAMES[-1]}", "reduce", "memory")
    took = saved.median("reduce", f"reduce frames={FRAMES[-1]}", "reduce", "time")
    return Verdict(f"{amount(peak)}, {seconds(took)}, with a progress bar", peak < 2e9)


REDUCE_TARGETS = (
    Target(REDUCE, f"time, L={TOKENS[0]}", "at most 1.0 s on 2 cores",
           at_most(1.0, seconds, ("reduce", f"reduce frames={FRAMES[0]}", "reduce", "time"))),
    Target(REDUCE, f"memory above the inputs, L={TOKENS[0]}", "at most 200 MB",
           at_most(200e6, amount, ("reduce", f"memory frames={FRAMES[0]}", "reduce", "memory"))),
    Target(REDUCE, f"L={TOKENS[-1]:,} (64 frames)", "completes below 2 GB, with a progress bar", pass_completes),
    Target(REDUCE, f"growth of time, L={TOKENS[0]} to {TOKENS[-1]:,}", SQUARE,
           pass_growth),
    *(
        Target(REDUCE, f"`{part}`, L={TOKENS[-1]:,}", "under 0.2 s",
               at_most(0.2, seconds, ("reduce", "row and column", part, "time")))
        for part in ("row", "column")
    ),
)  # fmt: skip

MODEL = "Whole model, CPU"


def scan_share(saved: Saved) -> Verdict:
    """The model takes at most 1.5 times what it takes with its scan left out."""
    whole, without = (saved.median("model", "whole model", name, "forward") for name in (WHOLE, WITHOUT))
    return Verdict(f"{whole / without:.2f} x ({seconds(whole)} : {seconds(without)})", whole / without <= 1.5)


def step_profile(saved: Saved) -> Verdict:
    """A training step by phase; there is no limit to judge it by."""
    step = saved.median("model", "training step", "step", "phase of a step")
    names = ("forward", "backward", "clipping", "optimizer", "other")
    spent = {name: saved.median("model", "training step", name, "phase of a step") for name in names}
    return Verdict(
        f"{seconds(step)} a step: " + ", ".join(f"{n} {seconds(s)}" for n, s in spent.items()), None
    )


MODEL_TARGETS = (
    Target(MODEL, "`videomambapro_tiny`, 8 frames at 224, one clip, no gradient",
           "at most 1.5 x the time with the scan left out", scan_share),
    Target(MODEL, "training step of `vmp_micro`", "profiled; what is not arithmetic taken out", step_profile),
)  # fmt: skip

TARGETS: tuple[Target, ...] = (*SCAN_TARGETS, *REDUCE_TARGETS, *MODEL_TARGETS, *GPU_TARGETS)
