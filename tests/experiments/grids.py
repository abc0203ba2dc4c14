"""A grid so small that a test can train it: two variants, two seeds, on a task that is there."""

import fcntl
import os
import pathlib

import pytest

from experiments.cell import CellConfig
from experiments.grid import run_grid
from experiments.presets import Ablation, Preset

TINY = CellConfig(
    task="photo-pan",
    frames=4,
    image_size=16,
    patch_size=8,
    tubelet_size=1,
    d_model=16,
    depth=2,
    d_state=4,
    variant="videomamba",
    class_token="first",
    steps=12,
    batch_size=4,
    learning_rate=2e-3,
    warmup_steps=2,
    weight_decay=0.05,
    train_clips=24,
    test_clips=12,
    probe_clips=2,
    seed=0,
)
TINY_GRID = Preset(blocks=(Ablation(base=TINY, changes={"variant": ("attention",)}),), seeds=(0, 1))


@pytest.fixture(scope="session")
def tiny_grid(tmp_path_factory) -> pathlib.Path:
    """The folder of TINY_GRID, run once for all tests of a session, those of other pytest workers among them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "tiny-grid.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run_grid(TINY_GRID, shared / "tiny-grid")
    return shared / "tiny-grid"
