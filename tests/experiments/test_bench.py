"""The bench: its gate, its timing and its report, on small sizes and on runs written by hand."""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.provenance import Machine
from experiments.bench import __main__ as cli
from experiments.bench import model, reduce, scan
from experiments.bench.cases import Case, measure
from experiments.bench.figure import growth_points
from experiments.bench.gpu.scans import TOY, GpuSizes, scan_timing, work
from experiments.bench.inputs import NAMES, draw
from experiments.bench.peers import QUANTITIES, Contender, backends, scan_left_out, token_loop
from experiments.bench.report import write_report
from experiments.bench.results import BenchRun, Check, Recorder, Row, find_runs
from experiments.bench.timing import interleave, peak_bytes
from experiments.bench.words import in_unit, power, seconds
from tests.experiments.commands import run_command

MACHINE = Machine("a processor", 2, 2, 256, 8.0, "Linux x86_64", None)
A_RUN = BenchRun("scan", "cpu", False, 0, "a command", "2026-01-02T03:04:05+00:00", MACHINE, {"torch": "2.9"})


def run_cli(*arguments: object):
    return run_command(cli.app, *arguments)


def report_on(folder: Path, *runs: BenchRun) -> dict[str, list[str]]:
    """Write the report of runs; the cells of each line of its tables that follow the first."""
    for run in runs:
        Recorder(folder, run, resume=False).finish("all")
    result = run_cli("report", "--results", folder, "--out", folder / "R.md", "--figures", folder / "figures")
    assert result.exit_code == 0, result.output
    lines: dict[str, list[str]] = {}
    for line in (folder / "R.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            first, *cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            lines.setdefault(first, []).extend(cells)
    return lines


def measured(cases: Iterable[Case], group: str) -> tuple[dict[str, Row], list[Check]]:
    """The rows of a group by subject, and its checks."""
    found = list(measure([case for case in cases if case.group == group]))
    rows = {one.subject: one for one in found if isinstance(one, Row)}
    return rows, [one for one in found if isinstance(one, Check)]


def test_a_wrong_scan_is_not_timed_and_its_row_says_how_far_off_it_is():
    def off(*inputs):
        return token_loop(*inputs) * 1.001

    def wrong_gradient(u, delta, A, B, C, D):
        return token_loop(u, delta, A, B, C, D) + 1e-3 * (delta - delta.detach())

    def nan(*inputs):
        return token_loop(*inputs) * float("nan")

    among = [Contender(each.__name__, each, "") for each in (token_loop, off, wrong_gradient, nan)]
    absent = Contender("mambapy", None, "", plain=True, absent="not installed: No module named 'mambapy'")
    rows, checks = measured(scan.cases(scan.QUICK, 0, [*among, absent]), "forward")
    assert [name for name, row in rows.items() if row.samples] == ["token_loop"]
    assert rows["token_loop"].problem == ""
    # 0.001 in units of float32's eps.
    assert " is 8.39e+03 eps from the float64 specification, 64 allowed" in rows["off"].problem
    assert rows["wrong_gradient"].problem.startswith("FAILED: gradient of delta is ")
    assert " is nan eps" in rows["nan"].problem
    assert rows["mambapy"].problem == absent.absent
    assert {check.subject for check in checks if not check.passed} == {"off", "wrong_gradient", "nan"}


def test_the_gate_of_reduce_refuses_other_weights(monkeypatch):
    right, group = reduce.reduce, f"reduce frames={reduce.QUICK.frames[0]}"
    monkeypatch.setattr(
        reduce, "reduce", lambda *a, **k: {**(found := right(*a, **k)), "RowMass": found["RowMass"] + 0.01}
    )
    rows, checks = measured(reduce.cases(reduce.QUICK, 0), group)
    names = ("AbsoluteMean", "LagProfile", "FrameMatrix", "RowMass", "row", "column")
    assert {check.tensor: check.passed for check in checks} == {name: name != "RowMass" for name in names}
    assert rows["reduce"].samples == ()
    assert rows["reduce"].problem.startswith("FAILED: RowMass is ")


def test_scans_are_checked_and_timed_in_half_precision():
    among = [one for one in backends("cpu") if one.name in ("chunked", "token loop")]
    found: list[Row | Check] = []
    scan_timing(replace(TOY, cases=((2, 9), (1, 12))), "cpu", found.append, among)
    checks = [one for one in found if isinstance(one, Check)]
    assert all(check.passed for check in checks), checks
    # What is stored in bfloat16 may be an eps off; A and D stay float32.
    allowed = {check.tensor: check.allowed for check in checks if check.subject == "chunked"}
    assert allowed == {"out": 1, "u": 1, "delta": 1, "A": 64, "B": 1, "C": 1, "D": 64}
    rows = {one.names: one for one in found if isinstance(one, Row)}
    refused = rows.pop(("B=1, L=12", "token loop", "forward+backward"))
    assert (
        refused.problem
        == "not timed: its gradients take time that grows as L squared; the longest timed is L=9"
    )
    assert len(rows) == 2 * 2 * 3 - 1
    assert all(row.samples and not row.problem for row in rows.values())


def test_work_of_a_scan_by_hand():
    sizes = GpuSizes(channels=2, states=3)
    # u, delta and the output of 10 numbers, B and C of 15, two bytes each.
    assert work(1, 5, "forward", sizes) == (30, 2 * (3 * 10 + 2 * 15))
    # Then u, delta, dy, du, ddelta, and B, C, dB, dC.
    assert work(1, 5, "forward+backward", sizes) == (60, 2 * (3 * 10 + 2 * 15) + 2 * (5 * 10 + 4 * 15))


ROWS = (
    Row("forward", "numba_cpu", "forward", "s", {}, (0.002, 0.004, 0.008)),
    Row("forward", "token loop", "forward", "s", {}, (0.2,), note="one call"),
    Row("forward", "mambapy", "forward", "s", {}, (), "not installed: No module named 'mambapy'"),
    *(
        Row(f"growth L={length}", "numba_cpu", quantity, "s", {}, (1e-5 * length**p,))
        for length in (100, 1000)
        for quantity, p in zip(QUANTITIES, (1.0, 1.3), strict=True)
    ),
    *(Row(f"memory L={length}", "numba_cpu", "forward", "bytes", {}, (1000.0 * length,)) for length in (100, 1000)),
)  # fmt: skip


def test_the_report_shows_medians_ratios_spreads_and_powers_and_is_the_same_again(tmp_path):
    lines = report_on(tmp_path, replace(A_RUN, rows=ROWS))
    assert lines["subject"][:3] == ["forward", "x numba_cpu", "spread"]
    assert lines["token loop"] == ["200 ms", "50.0", "-"]
    # The spread is the distance between the quartiles of 2, 4 and 8 ms.
    assert lines["numba_cpu"] == [
        *("4.00 ms", "1.00", "3.00 ms"),
        *("1.00 ms", "10.0 ms", "1.00", "3.98 ms", "79.4 ms", "1.30"),
        *("100 kB", "1.00 MB", "1.00"),
    ]
    page = (tmp_path / "R.md").read_text()
    assert "\n- token loop (forward): one call\n" in page
    assert "mambapy" not in lines
    assert "\n- mambapy: not installed: No module named 'mambapy'\n" in page
    assert "(figures/growth.png)" in page
    assert lines["GPU, bf16, D=1152, N=16"] == ["target", "figure", "met or not"]
    written = [tmp_path / name for name in ("R.md", "figures/growth.png", "figures/growth.svg")]
    first = [path.read_bytes() for path in written]
    report_on(tmp_path)
    assert [path.read_bytes() for path in written] == first


def test_a_failed_check_is_in_the_report_and_no_figure_beside_it(tmp_path):
    problem = "FAILED: output is 8.39e+03 eps from the float64 specification, 64 allowed"
    rows = (Row("forward", "numba_cpu", "forward", "s", {}, (), problem), ROWS[1])
    checks = tuple(
        Check("gate", "numba_cpu", tensor, "B=1", gap, 64.0) for tensor, gap in (("u", 1.0), ("out", 8390.0))
    )
    lines = report_on(tmp_path, replace(A_RUN, rows=rows, checks=checks))
    assert lines["numba_cpu"] == ["-"]
    assert lines["gate"] == ["numba_cpu", "B=1", "out", "**FAILED: 8.39e+03**", "64"]
    assert f"\n- numba_cpu (forward): {problem}\n" in (tmp_path / "R.md").read_text()


def test_the_report_in_the_repository_is_made_of_the_results_in_it(tmp_path):
    write_report(cli.RESULTS, tmp_path / "RESULTS.md", tmp_path / "figures")
    page = (tmp_path / "RESULTS.md").read_text()
    assert page == (cli.HERE / "RESULTS.md").read_text()
    assert (
        max(len(cell) for line in page.splitlines() if line.startswith("|") for cell in line.split(" | "))
        < 200
    )


def test_what_was_tried_is_part_of_the_report_where_it_is_written(tmp_path):
    tried, out = tmp_path / "tried.md", tmp_path / "R.md"
    write_report(tmp_path, out, tmp_path, tried)
    assert "did not pay" not in out.read_text()
    assert not (tmp_path / "growth.png").exists()
    tried.write_text("## What was tried and did not pay\n\n- A thing.\n")
    write_report(tmp_path, out, tmp_path, tried)
    assert out.read_text().endswith("\n\n## What was tried and did not pay\n\n- A thing.\n")


def test_figures_in_words():
    assert [seconds(x) for x in (0.0044776, 1.0, 123.4, 5e-8)] == ["4.48 ms", "1.00 s", "123 s", "0.0500 us"]
    assert [in_unit(x, "bytes") for x in (0.0, 4096.0, 2.5e6, 1.9e9)] == [
        "0 kB",
        "4.10 kB",
        "2.50 MB",
        "1.90 GB",
    ]
    assert power((10, 100, 1000), (3e-3, 3e-1, 30.0)) == pytest.approx(2.0)


def test_what_the_user_can_mend_is_one_line(tmp_path):
    (tmp_path / "scan-cpu.json").write_text('{"subcommand": "scan"')
    damaged = run_cli("report", "--results", tmp_path, "--out", tmp_path / "R.md", "--figures", tmp_path)
    lacking = run_cli("report", "--results", tmp_path / "none")
    assert (damaged.exit_code, lacking.exit_code) == (2, 2)
    assert damaged.output.startswith(f"error: {tmp_path}/scan-cpu.json: not a run of the bench: ")
    assert damaged.output.count("\n") == 1
    assert lacking.output == f"error: {tmp_path}/none: there is no such folder of results\n"


def test_a_machine_without_a_gpu_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run_cli("gpu", "--results", tmp_path)
    assert result.exit_code == 2
    assert result.output.startswith("error: torch finds no CUDA device on this machine; --rehearse ")
    assert result.output.count("\n") == 1


def test_calls_take_turns_and_slow_ones_have_fewer_repeats():
    # Seconds are told by the fake clock; what is looked at is the order and number of calls.
    order: list[str] = []
    cost = {"quick": 0.01, "slow": 1.0, "very slow": 99.0}
    calls = {name: lambda name=name: order.append(name) or name for name in cost}
    samples = interleave(calls, budget=4.0, most=20, clock=lambda call: cost[call()])
    assert {name: len(taken) for name, taken in samples.items()} == {"quick": 20, "slow": 4, "very slow": 1}
    assert order[:5] == ["quick", "quick", "slow", "slow", "very slow"]
    timed = order[5:]
    assert timed.index("slow") < 12
    assert timed[-3:] == ["quick", "quick", "slow"]


def test_peak_memory_is_what_a_call_takes():
    warm, make = (partial(partial, np.ones, count) for count in (1, 12_500_000))
    assert peak_bytes(warm, make) == pytest.approx(100e6, rel=0.05)


def test_the_scan_left_out_is_left_out_and_comes_back():
    whole, clip = model.whole_model(model.QUICK, 0)
    before = whole(clip)
    with scan_left_out():
        assert not torch.equal(whole(clip), before)
    assert torch.equal(whole(clip), before)


def test_inputs_that_decay_do_so():
    usual, decaying, silent = (
        draw(1, 4, 16, 512, seed=0, kind=kind) for kind in ("usual", "decaying", "silent")
    )
    assert (torch.exp(decaying.delta[:, :, None] * decaying.A[:, :, None]) == 0).any()
    assert 0.1 <= decaying.delta.min() <= decaying.delta.max() <= 10
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


def test_every_subcommand_runs_through_and_is_reported(quick):
    runs = find_runs(quick)
    assert sorted(runs) == [("model", "cpu"), ("reduce", "cpu"), ("scan", "cpu")]
    told = runs["scan", "cpu"]
    here = {one.name for one in scan.of_the_cpu() if not one.absent}
    assert {row.subject for row in told.rows if row.group == "forward" and row.samples} == here
    assert all(check.passed for run in runs.values() for check in run.checks)
    gate = {check.names[:3] for check in told.checks if check.group == "gate"}
    assert gate == {("gate", name, tensor) for name in here for tensor in ("out", *NAMES)}
    peaks = [row for run in runs.values() for row in run.rows if row.unit == "bytes"]
    assert len(peaks) == 4
    assert all(row.samples for row in peaks), peaks
    assert (told.machine.threads, told.versions["torch"]) == (1, torch.__version__)
    assert set(growth_points(told, "forward")) == here
    assert [length for length, _ in growth_points(told, "forward")["numba_cpu"]] == list(scan.QUICK.lengths)
    steps = {row.subject: row.samples for row in runs["model", "cpu"].rows if row.group == "training step"}
    assert list(steps) == [model.WHOLE, model.WITHOUT]
    assert all(samples and min(samples) > 0 for samples in steps.values())
    assert report_on(quick)["scan left out"][0].endswith("s")


def test_resume_measures_what_is_missing_and_nothing_else(quick, tmp_path):
    path = tmp_path / "reduce-cpu.json"
    told = json.loads((quick / "reduce-cpu.json").read_text())
    last = told["groups"].pop()
    kept = [row for row in told["rows"] if row["group"] != last]
    path.write_text(json.dumps({**told, "rows": kept}))
    again = ("reduce", "--quick", "--threads", 1, "--results", tmp_path, "--resume")
    result = run_cli(*again)
    assert result.exit_code == 0, result.output
    resumed = json.loads(path.read_text())
    assert resumed["rows"][: len(kept)] == kept
    assert {row["group"] for row in resumed["rows"][len(kept) :]} == {last}
    # With another seed the rows would be of other inputs.
    result = run_cli(*again, "--seed", 1)
    assert result.exit_code == 2
    assert "is of another machine, version, code, seed or size" in result.output
    assert result.output.count("\n") == 1
