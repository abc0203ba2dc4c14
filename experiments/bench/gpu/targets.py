"""The targets of the GPU, judged by the saved run of `gpu`; a target says so where nothing of it was measured."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from experiments.bench.gate import failure
from experiments.bench.gpu.efficiency import ATTENTION, MAMBA, EfficiencySizes
from experiments.bench.gpu.efficiency import group as group_of
from experiments.bench.gpu.scans import FIRST, PEER, GpuSizes, name_of, work
from experiments.bench.gpu.training import TrainingSizes
from experiments.bench.peers import QUANTITIES
from experiments.bench.results import BenchRun, Row
from experiments.bench.words import digits, seconds
from experiments.markdown import markdown_table

SIZES = GpuSizes()
NOT_RUN = "not measured"
NOT_REACHED = "not measured: the saved run has not come to it"


class Outcome(NamedTuple):
    """A figure in words, and whether it meets the target; None where there is nothing to judge."""

    figure: str
    met: bool | None


class Missing(Exception):
    """A row that a target needs has no figure; the message says why."""


Judge = Callable[[BenchRun], Outcome]


class Target(NamedTuple):
    """A row of the table of targets."""

    what: str
    wanted: str
    judge: Judge

    def outcome(self, run: BenchRun | None) -> Outcome:
        """Judge a run, or say why it cannot be judged."""
        if run is None:
            return Outcome(NOT_RUN, None)
        try:
            return self.judge(run)
        except Missing as missing:
            return Outcome(str(missing), False if "FAILED" in str(missing) else None)


def target_table(run: BenchRun | None) -> str:
    """Return the table of all targets."""
    marks = {True: "met", False: "**not met**", None: "-"}
    judged = [(target, target.outcome(run)) for target in GPU_TARGETS]
    rows = [(target.what, target.wanted, figure, marks[met]) for target, (figure, met) in judged]
    return markdown_table(("GPU, bf16, D=1152, N=16", "target", "figure", "met or not"), rows)


def find_row(run: BenchRun, *names: str) -> Row:
    """Return the row of a group, subject and quantity.

    Raises:
        Missing: There is no such row, or it has no figure.
    """
    row = next((row for row in run.rows if row.names == names), None)
    if row is None:
        raise Missing(NOT_REACHED)
    if not row.samples:
        raise Missing(f"{row.subject}: {row.problem}")
    return row


def at_most(limit: float, *names: str) -> Judge:
    """Judge that the median of a row is at most so many seconds."""

    def judge(run: BenchRun) -> Outcome:
        value = find_row(run, *names).median
        return Outcome(seconds(value), value <= limit)

    return judge


def faster(group: str, quantity: str, other: str, least: float, ours: str) -> Judge:
    """Judge that one subject is at least so many times faster than another of the same group."""

    def judge(run: BenchRun) -> Outcome:
        one, two = (find_row(run, group, subject, quantity).median for subject in (ours, other))
        return Outcome(f"{digits(two / one)} x ({seconds(two)} : {seconds(one)})", two / one >= least)

    return judge


def floor_fraction(batch: int, length: int, quantity: str) -> Judge:
    """Judge that the time the hardware needs at least, over the time taken with mask and residual on, is half."""

    def judge(run: BenchRun) -> Outcome:
        taken = find_row(run, name_of(batch, length), FIRST, quantity).median
        exponentials, moved = work(batch, length, quantity, SIZES)
        special = exponentials / find_row(run, "floor", "device", "exponentials").median
        copied = moved / find_row(run, "floor", "device", "copy").median
        bound = "exponentials" if special > copied else "bytes"
        floor = max(special, copied)
        return Outcome(
            f"{100 * floor / taken:.0f} % (floor {seconds(floor)} by {bound})", floor / taken >= 0.5
        )

    return judge


def _of_case(batch: int, length: int, quantity: str) -> tuple[Target, ...]:
    what, group = f"B={batch}, L={length:,}, {quantity}", name_of(batch, length)
    options = f"mask and residual on, {what}"
    over = partial(faster, group, quantity)
    # The token loop's own gradients take time that grows as L squared; the definition's loop keeps its states.
    long = quantity != "forward" and length > SIZES.longest_loop
    loop, says = ("spec", "the definition's loop") if long else ("token loop", "the token loop")
    return (
        Target(
            f"plain scan, {what}, over mamba_ssm's CUDA scan", "no slower", over(PEER, 1, f"{FIRST}, plain")
        ),
        Target(f"{options}, over mamba_ssm's plain scan", "no slower", over(PEER, 1, FIRST)),
        Target(f"{options}, over {says}", "at least 200 x faster", over(loop, 200, FIRST)),
        Target(
            f"{options}, fraction of the floor", "50 % or better", floor_fraction(batch, length, quantity)
        ),
    )


def tests_pass(run: BenchRun) -> Outcome:
    """Judge that every test of the scan and of the matrix that runs on a device passed there."""
    row = find_row(run, "correctness", "tests", "passed")
    return Outcome(f"{row.median:.0f} passed, {row.note}", True)


def probes_agree(run: BenchRun) -> Outcome:
    """Judge that every quantity of both probes is within what is allowed of the CPU's."""
    checks = tuple(check for check in run.checks if check.group == "probes")
    if not checks:
        raise Missing(NOT_REACHED)
    wrong = failure(checks)
    worst = max(checks, key=lambda check: check.deviation / check.allowed)
    nearest = f"nearest to its bound: {worst.subject}, {worst.tensor}, {worst.deviation:.3g} of {worst.allowed:.3g} eps"
    return Outcome(wrong or nearest, not wrong)


