"""The GPU's targets, judged on a run that is written by hand."""

from dataclasses import replace

import pytest

from experiments.bench.gpu.targets import GPU_TARGETS
from experiments.bench.results import Check, Machine, Row, Run
from experiments.bench.verdicts import Saved

MACHINE = Machine("a processor", 16, 1, 512, 128.0, "Linux x86_64", "a GPU")
RUN = Run("gpu", "cuda", False, 0, "a command", "2026-01-02T03:04:05+00:00", MACHINE, {})
NOT_RUN = "not measured: the saved run of gpu has not come to it"


def verdicts(*records):
    """Figure and whether it is met of every target, by what it is about."""
    rows = tuple(record for record in records if isinstance(record, Row))
    checks = tuple(record for record in records if isinstance(record, Check))
    saved = Saved({("gpu", "cuda"): replace(RUN, rows=rows, checks=checks)})
    return {target.what: tuple(target.verdict(saved)) for target in GPU_TARGETS}


def test_what_a_run_has_not_come_to_says_so():
    found = verdicts()
    del found["registers and occupancy of the forward kernel, compiled for sm_90"]  # of the CPU's run
    assert set(found.values()) == {(NOT_RUN, None)}


def test_without_a_run_every_row_says_how_to_have_one():
    figures = {target.verdict(Saved({})).figure for target in GPU_TARGETS}
    assert figures == {
        "not measured: `make gpu` has not been run",
        "not measured: `python -m experiments.bench scan` has not been run",
    }


def test_tests_on_the_device():
    what = "tests of scan and matrix on the device, against float64"
    names = ("correctness", "tests", "passed", "tests")
    assert verdicts(Row(*names, samples=(97.0,), note="2 skipped"))[what] == ("97 passed, 2 skipped", True)
    failed = "FAILED: 1 tests: a"
    assert verdicts(Row(*names, problem=failed))[what] == (f"tests: {failed}", False)


@pytest.mark.parametrize(("other", "met"), [(70.0, True), (131.0, False), (float("nan"), False)])
def test_probes_are_as_the_cpus(other, met):
    what = "decay and contradiction with `--device cuda`, beside the CPU's"
    figure, verdict = verdicts(
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
        rows.append(
            Row(
                f"efficiency tiny, {frames} frames", "VideoMambaPro", "throughput", "clips/s", samples=(rate,)
            )
        )
        rows.append(
            Row(
                f"efficiency tiny, {frames} frames",
                "self-attention",
                "throughput",
                "clips/s",
                samples=(40.0,),
            )
        )
    found = verdicts(*rows)
    assert found[f"training step of `{name}`, 8 frames at 224, eager"] == (
        f"whole 100 clips/s, 9.0 GB; {name}, scan left out 150 clips/s, 8.0 GB; self-attention 200 clips/s, 5.0 GB",
        None,
    )
    assert found[f"training step of `{name}`, 8 frames at 224, compiled by block"] == (NOT_RUN, None)
    assert found[f"throughput of `{name}` over self-attention of equal parameters"] == (
        "2.00 x at 8 frames, 1.50 x at 16 frames, 1.00 x at 32 frames, 0.500 x at 64 frames", None,
    )  # fmt: skip


def test_a_kernel_that_spills_misses_its_target():
    def judged(**changed):
        rows = []
        for kernel, registers in (
            ("forward a", 80),
            ("carry a", 58),
            ("backward a", 255),
            ("chunk_states of the adjoint", 90),
        ):
            spilled = changed.get(kernel.split()[0], 0)
            case = {
                "kernel": kernel,
                "registers": registers,
                "spilled_bytes": spilled,
                "warps": 2000 // registers,
            }
            rows.append(Row("kernel resources", kernel, "resources", "", case))
        run = replace(RUN, subcommand="scan", device="cpu", rows=tuple(rows))
        what = "registers and occupancy of the forward kernel, compiled for sm_90"
        return next(t for t in GPU_TARGETS if t.what == what).verdict(Saved({("scan", "cpu"): run}))

    figure = "0 bytes spilled at most; 58 to 80 registers a thread, 25 to 34 warps on a multiprocessor"
    assert tuple(judged(backward=40)) == (figure, True)
    assert tuple(judged(carry=16)) == (figure.replace("0 bytes", "16 bytes", 1), False)
