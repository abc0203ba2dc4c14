"""The grid: its tables, and that they are the same whatever happens to the processes that make them."""

import fcntl
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from distributed import LocalCluster

import vmp
from experiments.cell import CellConfig
from experiments.data.photo_pan import CLASSES, PhotoPan
from experiments.grid import app, run_grid
from experiments.presets import Ablation, Preset
from tests.experiments.commands import assert_refused, run_command
from tests.experiments.grids import TINY, TINY_GRID, tiny_grid  # noqa: F401

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


def assert_same_rows(mine: pathlib.Path, whole: pathlib.Path, grid: Preset) -> None:
    """The tables of a grid are the rows of its cells in the tables of a larger one."""
    ids = [cell.id for cell in grid.cells()]
    for table in TABLES:
        rows, others = (pd.read_parquet(folder / f"{table}.parquet") for folder in (mine, whole))
        pd.testing.assert_frame_equal(rows, others[others["cell"].isin(ids)].reset_index(drop=True))


def wait_until(condition: Callable[[], object], seconds: float = 600) -> None:
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


@pytest.mark.alone  # It waits for processes, which other tests would hold up.
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
            # Tests that run in the background ignore it, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def at_work() -> bool:
        """Whether a cell was begun since the last process was started."""
        return any(path.stat().st_mtime > began for path in out.glob("cells/*/.lock"))

    def finished() -> set[pathlib.Path]:
        return set(out.glob("cells/*/cell.json"))

    # A terminal interrupts every process of its group. First, as no cell may be the last when the signal comes.
    began = time.time()
    process = start()
    wait_until(at_work)
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=600)
    assert (process.returncode, output) == (128 + signal.SIGINT, "")
    assert errors.splitlines()[-1] == "stopped; the same command goes on with the cells that are not finished"
    assert "Traceback" not in errors
    wait_until(lambda: not any(map(alive, workers)), 3)

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
    began = time.time()
    here = ("--config", config, "--out", out, "--jobs", 2)

    def kill_one() -> list[int]:
        wait_until(at_work)
        workers = [child for child in children(os.getpid()) if b"loky" in cmdline(child)]
        os.kill(workers[0], signal.SIGKILL)
        return workers

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_one)
        result = run_command(app, *here)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a worker process was killed" in result.stderr
    assert "Traceback" not in result.stderr
    wait_until(lambda: not any(map(alive, killed.result())), 3)

    result = run_command(app, *here)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n"), result.stderr
    assert same_tables(out, tiny_grid)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(json.loads((out / "provenance.json").read_text())["sessions"]) == 4


def edited(preset: Preset, **fields: Any) -> Preset:
    """The grid with fields of its first block's base replaced."""
    first = preset.blocks[0]
    base = CellConfig.model_validate({**first.base.model_dump(), **fields})
    return preset.model_copy(update={"blocks": (first.model_copy(update={"base": base}),)})


def write_grid(tmp_path: pathlib.Path, content: object) -> pathlib.Path:
    (tmp_path / "grid.json").write_text(json.dumps(content))
    return tmp_path / "grid.json"


def test_tables_agree_with_each_other_and_with_the_models(tiny_grid):  # noqa: F811
    tables = {name: pd.read_parquet(tiny_grid / f"{name}.parquet") for name in (*TABLES, "times")}
    cells = tables["cells"].set_index("cell")
    expected = TINY_GRID.cells()
    assert list(cells.index) == [cell.id for cell in expected]
    for name, table in tables.items():
        assert list(dict.fromkeys(table["cell"])) == list(cells.index), name
    for cell in expected:
        row = cells.loc[cell.id]
        for field, value in cell.model_dump().items():
            assert row[field] == value
        folder = tiny_grid / "cells" / cell.id
        model = vmp.load_checkpoint(folder / "weights.safetensors")
        assert model.config.variant == cell.variant
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
        assert row["chance"] == pytest.approx(1 / 6)
        # The test clips again, one by one, from the task itself.
        clips = PhotoPan("held-out", cell.frames, cell.image_size, 1000 + cell.seed, cell.test_clips)
        judged = tables["predictions"].query("cell == @cell.id").reset_index()
        assert row["n_test"] == len(judged) == len(clips)
        with torch.inference_mode():
            said = [model.eval()(clips[index][0][None])[0] for index in range(len(clips))]
        assert list(judged["clip"]) == [clips.name(index) for index in range(len(clips))]
        assert list(judged["label"]) == [CLASSES[clips.label(index)] for index in range(len(clips))]
        assert list(judged["prediction"]) == [CLASSES[int(logits.argmax())] for logits in said]
        shares = [float(logits.double().softmax(0).max()) for logits in said]
        assert judged["probability"].to_numpy() == pytest.approx(shares, abs=1e-5)
        assert (judged["correct"] == (judged["label"] == judged["prediction"])).all()
        assert row["accuracy"] == judged["correct"].mean()
        assert (
            judged[["cue_frame", "read_direction", "read_distance", "mediator", "gap"]].isna().all(axis=None)
        )
        assert list(tables["training"].query("cell == @cell.id")["step"]) == list(range(1, cell.steps + 1))


