"""Which steps there are, in the order of their worth, at the sizes of the targets or at toy sizes."""

from dataclasses import replace
from functools import partial

from experiments.bench.gpu import efficiency, matrices, probes, training
from experiments.bench.gpu.ceilings import ceilings
from experiments.bench.gpu.correct import ON_DEVICE, TESTS, correctness
from experiments.bench.gpu.profile import profile
from experiments.bench.gpu.runner import GpuStep
from experiments.bench.gpu.scans import TOY, GpuSizes, cut_timing, scan_timing

SAYS = {**matrices.SAYS, **probes.SAYS, **training.SAYS, **efficiency.SAYS}
"""What each subject of the steps on whole matrices and models stands for."""
EXTRA = ("cuts",)
"""Steps that run only where they are asked for: they decide what the others then use."""


def gpu_steps(rehearse: bool, seed: int) -> tuple[GpuStep, ...]:
    """Every step, at toy sizes for a rehearsal on the CPU."""
    scans = replace(TOY if rehearse else GpuSizes(), seed=seed)
    # One test is enough to rehearse how tests are run.
    tests = (TESTS[2:3], "own_dtype") if rehearse else (TESTS, ON_DEVICE)
    limit = partial(max, 300.0) if rehearse else float
    return (
        GpuStep("ceilings", limit(40), "copy bandwidth and special-function rate of the device",
                partial(ceilings, *((2**10, 3) if rehearse else (2**28, 4096)))),
        GpuStep("correctness", limit(170), "the scan's and the matrix's tests on the device, against float64",
                partial(correctness, *tests)),
        GpuStep("scan", limit(75), "scans at the targets' sizes, beside mamba_ssm and a token loop",
                partial(scan_timing, scans)),
        GpuStep("reduce", limit(45), "the implicit attention of one layer, then of all of videomambapro_middle",
                partial(matrices.reduce_step, matrices.TOY if rehearse else matrices.MatrixSizes())),
        GpuStep("probes", limit(90), "decay and contradiction with --device cuda beside --device cpu",
                partial(probes.probes_step, probes.TOY if rehearse else probes.ProbeSizes())),
        GpuStep("training", limit(110), "a training step of videomambapro_tiny, without its scan, and self-attention",
                partial(training.training, training.TOY if rehearse else training.TrainingSizes())),
        GpuStep("efficiency", limit(75), "clips a second of three sizes at 8 to 64 frames, beside self-attention",
                partial(efficiency.efficiency, efficiency.TOY if rehearse else efficiency.EfficiencySizes())),
        GpuStep("profile", limit(40), "hardware counters of the kernels of scan and matrix, where ncu is there",
                partial(profile, scans)),
        GpuStep("cuts", limit(75), "the cuts that the scan's plan chooses among", partial(cut_timing, scans)),
    )  # fmt: skip
