"""The GPU's targets, judged on a run that is written by hand."""

from dataclasses import replace

import pytest

from analysis.provenance import Machine
from experiments.bench.gpu.scans import GpuSizes
from experiments.bench.gpu.targets import GPU_TARGETS, NOT_REACHED, NOT_RUN
from experiments.bench.results import BenchRun, Check, Row

MACHINE = Machine("a processor", 16, 1, 512, 128.0, "Linux x86_64", "a GPU")
RUN = BenchRun("gpu", "cuda", False, 0, "a command", "2026-01-02T03:04:05+00:00", MACHINE, {})


def outcomes(*records):
    """Figure and whether it is met of every target, by what it is about."""
    rows = tuple(record for record in records if isinstance(record, Row))
    checks = tuple(record for record in records if isinstance(record, Check))
    run = replace(RUN, rows=rows, checks=checks)
    return {target.what: tuple(target.outcome(run)) for target in GPU_TARGETS}


def test_what_was_not_measured_says_so():
    assert set(outcomes().values()) == {(NOT_REACHED, None)}
    assert {tuple(target.outcome(None)) for target in GPU_TARGETS} == {(NOT_RUN, None)}


def test_scans_beside_the_peer_the_token_loop_and_the_floor():
    group, case = "B=8, L=1569", "mask and residual on, B=8, L=1,569, forward"
    rate, copy = 4e12, 2.5e12
    found = outcomes(
        Row("floor", "device", "exponentials", "1/s", samples=(rate,)),
        Row("floor", "device", "copy", "bytes/s", samples=(copy,)),
        Row(group, "triton_gpu", "forward", "s", samples=(1e-4,)),
        Row(group, "triton_gpu, plain", "forward", "s", {}, (), "FAILED: output is 9 eps"),
        Row(group, "mamba_ssm", "forward", "s", {}, (), "not installed: No module named 'mamba_ssm'"),
        Row(group, "token loop", "forward", "s", samples=(0.01,)),
    )
    floor = 8 * 1152 * 16 * 1569 / rate
    assert found[f"{case}, fraction of the floor"] == (
        f"58 % (floor {1e6 * floor:.1f} us by exponentials)",
        True,
    )
    assert found[f"{case}, over the token loop"] == ("100 x (10.0 ms : 100 us)", False)
    lacking = ("mamba_ssm: not installed: No module named 'mamba_ssm'", None)
    assert found[f"{case}, over mamba_ssm's plain scan"] == lacking
    wrong = found["plain scan, B=8, L=1,569, forward, over mamba_ssm's CUDA scan"]
    assert wrong == ("triton_gpu, plain: FAILED: output is 9 eps", False)
    judged = [what for what in found if what.startswith(("plain scan, B=", "mask and residual on, B="))]
    assert len(judged) == 4 * 2 * len(GpuSizes().cases)


def test_tests_on_the_device():
    what = "tests of scan and matrix on the device, against float64"
    names = ("correctness", "tests", "passed", "tests")
    assert outcomes(Row(*names, samples=(97.0,), note="2 skipped"))[what] == ("97 passed, 2 skipped", True)
    failed = "FAILED: 1 tests: a"
    assert outcomes(Row(*names, problem=failed))[what] == (f"tests: {failed}", False)


@pytest.mark.parametrize(("other", "met"), [(70.0, True), (131.0, False), (float("nan"), False)])
def test_probes_are_as_the_cpus(other, met):
    what = "decay and contradiction with `--device cuda`, beside the CPU's"
    figure, verdict = outcomes(
        Check("probes", "decay", "rate, ssm", "", 3.0, 64.0),
        Check("probes", "decay", "sink", "", other, 130.0),
    )[what]
    assert verdict == met
    if met:
        assert figure == "nearest to its bound: decay, sink, 70 of 130 eps"
    else:
        assert figure.startswith("FAILED: sink is ")


def test_training_and_efficiency_are_told():
    name = "videomambapro_tiny"
    rows = []
    for subject, rate, peak in (
        (name, 100.0, 9e9),
        (f"{name}, scan left out", 150.0, 8e9),
        ("self-attention", 200.0, 5e9),
    ):
        rows.append(Row("training", subject, "throughput", "clips/s", samples=(rate,)))
        rows.append(Row("training", subject, "peak memory", "bytes", samples=(peak,)))
    for frames, rate in ((8, 80.0), (16, 60.0), (32, 40.0), (64, 20.0)):
        for subject, value in (("VideoMambaPro", rate), ("self-attention", 40.0)):
            group = f"efficiency tiny, {frames} frames"
            rows.append(Row(group, subject, "throughput", "clips/s", samples=(value,)))
    found = outcomes(*rows)
    assert found[f"training step of `{name}`, 8 frames at 224, eager"] == (
        "whole 100 clips/s, 9.0 GB; scan left out 150 clips/s, 8.0 GB; self-attention 200 clips/s, 5.0 GB",
        None,
    )
    assert found[f"training step of `{name}`, 8 frames at 224, compiled by block"] == (NOT_REACHED, None)
    assert found[f"throughput of `{name}` over self-attention of equal parameters"] == (
        "2.00 x at 8 frames, 1.50 x at 16 frames, 1.00 x at 32 frames, 0.500 x at 64 frames", None,
    )  # fmt: skip
