"""Progress of a grid: what became of each cell, and the time left by the work that was done."""

import io
import json
import pathlib

import pytest
from rich.console import Console

from experiments import progress
from experiments.cell import CellConfig
from experiments.progress import describe, shown
from tests.experiments.grids import TINY_GRID

CELLS = TINY_GRID.cells()


def finish(folder: pathlib.Path, accuracy: float) -> None:
    (folder / "cell.json").write_text(json.dumps({"accuracy": accuracy}))


def train(folder: pathlib.Path, cell: CellConfig, share: float) -> None:
    lines = [json.dumps({"step": step}) + "\n" for step in (1, round(share * cell.steps))]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"st')  # a line that is half there


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Folders of four cells, one finished before; a clock; and what is shown once the block is left."""
    folders = [tmp_path / cell.id for cell in CELLS]
    for folder in folders:
        folder.mkdir()
    finish(folders[0], 0.25)
    clock = [100.0]
    monkeypatch.setattr(progress, "PERIOD", 3600)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    file = io.StringIO()
    return folders, clock, file, Console(file=file, width=200, soft_wrap=True)


def test_each_cell_that_ends_is_a_line_with_the_time_left(watched):
    folders, clock, file, console = watched
    with shown(CELLS, folders, console):
        clock[0] += 58
        finish(folders[1], 0.5)
        train(folders[2], CELLS[2], 0.5)
    # Of four cells one was done before; 1 + 0.9 / 2 took 58 s, so that the 1.55 that are left take 62.
    assert file.getvalue() == f"2/4 {describe(CELLS[1])}: accuracy 50.0 %; 62 s left\n"


def test_work_of_an_earlier_run_is_not_taken_for_fast_and_failures_are_told(watched):
    folders, clock, file, console = watched
    for k in (1, 2, 3):
        train(folders[k], CELLS[k], 0.5)
    with shown(CELLS, folders, console):
        clock[0] += 54 * 60
        finish(folders[1], 1)
        (folders[2] / "failed.txt").write_text("the loss is nan\n\nTraceback")
        finish(folders[3], 0)
    lines = file.getvalue().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"{k}/4 {describe(cell)}" for k, cell in ((2, CELLS[1]), (3, CELLS[2]), (4, CELLS[3]))
    ]
    assert lines[1].partition(": ")[2].startswith("failed: the loss is nan; ")
    assert lines[2].endswith(": accuracy 0.0 %")
    # 0.55 of a cell took 54 minutes, and 1.1 cells are left; then 1.1 took as long, and 0.55 are left.
    assert [line.rpartition("; ")[2] for line in lines[:2]] == ["1.8 h left", "27 min left"]
