"""The progress of a grid, read from its folder, so that it is the same wherever the cells run."""

import contextlib
import json
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import final

from rich.console import Console
from rich.progress import TextColumn

from analysis.terminal import progress_bar
from experiments.cell import CELL, FAILED, CellConfig
from experiments.runs import METRICS

PERIOD = 0.5
"""Seconds between looks at the folder."""

TRAINING = 0.9
"""The part of a cell's time that training is assumed to take."""


@contextlib.contextmanager
def shown(cells: Sequence[CellConfig], folders: Sequence[pathlib.Path], console: Console) -> Iterator[None]:
    """Show progress with the time left inside the block: a bar on a terminal, and one line for each cell."""
    progress = _Progress(cells, folders, console)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(PERIOD):
            progress.look()

    thread = threading.Thread(target=watch, daemon=True)
    with progress.bar:
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            progress.look()


@final
class _Progress:
    def __init__(
        self, cells: Sequence[CellConfig], folders: Sequence[pathlib.Path], console: Console
    ) -> None:
        self._console, self._total = console, len(cells)
        self._open = dict(zip(folders, cells, strict=True))
        for folder in [folder for folder in self._open if (folder / CELL).exists()]:
            del self._open[folder]
        self._began, self._before = time.monotonic(), self._work()
        self.bar = progress_bar(TextColumn("{task.fields[left]}"), console=console)
        self._task = self.bar.add_task("cells", total=self._total, completed=self._ended, left="")

    @property
    def _ended(self) -> int:
        return self._total - len(self._open)

    def look(self) -> None:
        """Show what has changed since the last look."""
        for folder, cell in list(self._open.items()):
            told = outcome(folder)
            if told is not None:
                del self._open[folder]
                line = f"{self._ended}/{self._total} {describe(cell)}: {told}"
                left = self._left()
                self._console.print(line + (f"; {left}" if left else ""), markup=False, highlight=False)
        self.bar.update(self._task, completed=self._ended, left=self._left())

    def _work(self) -> float:
        """The work done, in cells; cells that are being trained count in part."""
        return self._ended + sum(_part(folder, cell) for folder, cell in self._open.items())

    def _left(self) -> str:
        work = self._work()
        if work - self._before <= 0 or not self._open:
            return ""
        seconds = (time.monotonic() - self._began) / (work - self._before) * (self._total - work)
        return f"{_duration(seconds)} left"


def describe(cell: CellConfig) -> str:
    """A cell in a few words."""
    read_out = "class token first" if cell.class_token == "first" else "no class token"
    return f"{cell.id} ({cell.task}, {cell.variant}, {read_out}, {cell.frames} frames, seed {cell.seed})"


def outcome(folder: pathlib.Path) -> str | None:
    """What became of a cell; None if it has not ended."""
    if (folder / CELL).exists():
        accuracy = json.loads((folder / CELL).read_text(encoding="utf-8"))["accuracy"]
        return f"accuracy {100 * accuracy:.1f} %"
    if (folder / FAILED).exists():
        return "failed: " + (folder / FAILED).read_text(encoding="utf-8").splitlines()[0]
    return None


def _part(folder: pathlib.Path, cell: CellConfig) -> float:
    try:
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return 0.0
    # A line may be half there.
    whole = [line for line in lines if line.endswith("\n")]
    return TRAINING * json.loads(whole[-1])["step"] / cell.steps if whole else 0.0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
