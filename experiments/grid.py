"""Trains, judges and probes the cells of a grid: `python -m experiments.grid --preset quick --out DIR`.

DIR gets grid.json (the grid), provenance.json, the tables of `experiments.tables` as parquet, and cells/ID/ for each
cell (`experiments.cell`). Stopped or killed at any moment, the same command redoes only what is not finished, and ends
with the same tables.
"""

import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import signal
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import joblib
import pyarrow as pa
import torch
import typer
from rich.console import Console

from analysis.files import write_text
from experiments.backends import BACKENDS, backend
from experiments.cell import CELL, FAILED, CellConfig, run_cell
from experiments.presets import PRESETS, Preset, choose_preset
from experiments.progress import describe, outcome, shown
from experiments.provenance import add_session
from experiments.runs import check_same
from experiments.tables import SCHEMAS, read_table, write_table
from experiments.training.stopping import Stopped

GRID = "grid.json"


class Interrupted(Exception):
    """A grid was asked to stop. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__("stopped; the same command goes on with the cells that are not finished")
        self.number = number


def run_grid(
    preset: Preset,
    out: pathlib.Path,
    *,
    name: str = "custom",
    jobs: int = 1,
    backend_name: str = "loky",
    address: str | None = None,
    command: str = "",
    console: Console | None = None,
) -> tuple[CellConfig, ...]:
    """Run what is not finished of a grid, and write its tables.

    Args:
        preset: the grid; name: what it is called in grid.json.
        out: its folder, which every process that runs cells must see under the same path.
        jobs, backend_name, address: as `experiments.backends.backend` takes them.
        command: the command line, for provenance.json.
        console: where progress is shown; None for nowhere.

    Returns:
        The cells that are not finished, as they failed or were stopped; the tables are without them.

    Raises:
        ValueError: for a folder that holds another grid, is in use by another process, or cannot be written, and as
            `experiments.backends.backend`; and if a worker process was killed.
        Interrupted: if asked to stop.
    """
    cells = preset.cells()
    folders = [out / "cells" / cell.id for cell in cells]
    with _writing(out), backend(backend_name, jobs, address), _alone(out):
        _claim(out, name, preset)
        add_session(out, command=command, preset=name, cells=cells, backend=backend_name, jobs=jobs)
        for leftover in [*out.glob(".*.tmp"), *(folder / FAILED for folder in folders)]:
            leftover.unlink(missing_ok=True)
        todo = [(cell, (out / "cells" / cell.id).resolve()) for cell in unfinished(cells, out)]
        # Cells of the same clips one after the other, as a process keeps only the latest.
        todo.sort(key=lambda pair: (pair[0].task, pair[0].frames, pair[0].image_size, pair[0].seed))
        with contextlib.nullcontext() if console is None else shown(cells, folders, console):
            joblib.Parallel(batch_size=1)(
                joblib.delayed(_attempt)(cell, folder, os.getpid()) for cell, folder in todo
            )
        write_tables(cells, out)
    return unfinished(cells, out)


def unfinished(cells: Sequence[CellConfig], out: pathlib.Path) -> tuple[CellConfig, ...]:
    """Those of a grid's cells that its folder does not hold finished."""
    return tuple(cell for cell in cells if not (out / "cells" / cell.id / CELL).exists())


def write_tables(cells: Sequence[CellConfig], out: pathlib.Path) -> None:
    """Write the grid's tables from the rows of those of its cells that are finished. Raises OSError."""
    folders = [out / "cells" / cell.id for cell in cells]
    finished = [folder for folder in folders if (folder / CELL).exists()]
    for table, schema in SCHEMAS.items():
        parts = [read_table(folder, table) for folder in finished]
        write_table(out, table, pa.concat_tables([schema.empty_table(), *parts]))


