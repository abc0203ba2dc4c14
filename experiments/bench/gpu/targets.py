"""The targets of the GPU, judged by the saved run of `gpu`; what has not been run says so."""

from functools import partial

from experiments.bench.gate import failure
from experiments.bench.gpu.efficiency import ATTENTION, MAMBA, EfficiencySizes
from experiments.bench.gpu.efficiency import group as group_of
from experiments.bench.gpu.scans import FIRST, PEER, GpuSizes, name_of, work
from experiments.bench.gpu.training import TrainingSizes
from experiments.bench.scan import QUANTITIES
from experiments.bench.verdicts import (
    Judge,
    Missing,
    Saved,
    Target,
    Verdict,
    at_most,
    digits,
    faster,
    seconds,
)

GPU = "GPU, bf16, D=1152, N=16"
SIZES = GpuSizes()


def floor_fraction(batch: int, length: int, quantity: str) -> Judge:
    """The time the hardware needs at least, over the time taken with mask and residual on, is half or more."""

    def judge(saved: Saved) -> Verdict:
        taken = saved.median("gpu", name_of(batch, length), FIRST, quantity, "cuda")
        exponentials, moved = work(batch, length, quantity, SIZES)
        special = exponentials / saved.median("gpu", "floor", "device", "exponentials", "cuda")
        copied = moved / saved.median("gpu", "floor", "device", "copy", "cuda")
        bound = "exponentials" if special > copied else "bytes"
        floor = max(special, copied)
        return Verdict(
            f"{100 * floor / taken:.0f} % (floor {seconds(floor)} by {bound})", floor / taken >= 0.5
        )

    return judge


def no_spill(saved: Saved) -> Verdict:
    """No kernel of the forward pass spills registers; the ranges of what they take, each one being a row below."""
    rows = [row for row in saved.run("scan").rows if row.group == "kernel resources"]
    if not rows or rows[0].problem:
        raise Missing(rows[0].problem if rows else "not measured: the saved run of scan has not come to it")
    forward = [row.case for row in rows if "backward" not in row.subject and "adjoint" not in row.subject]

    def numbers(name: str) -> list[float]:
        return [float(str(case[name])) for case in forward if case.get(name) is not None]

    spilled, registers, warps = (numbers(name) for name in ("spilled_bytes", "registers", "warps"))
    figure = (
        f"{max(spilled):.0f} bytes spilled at most; {min(registers):.0f} to {max(registers):.0f} registers a thread, "
        f"{min(warps):.0f} to {max(warps):.0f} warps on a multiprocessor"
    )
    return Verdict(figure, not any(spilled))


def _gpu_case(batch: int, length: int, quantity: str) -> tuple[Target, ...]:
    what, group = f"B={batch}, L={length:,}, {quantity}", name_of(batch, length)
    options = f"mask and residual on, {what}"
    plain = f"{FIRST}, plain"
    over = partial(faster, "gpu", group, quantity, device="cuda")
    # The token loop's own gradients take time that grows as L squared; the definition's loop keeps its states.
    long = quantity != "forward" and length > SIZES.longest_loop
    loop, says = ("spec", "the definition's loop") if long else ("token loop", "the token loop")
    return (
        Target(GPU, f"plain scan, {what}, over mamba_ssm's CUDA scan", "no slower", over(PEER, 1, ours=plain)),
        Target(GPU, f"{options}, over mamba_ssm's plain scan", "no slower", over(PEER, 1, ours=FIRST)),
        Target(GPU, f"{options}, over {says}", "at least 200 x faster", over(loop, 200, ours=FIRST)),
        Target(GPU, f"{options}, fraction of the floor", "50 % or better", floor_fraction(batch, length, quantity)),
    )  # fmt: skip


def tests_pass(saved: Saved) -> Verdict:
    """Every test of the scan and of the matrix that runs on a device passed there."""
    row = saved.row("gpu", "correctness", "tests", "passed", "cuda")
    return Verdict(f"{row.median:.0f} passed, {row.note}", True)


def probes_agree(saved: Saved) -> Verdict:
    """Every quantity of both probes is within what is allowed of the CPU's."""
    checks = tuple(check for check in saved.run("gpu", "cuda").checks if check.group == "probes")
    if not checks:
        raise Missing("not measured: the saved run of gpu has not come to it")
    wrong = failure(checks)
    worst = max(checks, key=lambda check: check.deviation / check.allowed)
    nearest = f"nearest to its bound: {worst.subject}, {worst.tensor}, {worst.deviation:.3g} of {worst.allowed:.3g} eps"
    return Verdict(wrong or nearest, not wrong)


def training_rates(compiled: bool) -> Judge:
    """Clips a second of a training step beside the same without its scan, and beside self-attention."""
    end = ", compiled" if compiled else ""
    name = TrainingSizes.name

    def judge(saved: Saved) -> Verdict:
        subjects = (name, f"{name}, scan left out", "self-attention")
        rates = [saved.median("gpu", "training", s + end, "throughput", "cuda") for s in subjects]
        peaks = [saved.median("gpu", "training", s + end, "peak memory", "cuda") for s in subjects]
        named = zip(("whole", *subjects[1:]), rates, peaks, strict=True)
        return Verdict("; ".join(f"{s} {digits(r)} clips/s, {p / 1e9:.1f} GB" for s, r, p in named), None)

    return judge


def efficiency_ratio(name: str) -> Judge:
    """VideoMambaPro's clips a second over self-attention's at each length; the paper claims efficiency, no ratio."""

    def judge(saved: Saved) -> Verdict:
        said = []
        for frames in EfficiencySizes().frames:
            one, other = (
                saved.median("gpu", group_of(name, frames), subject, "throughput", "cuda")
                for subject in (MAMBA, ATTENTION)
            )
            said.append(f"{digits(one / other)} x at {frames} frames")
        return Verdict(", ".join(said), None)

    return judge


GPU_TARGETS = (
    Target(GPU, "tests of scan and matrix on the device, against float64", "all pass", tests_pass),
    *(row for case in SIZES.cases for quantity in QUANTITIES for row in _gpu_case(*case, quantity)),
    Target(GPU, "registers and occupancy of the forward kernel, compiled for sm_90", "no spill", no_spill),
    Target(GPU, "`reduce`, 32 layers of `videomambapro_middle`, both directions, 8 frames", "at most 2 s",
           at_most(2.0, seconds, ("gpu", "32 layers", "32 layers", "time"), "cuda")),
    Target(GPU, "`reduce`, one layer, both directions, 64 frames", "at most 10 s",
           at_most(10.0, seconds, ("gpu", "one layer", "one layer", "time"), "cuda")),
    Target(GPU, "decay and contradiction with `--device cuda`, beside the CPU's", "equal within tolerance",
           probes_agree),
    *(Target(GPU, f"training step of `{TrainingSizes.name}`, 8 frames at 224, {how}", "told",
             training_rates(compiled)) for how, compiled in (("eager", False), ("compiled by block", True))),
    *(Target(GPU, f"throughput of `{name}` over self-attention of equal parameters", "told",
             efficiency_ratio(name)) for name in EfficiencySizes().names),
)  # fmt: skip