def training_rates(compiled: bool) -> Judge:
    """Tell clips a second of a training step beside the same without its scan, and beside self-attention."""
    end, name = ", compiled" if compiled else "", TrainingSizes.name
    subjects = {"whole": name, "scan left out": f"{name}, scan left out", "self-attention": "self-attention"}

    def judge(run: BenchRun) -> Outcome:
        said = []
        for called, subject in subjects.items():
            rate, peak = (
                find_row(run, "training", subject + end, what).median
                for what in ("throughput", "peak memory")
            )
            said.append(f"{called} {digits(rate)} clips/s, {peak / 1e9:.1f} GB")
        return Outcome("; ".join(said), None)

    return judge


def efficiency_ratio(name: str) -> Judge:
    """Tell VideoMambaPro's clips a second over self-attention's by length; the paper claims no ratio."""

    def judge(run: BenchRun) -> Outcome:
        said = []
        for frames in EfficiencySizes().frames:
            one, other = (
                find_row(run, group_of(name, frames), subject, "throughput").median
                for subject in (MAMBA, ATTENTION)
            )
            said.append(f"{digits(one / other)} x at {frames} frames")
        return Outcome(", ".join(said), None)

    return judge


GPU_TARGETS = (
    Target("tests of scan and matrix on the device, against float64", "all pass", tests_pass),
    *(row for case in SIZES.cases for quantity in QUANTITIES for row in _of_case(*case, quantity)),
    Target(
        "`reduce`, 32 layers of `videomambapro_middle`, both directions, 8 frames",
        "at most 2 s",
        at_most(2.0, "32 layers", "32 layers", "time"),
    ),
    Target(
        "`reduce`, one layer, both directions, 64 frames",
        "at most 10 s",
        at_most(10.0, "one layer", "one layer", "time"),
    ),
    Target(
        "decay and contradiction with `--device cuda`, beside the CPU's",
        "equal within tolerance",
        probes_agree,
    ),
    *(
        Target(
            f"training step of `{TrainingSizes.name}`, 8 frames at 224, {how}",
            "told",
            training_rates(compiled),
        )
        for how, compiled in (("eager", False), ("compiled by block", True))
    ),
    *(
        Target(
            f"throughput of `{name}` over self-attention of equal parameters", "told", efficiency_ratio(name)
        )
        for name in EfficiencySizes().names
    ),
)
