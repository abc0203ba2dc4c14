"""The bench: its gate, its judgements and its table on small sizes and on runs written by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from experiments.bench import __main__ as cli
from experiments.bench import model as whole
from experiments.bench import reduce as reduction
from experiments.bench import scan
from experiments.bench.compiled import assembly, count_widths, exp_error
from experiments.bench.gpu.scans import TOY, GpuSizes, scan_timing, work
from experiments.bench.inputs import draw
from experiments.bench.peers import Subject, subjects, token_loop
from experiments.bench.plot import growth_points
from experiments.bench.results import Check, Machine, Measured, Recorder, Row, Run, find_runs, this_machine
from experiments.bench.timing import interleave, peak_bytes
from experiments.bench.verdicts import amount, seconds, slope

MACHINE = Machine("a processor", 2, 2, 256, 8.0, "Linux x86_64", None)


def run_cli(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def nothing(done: int, total: int) -> None:
    pass


def a_run(*rows: Row, subcommand: str = "scan", device: str = "cpu", quick: bool = False, checks=()) -> Run:
    return Run(
        subcommand, device, quick, 0, "a command", "2026-01-02T03:04:05+00:00", MACHINE, {"torch": "2.9"}, {},
        rows, checks,
    )  # fmt: skip


def write_runs(folder: Path, *runs: Run) -> None:
    for run in runs:
        recorder = Recorder(folder, run, resume=False)
        recorder.add("all", Measured())


def report_on(folder: Path) -> dict[str, list[str]]:
    """Write the report of the runs in a folder; its tables' lines by first cell."""
    result = run_cli("report", "--results", folder, "--out", folder / "R.md", "--figures", folder / "figures")
    assert result.exit_code == 0, result.output
    lines: dict[str, list[str]] = {}
    for line in (folder / "R.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            first, *cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            lines.setdefault(first, []).extend(cells)
    return lines


# --- the gate ---------------------------------------------------------------------------------------------------------


def subject(name: str, of, **fields) -> Subject:
    return Subject(name, of, name, **fields)


def test_a_wrong_backend_is_not_timed_and_its_row_says_how_far_off_it_is():
    def off(u, delta, A, B, C, D):
        return token_loop(u, delta, A, B, C, D) * 1.001

    def wrong_gradient(u, delta, A, B, C, D):
        out = token_loop(u, delta, A, B, C, D)
        return out + 1e-3 * (delta - delta.detach())

    def nan(u, delta, A, B, C, D):
        return token_loop(u, delta, A, B, C, D) * float("nan")

    among = [subject("off", off), subject("wrong gradient", wrong_gradient), subject("nan", nan)]
    bench = scan.ScanBench(scan.QUICK, 0, [subject("right", token_loop), *among])
    steps = {step.group: step.measure for step in bench.steps()}
    rows = {row.subject: row for row in steps["forward"](nothing).rows}
    assert rows["right"].samples
    assert not rows["right"].problem
    for name in ("off", "wrong gradient", "nan"):
        assert rows[name].samples == (), name
    # 0.001 in units of float32's eps.
    assert " is 8.39e+03 eps from the float64 specification, 64 allowed" in rows["off"].problem
    assert rows["wrong gradient"].problem.startswith("FAILED: gradient of delta is "), rows[
        "wrong gradient"
    ].problem
    assert " is nan eps" in rows["nan"].problem, rows["nan"].problem
    failed = {check.subject for check in steps["gate"](nothing).checks if not check.passed}
    assert failed == {"off", "wrong gradient", "nan"}


def test_a_failed_row_shows_no_figure_in_the_report(tmp_path):
    problem = "FAILED: output is 8.39e+03 eps from the float64 specification, 64 allowed"
    rows = [
        Row("forward", "numba_cpu", "forward", "s", {}, (), problem),
        Row("forward", "token loop", "forward", "s", {}, (0.3,)),
    ]
    check = Check("gate", "numba_cpu", "out", "B=1", 8390.0, 64.0)
    write_runs(tmp_path, a_run(*rows, checks=(check,)))
    lines = report_on(tmp_path)
    assert lines["forward"] == ["at most 4.5 ms", f"numba_cpu: {problem}", "**not met**"]
    assert lines["numba_cpu"] == ["forward", "-", "-", "-", "0", problem]
    assert lines["gate"][-1] == "**FAILED: 8.39e+03** of 64"


@pytest.mark.parametrize("name", [s.name for s in scan.of_the_cpu() if not s.absent])
def test_every_subject_that_is_here_passes_the_gate(name):
    bench = scan.ScanBench(scan.QUICK, 0)
    one = next(s for s in bench.subjects if s.name == name)
    checks = bench.gate.checks(one)
    assert [check.tensor for check in checks] == ["out", "u", "delta", "A", "B", "C", "D"]
    assert all(check.passed for check in checks), checks


def test_a_peer_that_is_not_installed_says_so():
    absent = Subject("mambapy", None, "", plain=True, absent="not installed: No module named 'mambapy'")
    bench = scan.ScanBench(scan.QUICK, 0, [subject("right", token_loop), absent])
    rows = next(step for step in bench.steps() if step.group == "forward").measure(nothing).rows
    assert rows[1].problem == "not installed: No module named 'mambapy'"
    assert rows[1].samples == ()


def test_the_gate_of_reduce_refuses_other_weights(monkeypatch):
    bench = reduction.ReduceBench(reduction.QUICK, 0)
    assert {
        check.tensor: check.passed for check in bench.steps()[0].measure(nothing).checks
    } == dict.fromkeys(("AbsoluteMean", "LagProfile", "FrameMatrix", "RowMass", "row", "column"), True)
    right = reduction.reduce
    monkeypatch.setattr(
        reduction, "reduce", lambda *a, **k: {**(found := right(*a, **k)), "RowMass": found["RowMass"] + 0.01}
    )
    checks = bench.steps()[0].measure(nothing).checks
    assert [check.tensor for check in checks if not check.passed] == ["RowMass"]
    (row,) = bench.steps()[1].measure(nothing).rows
    assert row.samples == ()
    assert row.problem.startswith("FAILED: RowMass is ")


# --- from rows to verdicts --------------------------------------------------------------------------------------------


def scan_rows(seconds: float, loop: float) -> list[Row]:
    """Forward timings, and times and bytes that grow as L in steps and as L^1.3 in bytes of the backward pass."""
    rows = [
        Row("forward", "numba_cpu", "forward", "s", {}, (2 * seconds, seconds, seconds / 2)),
        Row("forward", "token loop", "forward", "s", {}, (loop,)),
        *(
            Row("assembly", f"{bits} bit", "packed arithmetic", "", {}, (n,))
            for bits, n in ((128, 3.0), (256, 97.0))
        ),
        Row("assembly", "512 bit", "packed arithmetic", "", {}, (0.0,)),
    ]
    for length in scan.ScanSizes().lengths:
        rows += [
            Row(f"growth L={length}", "numba_cpu", "forward", "s", {}, (1e-5 * length,)),
            Row(f"growth L={length}", "numba_cpu", "forward+backward", "s", {}, (1e-5 * length**1.3,)),
            Row(f"memory L={length}", "numba_cpu", "forward", "bytes", {}, (1000.0 * length,)),
        ]
    return rows


def test_the_report_says_met_not_met_and_not_measured(tmp_path):
    write_runs(tmp_path, a_run(*scan_rows(0.004, 0.2)))
    lines = report_on(tmp_path)
    assert lines["forward"] == ["at most 4.5 ms", "4.00 ms", "met"]
    assert lines["forward, over the token loop in torch"] == [
        "at least 60 x faster", "50.0 x (200 ms : 4.00 ms)", "**not met**",
    ]  # fmt: skip
    assert lines["growth of time in L, 196 to 50,176: forward"][1:] == [
        "slope 1.00, of the last four 1.00; 1.96 ms at 196, 502 ms at 50,176", "met",
    ]  # fmt: skip
    assert lines["growth of time in L, 196 to 50,176: forward+backward"][1].startswith("slope 1.30, ")
    assert lines["growth of time in L, 196 to 50,176: forward+backward"][2] == "**not met**"
    assert lines["growth of memory above the inputs in L, 196 to 50,176: forward"][1:] == [
        "slope 1.00, of the last four 1.00; 196 kB at 196, 50.2 MB at 50,176", "met",
    ]  # fmt: skip
    assert lines["generated code"][1:] == [
        "packed arithmetic instructions: 3 of 128 bit, 97 of 256 bit; the machine has 256 bit", "met",
    ]  # fmt: skip
    assert lines["forward + backward"][1:] == ["not measured: the saved run of scan has not come to it", "-"]
    assert lines["time, L=1569"][1:] == [
        "not measured: `python -m experiments.bench reduce` has not been run",
        "-",
    ]
    on_gpu = [
        cells
        for what, cells in lines.items()
        if what.startswith(("plain scan, B=", "mask and residual on, B="))
    ]
    assert len(on_gpu) == 16
    assert all(cells[1:] == ["not measured: `make gpu` has not been run", "-"] for cells in on_gpu)
    # Spread: the distance between quartiles of 2, 4 and 8 ms.
    assert lines["numba_cpu"][:6] == ["forward", "4.00 ms", "2.00 ms", "3.00 ms", "3", ""]


def test_the_report_is_made_of_the_json_alone_and_is_the_same_again(tmp_path):
    write_runs(tmp_path, a_run(*scan_rows(0.004, 0.2)))
    report_on(tmp_path)
    names = ("R.md", "figures/growth.png", "figures/growth.svg")
    first = [(tmp_path / name).read_bytes() for name in names]
    report_on(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == first


def test_a_gpu_run_fills_the_gpu_rows_and_keeps_those_of_the_cpu(tmp_path):
    group, B, D, N, L = "B=8, L=1569", 8, 1152, 16, 1569
    rate, copy = 4e12, 2.5e12
    rows = [
        Row("floor", "device", "exponentials", "1/s", {}, (rate,)),
        Row("floor", "device", "copy", "bytes/s", {}, (copy,)),
        Row(group, "triton_gpu", "forward", "s", {}, (1e-4,)),
        Row(group, "triton_gpu, plain", "forward", "s", {}, (9e-5,)),
        Row(group, "mamba_ssm", "forward", "s", {}, (), "not installed: No module named 'mamba_ssm'"),
        Row(group, "token loop", "forward", "s", {}, (0.05,)),
    ]
    write_runs(tmp_path, a_run(*scan_rows(0.004, 0.2)), a_run(*rows, subcommand="gpu", device="cuda"))
    lines = report_on(tmp_path)
    case = "mask and residual on, B=8, L=1,569, forward"
    floor = B * D * L * N / rate
    assert lines[f"{case}, fraction of the floor"][1:] == [
        f"58 % (floor {1e6 * floor:.1f} us by exponentials)",
        "met",
    ]
    assert lines[f"{case}, over the token loop"][1:] == ["500 x (50.0 ms : 100 us)", "met"]
    assert lines[f"{case}, over mamba_ssm's plain scan"][1:] == [
        "mamba_ssm: not installed: No module named 'mamba_ssm'", "-",
    ]  # fmt: skip
    assert lines["forward"][:3] == ["at most 4.5 ms", "4.00 ms", "met"]


def test_work_of_a_scan_by_hand():
    sizes = GpuSizes(channels=2, states=3)
    exponentials, moved = work(1, 5, "forward", sizes)
    assert exponentials == 30
    # u, delta and the output of 10 numbers, B and C of 15, two bytes each.
    assert moved == 2 * (3 * 10 + 2 * 15)
    exponentials, moved = work(1, 5, "forward+backward", sizes)
    assert exponentials == 60
    # Then u, delta, dy, du, ddelta, and B, C, dB, dC.
    assert moved == 2 * (3 * 10 + 2 * 15) + 2 * (5 * 10 + 4 * 15)


def test_an_empty_folder_leaves_every_target_unmeasured(tmp_path):
    lines = report_on(tmp_path)
    assert lines["forward"][1:] == ["not measured: `python -m experiments.bench scan` has not been run", "-"]
    assert not (tmp_path / "figures/growth.png").exists()


def test_scans_are_checked_and_timed_in_half_precision():
    among = [s for s in subjects("cpu") if s.name in ("chunked", "token loop")]
    found: list[Row | Check] = []
    sizes = replace(TOY, cases=((2, 9), (1, 12)))
    scan_timing(sizes, "cpu", found.append, among)
    checks = [one for one in found if isinstance(one, Check)]
    assert all(check.passed for check in checks), checks
    # What is stored in bfloat16 may be an eps off; A and D stay float32.
    allowed = {check.tensor: check.allowed for check in checks if check.subject == "chunked"}
    assert allowed == {"out": 1, "u": 1, "delta": 1, "A": 64, "B": 1, "C": 1, "D": 64}
    rows = {one.names: one for one in found if isinstance(one, Row)}
    refused = "not timed: its gradients take time that grows as L squared; the longest timed is L=9"
    for group in ("B=2, L=9", "B=1, L=12"):
        for quantity in ("forward", "forward+backward"):
            for names in ((group, "chunked", quantity), (group, "chunked", f"{quantity}, as Python calls it"),
                          (group, "token loop", quantity)):  # fmt: skip
                too_long = names == ("B=1, L=12", "token loop", "forward+backward")
                assert rows[names].problem == (refused if too_long else "")
                assert too_long or min(rows[names].samples) > 0


def test_what_was_tried_is_part_of_the_report_where_it_is_written(tmp_path):
    from experiments.bench.report import write_report

    tried = tmp_path / "tried.md"
    write_report(tmp_path, tmp_path / "R.md", tmp_path, tried)
    assert "did not pay" not in (tmp_path / "R.md").read_text()
    tried.write_text("## What was tried and did not pay\n\n- A thing.\n")
    write_report(tmp_path, tmp_path / "R.md", tmp_path, tried)
    assert "\n\n## What was tried and did not pay\n\n- A thing.\n\n" in (tmp_path / "R.md").read_text()


@pytest.mark.parametrize(
    ("value", "said"), [(0.0044776, "4.48 ms"), (1.0, "1.00 s"), (123.4, "123 s"), (5e-8, "0.0500 us")]
)
def test_seconds_in_words(value, said):
    assert seconds(value) == said


def test_bytes_in_words():
    assert [amount(x) for x in (0.0, 4096.0, 2.5e6, 1.9e9)] == ["0 kB", "4.10 kB", "2.50 MB", "1.90 GB"]


def test_slope_of_a_power():
    assert slope((10, 100, 1000), (3e-3, 3e-1, 30.0)) == pytest.approx(2.0)


# --- damaged and missing files ----------------------------------------------------------------------------------------


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "scan-cpu.json").write_text('{"subcommand": "scan"')
    result = run_cli("report", "--results", tmp_path, "--out", tmp_path / "R.md", "--figures", tmp_path)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {tmp_path}/scan-cpu.json: not a Run: ")
    assert result.output.count("\n") == 1


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    result = run_cli("report", "--results", tmp_path / "none")
    assert (result.exit_code, result.output) == (
        2,
        f"error: {tmp_path}/none: there is no such folder of results\n",
    )


def test_a_machine_without_a_gpu_is_one_line(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    result = run_cli("gpu", "--results", tmp_path)
    assert result.exit_code == 2
    assert result.output.startswith("error: torch finds no CUDA device on this machine; --rehearse ")
    assert result.output.count("\n") == 1


# --- measuring --------------------------------------------------------------------------------------------------------


def test_calls_take_turns_and_slow_ones_have_fewer_repeats():
    # Seconds are told by the fake clock; what is looked at is the order and number of calls.
    order: list[str] = []
    cost = {"quick": 0.01, "slow": 1.0, "very slow": 99.0}

    def clock(call) -> float:
        return cost[call()]

    def call(name: str):
        return lambda: order.append(name) or name

    samples = interleave({name: call(name) for name in cost}, budget=4.0, most=20, clock=clock)
    assert {name: len(taken) for name, taken in samples.items()} == {"quick": 20, "slow": 4, "very slow": 1}
    assert order[:5] == ["quick", "quick", "slow", "slow", "very slow"]
    timed = order[5:]
    assert timed.index("slow") < 12
    assert timed[-2:] == ["quick", "slow"] or timed[-3:] == ["quick", "quick", "slow"]


def allocate(megabytes: int):
    return lambda: torch.ones(megabytes * 250_000)


def test_peak_memory_is_what_a_call_takes():
    assert peak_bytes(allocate, 100) == pytest.approx(100e6, rel=0.05)


def test_exp_error_of_the_compiled_scan_is_within_two_eps():
    (row,) = exp_error("exp").rows
    assert 0 < row.median <= 2


def test_registers_are_counted_on_packed_arithmetic_only():
    text = """
        vmovups %zmm1, (%rax)
        vfmadd231ps %zmm1, %zmm2, %zmm3
        vmulps (%rax), %ymm1, %ymm2
        vaddss %xmm0, %xmm1, %xmm1
        vfnmadd213pd %ymm1, %ymm2, %ymm3
    """
    assert count_widths(text) == {128: 0, 256: 2, 512: 1}


def test_the_scan_left_out_is_left_out_and_comes_back():
    bench = whole.ModelBench(whole.QUICK, 0)
    model, clip = bench._model()
    before = model(clip)
    with whole.scan_left_out():
        without = model(clip)
    assert not torch.equal(without, before)
    assert torch.equal(model(clip), before)
    with pytest.raises(RuntimeError, match="called no selective_scan"), whole.scan_left_out():
        pass


def test_inputs_that_decay_do_so():
    usual, decaying, silent = (
        draw(1, 4, 16, 512, seed=0, kind=kind) for kind in ("usual", "decaying", "silent")
    )
    assert (torch.exp(decaying.delta[:, :, None] * decaying.A[:, :, None]) == 0).any()
    assert decaying.delta.min() >= 0.1
    assert decaying.delta.max() <= 10
    assert (silent.u != 0).sum() == 4 * 4
    # Between two inputs a state of rate 1 passes through the denormal numbers, which start at 1e-38.
    assert silent.delta[:, :, 1:128].sum(-1).min() > 38 * 2.3026 / 2
    assert usual.delta.max() < 10


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """The folder of a quick run of every subcommand."""
    folder = tmp_path_factory.mktemp("quick")
    for name in ("scan", "reduce", "model"):
        result = run_cli(name, "--quick", "--threads", 1, "--results", folder)
        assert result.exit_code == 0, result.output
    return folder


@pytest.mark.timeout(1200)  # the first to ask for the quick runs, which compile everything anew
def test_every_subcommand_runs_through_and_is_reported(quick):
    runs = find_runs(quick)
    assert sorted(runs) == [("model", "cpu"), ("reduce", "cpu"), ("scan", "cpu")]
    told = runs["scan", "cpu"]
    here = {s.name for s in scan.of_the_cpu() if not s.absent}
    assert {row.subject for row in told.rows if row.group == "forward" and row.samples} == here
    assert all(check.passed for run in runs.values() for check in run.checks)
    assert told.machine.threads == 1
    assert told.versions["torch"] == torch.__version__
    assert set(growth_points(told, "forward")) == here
    assert [length for length, _ in growth_points(told, "forward")["numba_cpu"]] == list(scan.QUICK.lengths)
    phases = {row.subject: row for row in runs["model", "cpu"].rows if row.quantity == "phase of a step"}
    parts = ("forward", "backward", "clipping", "optimizer", "other")
    for step, *spent in zip(phases["step"].samples, *(phases[name].samples for name in parts), strict=True):
        assert sum(spent) == pytest.approx(step)
    assert all(min(phases[name].samples) > 0 for name in parts)
    lines = report_on(quick)
    assert lines["forward"][1] == "not measured: the saved run is a --quick one, of other sizes"


@pytest.mark.timeout(1200)  # likewise, where another process has the test above
def test_resume_measures_what_is_missing_and_nothing_else(quick, tmp_path):
    path = tmp_path / "reduce-cpu.json"
    told = json.loads((quick / "reduce-cpu.json").read_text())
    last = told["groups"].pop()
    kept = [row for row in told["rows"] if row["group"] != last]
    path.write_text(json.dumps({**told, "rows": kept}))
    result = run_cli("reduce", "--quick", "--threads", 1, "--results", tmp_path, "--resume")
    assert result.exit_code == 0, result.output
    resumed = json.loads(path.read_text())
    assert resumed["rows"][: len(kept)] == kept
    assert {row["group"] for row in resumed["rows"][len(kept) :]} == {last}
    # With another seed the rows would be of other inputs.
    result = run_cli("reduce", "--quick", "--threads", 1, "--seed", 1, "--results", tmp_path, "--resume")
    assert result.exit_code == 2
    assert "is of another machine, version, code, seed or size" in result.output
    assert result.output.count("\n") == 1


def test_an_interrupted_step_leaves_the_groups_before_it(tmp_path):
    recorder = Recorder(tmp_path, a_run(), resume=False)
    recorder.add("one", Measured((Row("one", "a", "b", "s", {}, (1.0,)),)))
    again = Recorder(tmp_path, replace(a_run(), date="later"), resume=True)
    assert again.has("one")
    assert not again.has("two")
    assert again.run.rows == recorder.run.rows


def test_the_compiled_scan_fills_the_registers_of_the_machine():
    """Forward and backward kernel, as compiled here: nine in ten packed instructions use the widest registers."""
    counts = {int(row.subject.split()[0]): row.samples[0] for row in assembly("assembly").rows}
    widest = this_machine("cpu").vector
    assert counts[widest] > 100
    assert counts[widest] >= 0.9 * sum(counts.values())
