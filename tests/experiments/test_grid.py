"""The grid: its tables, and that they are the same whatever happens to the processes that make them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import vmp
from tests.experiments.grids import TINY_GRID, tiny_grid  # noqa: F401

TABLES = ("cells", "predictions", "training", "probes", "profiles")
"""All but `times`."""

ENVIRONMENT = {
    **os.environ,
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(pathlib.Path(vmp.__file__).parents[1]),
}


def command(out: pathlib.Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.grid", "--out", str(out), *arguments]


def same_tables(one: pathlib.Path, other: pathlib.Path) -> bool:
    return all((one / f"{t}.parquet").read_bytes() == (other / f"{t}.parquet").read_bytes() for t in TABLES)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Processes that a process started, but for loky's tracker of resources, which outlives it by design a moment."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return [child for child in found if b"resource_tracker" not in cmdline(child)]


def cmdline(pid: int) -> bytes:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def alive(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_grid_killed_in_every_way_ends_with_the_same_tables(tiny_grid, tmp_path):  # noqa: F811
    config, out = tmp_path / "grid.json", tmp_path / "grid"
    config.write_text(TINY_GRID.model_dump_json())

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(out, "--config", str(config), "--jobs", "2"),
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finished() -> set[pathlib.Path]:
        return set(out.glob("cells/*/cell.json"))

    # The grid itself is killed: its workers go with it.
    process = start()
    wait_until(finished)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: not any(map(alive, workers)), 3)
    done = {path: path.stat().st_mtime_ns for path in finished()}
    assert 1 <= len(done) < 4

    # A worker is killed: the grid says so in one line.
    process = start()
    wait_until(lambda: len(children(process.pid)) == 2)
    workers = children(process.pid)
    time.sleep(1)
    os.kill(workers[0], signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    assert "a worker process was killed" in errors
    assert "Traceback" not in errors
    wait_until(lambda: not any(map(alive, workers)), 3)

    # A terminal interrupts every process of its group.
    process = start()
    wait_until(lambda: len(children(process.pid)) == 2)
    workers = children(process.pid)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (128 + signal.SIGINT, "")
    assert errors.splitlines()[-1] == "stopped; the same command goes on with the cells that are not finished"
    assert "Traceback" not in errors
    wait_until(lambda: not any(map(alive, workers)), 3)

    process = start()
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, f"{out}\n")
    assert same_tables(out, tiny_grid)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(json.loads((out / "provenance.json").read_text())["sessions"]) == 4