def test_probes_are_of_test_clips_before_and_after_training(tiny_grid):  # noqa: F811
    probes = pd.read_parquet(tiny_grid / "probes.parquet")
    for cell in TINY_GRID.cells():
        mine = probes.query("cell == @cell.id")
        scopes = {"contribution"} if cell.variant == "attention" else {"ssm", "contribution"}
        assert set(mine["scope"]) == scopes
        assert set(mine["probe"]) == {"decay", "contradiction"}
        assert set(mine["layer"]) == {0, 1}
        assert set(mine["n_clips"]) == {cell.probe_clips}
        place = ["probe", "layer", "direction", "scope", "quantity"]
        before, after = (mine[mine["trained"] == trained].set_index(place) for trained in (False, True))
        assert before.index.equals(after.index)
        assert before.index.is_unique
        assert (before["value"] != after["value"]).any()
        inside = mine.dropna(subset=["value", "low", "high"])
        assert len(inside) > 50
        assert (inside["low"] <= inside["high"]).all()
    # By another route: the mean distance from the rows that are kept for the viewer.
    cell = TINY_GRID.cells()[0]
    with np.load(tiny_grid / "cells" / cell.id / "rows.npz") as file:
        rows = {name: file[name] for name in file.files}
    lags = np.abs(np.subtract.outer(np.arange(17), np.arange(17)))
    distance = (rows["P"].astype(float) * lags).sum(-1).mean((0, 3))
    mine = probes[
        (probes["cell"] == cell.id)
        & probes["trained"]
        & (probes["scope"] == "contribution")
        & (probes["quantity"] == "mean_distance_tokens")
    ].set_index(["layer", "direction"])["value"]
    assert len(mine) == distance.size
    for place in np.ndindex(distance.shape):
        told = mine[rows["layers"][place[0]], rows["directions"][place[1]]]
        assert told == pytest.approx(distance[place], rel=2e-3)  # P is in float16


def test_a_dask_cluster_gives_the_same_tables(tiny_grid, tmp_path):  # noqa: F811
    # Threads of one process, which is this one: cells in it must not meet.
    grid = TINY_GRID.model_copy(update={"seeds": (0,)})
    options = {"processes": False, "protocol": "tcp", "dashboard_address": None}
    with LocalCluster(n_workers=1, threads_per_worker=2, **options) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        missing = run_grid(grid, tmp_path, backend_name="dask", address=cluster.scheduler_address)
    assert missing == ()
    assert_same_rows(tmp_path, tiny_grid, grid)


def test_a_cell_that_fails_is_named_and_the_others_go_on(tiny_grid, tmp_path):  # noqa: F811
    first = TINY_GRID.cells()[0]
    grid = Preset(blocks=(Ablation(base=TINY, changes={"learning_rate": (1e30,)}),), seeds=(0,))
    config, out = tmp_path / "grid.json", tmp_path / "grid"
    config.write_text(grid.model_dump_json())
    shutil.copytree(tiny_grid / "cells" / first.id, out / "cells" / first.id)
    result = run_command(app, "--config", str(config), "--out", str(out), "--jobs", "1")
    assert result.exit_code == 1
    bad = grid.cells()[1]
    assert list(pd.read_parquet(out / "cells.parquet")["cell"]) == [first.id]
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"missing from the tables: {bad.id} (photo-pan, videomamba, ")
    assert "failed: the loss is " in last
    assert not (out / "cells" / bad.id / "cell.json").exists()
    # Tables alone: the same, and nothing is tried again.
    before = (out / "cells" / bad.id / "failed.txt").stat().st_mtime_ns
    result = run_command(app, "--config", str(config), "--out", str(out), "--tables-only")
    assert (result.exit_code, result.stderr.splitlines()) == (1, [last])
    assert (out / "cells" / bad.id / "failed.txt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stepz": 3}, "blocks.0.base.stepz: there is no such field"),
        ({"variant": "vidomamba"}, "blocks.0.base.variant: Input should be 'mamba', 'videomamba'"),
        ({"task": "video"}, "task is 'video'; it must be one of recall, relation, direction, photo-pan"),
        ({"frames": 0}, "blocks.0.base.frames: Input should be greater than or equal to 1"),
        ({"patch_size": 7}, "image_size 16 is not a multiple of patch_size 7"),
        ({"task": "relation"}, "num_frames = 4: relation needs at least 5"),
        ({"learning_rate": float("inf")}, "blocks.0.base.learning_rate: Input should be a finite number"),
        ({"probe_clips": 99}, "probe_clips is 99; there are only 12 test_clips"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path, change, told):
    content = json.loads(TINY_GRID.model_dump_json())
    content["blocks"][0]["base"] |= change
    config = write_grid(tmp_path, content)
    ran = run_command(app, "--config", config, "--out", tmp_path / "out")
    assert_refused(ran, told)
    assert ran.stderr.startswith(f"error: {config}: not a grid: ")
    assert not (tmp_path / "out").exists()


