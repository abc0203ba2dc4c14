"""Steps in processes of their own: what they hand over is kept, however they end; and all of them at toy sizes."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from experiments.bench.gpu import efficiency, matrices, models, probes, training
from experiments.bench.gpu.correct import outcome, worst
from experiments.bench.gpu.runner import GpuStep, run_apart
from experiments.bench.results import Check, Recorder, Row, new_run, read_run
from tests.experiments.commands import run_command

ROOT = Path(__file__).parents[2]


def measures(device, emit):
    emit(Row("group", device, "time", "s", samples=(1.5,)))
    emit(Check("group", device, "out", "inputs", 0.5, 1.0))


def hangs(device, emit):
    emit(Row("hung", device, "time", "s", samples=(2.5,)))
    try:
        time.sleep(600)
    finally:
        emit(Row("hung", device, "at the end", "s", samples=(3.5,)))


def hangs_deaf(device, emit):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    emit(Row("deaf", device, "time", "s", samples=(4.5,)))
    time.sleep(600)


def fails(device, emit):
    emit(Row("failed", device, "time", "s", samples=(5.5,)))
    raise ValueError("the matrix is wrong\nand more")


def dies(device, emit):
    os.kill(os.getpid(), signal.SIGKILL)


def step(run, limit=60.0, name=""):
    return GpuStep(name or run.__name__, limit, "", run)


def recorder(folder, resume=False):
    return Recorder(folder, new_run("gpu", "cpu", True, 0, "a test", {}), resume)


def run(folder, *steps, within=300.0, resume=False):
    complete = run_apart(steps, "cpu", recorder(folder, resume), within, Console(quiet=True))
    return complete, read_run(folder / "gpu.json")


def test_whatever_ends_a_step_its_rows_are_kept_and_the_others_run(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.bench.gpu.runner.GRACE", 1.0)
    complete, saved = run(
        tmp_path, step(hangs, 2.0), step(hangs_deaf, 2.0), step(fails), step(dies), step(measures)
    )
    assert not complete
    figures = {(row.group, row.quantity): row.samples for row in saved.rows if row.subject == "cpu"}
    assert figures == {
        ("hung", "time"): (2.5,), ("hung", "at the end"): (3.5,), ("deaf", "time"): (4.5,),
        ("failed", "time"): (5.5,), ("group", "time"): (1.5,),
    }  # fmt: skip
    assert [check.deviation for check in saved.checks] == [0.5]
    problems = {row.group: row.problem for row in saved.rows if row.subject == "step"}
    assert problems == {
        "hangs": "cut off after 2 s; what it had handed over is kept",
        "hangs_deaf": "cut off after 2 s; what it had handed over is kept",
        "fails": "FAILED: ValueError: the matrix is wrong",
        "dies": "the process ended without a word, exit code -9",
        "measures": "",
    }


def test_a_run_is_resumed_and_a_step_measured_again_takes_the_place_of_the_first(tmp_path):
    assert run(tmp_path, step(measures))[0]
    kept = recorder(tmp_path, resume=True)
    kept.put(Row("other", "cpu", "time", "s", samples=(9.0,)))
    _, saved = run(tmp_path, step(fails, name="measures"), resume=True)
    assert not [row for row in saved.rows if row.group == "failed"], "a finished step ran again"
    again = recorder(tmp_path, resume=True)
    again.reopen(["measures"])
    again.put(Row("group", "cpu", "time", "s", samples=(7.0,)))
    rows = read_run(tmp_path / "gpu.json").rows
    assert {(row.group, row.samples) for row in rows if row.subject == "cpu"} == {
        ("group", (7.0,)),
        ("other", (9.0,)),
    }


def test_steps_that_time_does_not_reach_say_so(tmp_path):
    complete, saved = run(tmp_path, step(measures), within=0.5)
    assert not complete
    assert [row.problem for row in saved.rows] == ["not begun: the 0 s of the whole run were over"]


def test_what_pytest_said_becomes_a_row():
    passed = outcome(["......", "12 passed, 3 skipped in 4.5s"], 0)
    assert (passed.samples, passed.note) == ((12.0,), "3 skipped")
    failed = outcome(["FAILED tests/a.py::test_b - assert 1", "1 failed, 11 passed in 4.5s"], 1)
    assert (failed.samples, failed.problem) == ((), "FAILED: 1 tests: tests/a.py::test_b - assert 1")
    assert outcome(["no tests ran in 0.1s"], 5).problem == "FAILED: no tests ran in 0.1s"
    assert outcome(["...."], None).problem == "FAILED: cut off before the last test"


def test_the_worst_deviation_of_each_tensor_is_kept(tmp_path):
    told = [("test_a[triton_gpu-x]", "out", 3.0), ("test_b[triton_gpu-x]", "out", float("nan")),
            ("test_c[triton_gpu-x]", "out", 9.0), ("test_d[mamba_ssm_from_cpu]", "A", 70.0)]  # fmt: skip
    lines = [
        json.dumps({"tensor": tensor, "dtype": "float32", "deviation": found, "allowed": 32, "test": test})
        for test, tensor, found in told
    ]
    path = tmp_path / "deviations.jsonl"
    path.write_text("\n".join(lines))
    checks = {(check.subject, check.tensor): check for check in worst(path)}
    assert not checks["triton_gpu, float32", "out"].passed
    assert checks["mamba_ssm_cuda, float32", "A"].deviation == 70.0
    assert worst(tmp_path / "none") == []


def test_every_step_runs_at_toy_sizes(tmp_path):
    """The rehearsal that the command offers, whole; in a process of its own, without the tests' checks of shapes."""
    command = [sys.executable, "-m", "experiments.bench", "gpu", "--rehearse"]
    command += ["--within", "800", "--results", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 steps, at most " in done.stderr
    saved = read_run(tmp_path / "gpu.json")
    assert saved.quick
    rows = {row.names: row for row in saved.rows}
    assert len(rows) == len(saved.rows)
    steps = ("ceilings", "correctness", "scan", "reduce", "probes", "training", "efficiency", "profile")
    assert saved.groups == steps
    assert all(rows[name, "step", "time"].samples for name in steps)
    # Nothing on a CPU has a GPU's counters or memory, or mamba_ssm's kernel.
    lacking = ("not measured: ", "not installed: ", "'mamba_ssm_cuda' cannot serve this call: ")
    assert [row for row in saved.rows if row.problem and not row.problem.startswith(lacking)] == []
    assert [check for check in saved.checks if not check.passed] == []
    assert rows["floor", "device", "copy"].samples
    assert rows["correctness", "tests", "passed"].samples == (1.0,)
    assert rows["B=1, L=9", "triton_gpu", "forward+backward"].samples
    _rehearsed_matrices(rows, saved)
    _rehearsed_models(rows, saved)


def _rehearsed_matrices(rows, saved):
    for names in (
        ("reduce frames=2", "reduce", "time"),
        ("32 layers", "32 layers", "time"),
        ("one layer", "one layer", "time"),
        (matrices.CAPTURED, matrices.CAPTURED, "time"),
        (matrices.KERNELS, matrices.KERNELS, "1"),
    ):
        assert rows[names].samples
    assert len([check for check in saved.checks if check.tensor == "last rows of W"]) == 2
    # On one device all numbers are the same.
    probed = {check.subject: check.deviation for check in saved.checks if check.group == probes.GROUP}
    assert probed == {"contradiction": 0.0, "decay": 0.0}


def _rehearsed_models(rows, saved):
    for subject in training.trained(training.TOY):
        step, rate = (rows["training", subject.name, name] for name in ("step", "throughput"))
        assert len(step.samples) == training.TOY.steps
        assert rate.samples == tuple(training.TOY.batch / s for s in step.samples)
    assert len([check for check in saved.checks if check.group == "training"]) == 3
    for frames, batch in ((2, 4), (4, 2)):
        group = efficiency.group("videomambapro_tiny", frames)
        for subject in (efficiency.MAMBA, efficiency.ATTENTION):
            rate, latency = rows[group, subject, "throughput"], rows[group, subject, "latency"]
            assert (rate.case["batch"], latency.case["batch"]) == (batch, 1)
        mamba, control = (
            rows[group, s, "parameters"].median for s in (efficiency.MAMBA, efficiency.ATTENTION)
        )
        assert control == pytest.approx(mamba, rel=models.APART)


def test_an_unknown_step_is_one_line():
    from experiments.bench.__main__ import app

    result = run_command(app, "gpu", "--rehearse", "--only", "scans")
    assert result.exit_code == 2
    assert "--only scans: no step has this name; there are ceilings, correctness, scan" in result.output


def test_a_child_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.bench.gpu.runner.GRACE", 1.0)
    marker = tmp_path / "pid"
    run(tmp_path, step(partial(starts_another, str(marker)), 3.0, "starts"))
    pid = int(marker.read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        if " Z " in Path(f"/proc/{pid}/stat").read_text():
            break
        time.sleep(0.1)
    else:
        assert not Path(f"/proc/{pid}").exists()


def starts_another(marker, device, emit):
    other = subprocess.Popen(["sleep", "600"])
    Path(marker).write_text(str(other.pid))
    other.wait()


@pytest.mark.parametrize(("batch", "length"), [(8, 1569), (1, 12_545)])
@pytest.mark.parametrize("backward", [False, True])
def test_cuts_begin_with_the_plan_and_hold_for_the_kernels(batch, length, backward):
    from experiments.bench.gpu.cuts import cuts
    from vmp.scan.triton_gpu import plan

    found = cuts(batch, length, backward=backward)
    assert found[0] == plan(batch, 1152, 1, 16, length, 132, backward=backward)
    assert 6 <= len(set(found)) == len(found) <= 10
    assert all(cut.width & (cut.width - 1) == 0 and cut.chunk >= 64 for cut in found)