def _attempt(cell: CellConfig, folder: pathlib.Path, grid: int) -> None:
    """Run a cell; where it fails, leave the reason in its folder and let the others go on.

    Raises OSError for a folder that cannot be written, as no other cell would fare better.
    """
    try:
        run_cell(cell, folder)
    except Stopped as stopped:
        if os.getpid() == grid:
            raise KeyboardInterrupt from stopped
    except Exception as error:
        reason = _system_error(error)
        if reason is not None:
            raise OSError(reason.errno, reason.strerror, str(folder)) from None
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        write_text(folder / FAILED, f"{said.splitlines()[0]}\n\n{traceback.format_exc()}")


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error


def _claim(out: pathlib.Path, name: str, preset: Preset) -> None:
    """Write grid.json, or check that it holds the same grid."""
    if (out / GRID).exists():
        _check_holds(out, preset)
    else:
        content = {"preset": name, "config": preset.model_dump(mode="json")}
        write_text(out / GRID, json.dumps(content, indent=2) + "\n")


def _check_holds(out: pathlib.Path, preset: Preset) -> None:
    try:
        held = json.loads((out / GRID).read_text(encoding="utf-8"))["config"]
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{out}: holds no grid (no {GRID})") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{out / GRID}: damaged; name another folder") from error
    check_same(out, "grid", _flat(held), _flat(preset.model_dump(mode="json")))


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Every number and text of a nested configuration under a name that says where it stands."""
    if isinstance(value, dict) and value:
        parts = ((f"{place}.{key}" if place else key, part) for key, part in value.items())
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        parts = ((f"{place}.{index}", part) for index, part in enumerate(value))
    else:
        return {place: value}
    return {name: leaf for where, part in parts for name, leaf in _flat(part, where).items()}


@contextlib.contextmanager
def _alone(out: pathlib.Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go of when this process ends, however it does."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another process runs a grid in this folder; name another") from None
        yield


@contextlib.contextmanager
def _writing(out: pathlib.Path) -> Iterator[None]:
    """Errors and signals that end a grid, as those that `run_grid` names."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{error.filename or out}: cannot be read or written: {error.strerror}; what is finished is kept, and the "
            "same command goes on from there"
        ) from error
    except concurrent.futures.BrokenExecutor as error:
        raise ValueError(
            f"{out}: a worker process was killed, perhaps for want of memory; the same command goes on with the cells "
            "that are not finished"
        ) from error
    except KeyboardInterrupt as error:
        raise Interrupted(error.args[0] if error.args else signal.SIGINT) from None


def _as_fit() -> int:
    """Cells at a time that fit this machine: all of them run on the first GPU where there is one."""
    return 1 if torch.cuda.is_available() else joblib.cpu_count()


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def main(
    out: Annotated[pathlib.Path, typer.Option(help="Folder of the grid; a grid in it goes on.")],
    preset: Annotated[str | None, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = None,
    config: Annotated[pathlib.Path | None, typer.Option(help="JSON file of a grid instead.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Cells at a time; as many as cores, on a GPU one.")] = None,
    backend: Annotated[str, typer.Option(help=f"Where cells run: {', '.join(BACKENDS)}.")] = "loky",
    address: Annotated[str | None, typer.Option(help="Of a dask or ray cluster.")] = None,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Only write the tables of the cells that are finished.")
    ] = False,
) -> None:
    """Train, judge and probe every cell of a grid, or go on with a grid that was stopped or killed."""
    console = Console(stderr=True, soft_wrap=True)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        name, grid = choose_preset(preset, config)
        if tables_only:
            with _writing(out):
                _check_holds(out, grid)
                write_tables(grid.cells(), out)
            missing = unfinished(grid.cells(), out)
        else:
            missing = run_grid(
                grid,
                out,
                name=name,
                jobs=_as_fit() if jobs is None else jobs,
                backend_name=backend,
                address=address,
                command=" ".join(["python -m experiments.grid", *sys.argv[1:]]),
                console=console,
            )
    except Interrupted as interrupted:
        console.print(str(interrupted), markup=False, highlight=False)
        raise typer.Exit(128 + interrupted.number) from None
    except ValueError as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        raise typer.Exit(2) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    for cell in missing:
        told = outcome(out / "cells" / cell.id) or "not finished"
        console.print(f"missing from the tables: {describe(cell)}: {told}", markup=False, highlight=False)
    typer.echo(out)
    if missing:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