def test_a_wrong_change_or_seed_is_told_and_nothing_that_follows_from_it(tmp_path):
    content = json.loads(TINY_GRID.model_dump_json())
    content["blocks"][0]["changes"] = {"variants": ["attention"]}
    for wrong, told in (
        (content, "blocks.0: variants: there is no such field; do you mean variant?"),
        (
            {**json.loads(TINY_GRID.model_dump_json()), "seeds": [0, -1]},
            "seeds.1: Input should be greater than or equal to 0",
        ),
    ):
        config = write_grid(tmp_path, wrong)
        ran = run_command(app, "--config", config, "--out", tmp_path / "out")
        assert (ran.exit_code, ran.stderr) == (2, f"error: {config}: not a grid: {told}\n")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--preset", "quickest"), "preset 'quickest': it must be one of quick, full, gpu"),
        (("--preset", "quick", "--config", "x.json"), "preset quick and config x.json were both given"),
        (("--config", "nowhere.json"), "nowhere.json: the grid cannot be read: No such file or directory"),
        (("--backend", "slurm"), "backend 'slurm': it must be one of loky, dask, ray"),
        (("--address", "tcp://a:1"), "address tcp://a:1: the backend loky runs here"),
        (("--jobs", "0"), "jobs 0: at least 1 is needed"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, told):
    assert_refused(run_command(app, *arguments, "--out", tmp_path / "out"), f"error: {told}")
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^address tcp://127\.0\.0\.1:9: no dask scheduler answers there"):
        run_grid(TINY_GRID, tmp_path, backend_name="dask", address="tcp://127.0.0.1:9")
    for name in ("ray", "dask"):
        monkeypatch.setitem(sys.modules, {"dask": "distributed"}.get(name, name), None)
        with pytest.raises(ValueError, match=rf"is not installed; pip install 'vmp-toolkit\[{name}\]'"):
            run_grid(TINY_GRID, tmp_path, backend_name=name)


def test_a_folder_of_another_grid_is_refused(tiny_grid, tmp_path):  # noqa: F811
    shutil.copy(tiny_grid / "grid.json", tmp_path)
    other = edited(TINY_GRID, steps=13).model_copy(update={"seeds": (0, 1, 2)})
    with pytest.raises(ValueError, match="holds a grid of another configuration") as caught:
        run_grid(other, tmp_path)
    assert str(caught.value).endswith(
        "blocks.0.base.steps was 12 and is now 13, seeds was [0, 1] and is now [0, 1, 2]; name another"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "grid.json"]


def test_a_folder_without_a_grid_or_with_a_damaged_one_is_one_line(tmp_path):
    config = tmp_path / "grid.json"
    config.write_text(TINY_GRID.model_dump_json())
    result = run_command(app, "--config", str(config), "--out", str(tmp_path / "none"), "--tables-only")
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {tmp_path / 'none'}: holds no grid (no grid.json)\n",
    )
    result = run_command(app, "--config", str(config), "--out", str(tmp_path))  # no "config" in it
    assert (result.exit_code, result.stderr) == (2, f"error: {config}: damaged; name another folder\n")


def test_two_grids_in_one_folder_are_refused(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process runs a grid in this folder"):
            run_grid(TINY_GRID, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_files_that_cannot_be_written_are_one_line_and_nothing_is_half_written(tiny_grid, tmp_path):  # noqa: F811
    grid = Preset(blocks=(Ablation(base=TINY),), seeds=(0,))
    cell = tmp_path / "cells" / TINY.id
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The first file that is too large: of the run, of its state, and of what is made of a model that is trained.
    for most, unwritten in (
        (1_000, "config.json"),
        (12_000, "checkpoint.pt"),
        (12_000, "probes.parquet"),
    ):
        if unwritten == "probes.parquet":
            for name in ("config.json", "metrics.jsonl", "weights.safetensors"):
                shutil.copy(tiny_grid / "cells" / TINY.id / name, cell)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            with pytest.raises(
                ValueError, match="cannot be read or written: File too large; what is finished is kept"
            ):
                run_grid(grid, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        left = {path.name for path in cell.iterdir()}
        assert not left & {unwritten, "cell.json"}
        assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".partial"))]
    assert "rows.npz" in left
    run_grid(grid, tmp_path)
    assert_same_rows(tmp_path, tiny_grid, grid)
