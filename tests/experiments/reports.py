"""A report of a real tiny grid, made once for all tests of a session."""

import fcntl
import os
import pathlib
import shutil
import sys

import pytest

from experiments.grid import run_grid, write_tables
from experiments.presets import Ablation, Preset
from experiments.report.__main__ import app
from tests.experiments.commands import run_command
from tests.experiments.grids import TINY, TINY_GRID

POOLED = TINY.model_copy(update={"class_token": "none"})
GRID = Preset(blocks=(*TINY_GRID.blocks, Ablation(base=POOLED)), seeds=TINY_GRID.seeds)
"""Two bases: with a class token and self-attention, and without one."""
UNFINISHED = GRID.cells()[-1]
"""What the report's grid lacks of GRID."""


@pytest.fixture(scope="session")
def report(tiny_grid, tmp_path_factory) -> pathlib.Path:
    """The folder of the report of GRID less UNFINISHED; the grid itself is the folder ``grid`` beside it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    home = shared / "report-of-a-tiny-grid"
    with (shared / "report.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "report").exists():
            shutil.copytree(tiny_grid / "cells", home / "grid" / "cells", dirs_exist_ok=True)
            run_grid(GRID, home / "grid")
            shutil.rmtree(home / "grid" / "cells" / UNFINISHED.id)
            write_tables(GRID.cells(), home / "grid")
            options = ("--grid", home / "grid", "--out", home / "report")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["experiments.report", *map(str, options)])  # The page shows it.
                done = run_command(app, *options)
            assert done.exit_code == 0, done.stderr
            assert done.stdout == f"report written; open {home / 'report'}/index.html\n"
    return home / "report"
