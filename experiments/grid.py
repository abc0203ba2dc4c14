"""Trains, judges and probes the cells of a grid: `python -m experiments.grid --preset quick --out DIR`.

DIR gets grid.json (the grid), provenance.json, the tables of `experiments.grid_tables` as parquet, and cells/ID/ for
each cell (`experiments.cell`). If the command is interrupted or killed, run it again: it redoes only what is not
finished, and ends with the same tables.
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
from analysis.terminal import Stopped, command_line, run_app
from experiments.backends import GRID_BACKENDS, running_on
from experiments.cell import CELL, FAILED, CellConfig, run_cell
from experiments.grid_tables import SCHEMAS, read_table, write_table
from experiments.presets import PRESETS, Preset, choose_preset
from experiments.progress import describe, outcome, shown
from experiments.provenance import add_session
from experiments.runs import check_same

GRID = "grid.json"

app = typer.Typer(add_completion=False)


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
    """Run the cells of a grid that are not finished, and write its tables.

    Args:
        preset: the grid.
        out: its folder, which every process that runs cells must see under the same path.
        name: what it is called in grid.json.
        jobs, backend_name, address: as `experiments.backends.running_on` takes them.
        command: the command line, for provenance.json.
        console: where progress is shown; None for nowhere.

    Returns:
        The cells that failed or were stopped; the tables are without them.

    Raises:
        ValueError: if the folder holds another grid, is in use by another process, or cannot be written, if a worker
            process was killed, and as `experiments.backends.running_on`.
        Stopped: if asked to stop.
    """
    cells = preset.cells()
    folders = [out / "cells" / cell.id for cell in cells]
    with _writing(out), running_on(backend_name, jobs, address), _alone(out):
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
    """The cells of a grid that are not finished in its folder."""
    return tuple(cell for cell in cells if not (out / "cells" / cell.id / CELL).exists())


def write_tables(cells: Sequence[CellConfig], out: pathlib.Path) -> None:
    """Write the grid's tables from the rows of the cells that are finished."""
    folders = [out / "cells" / cell.id for cell in cells]
    finished = [folder for folder in folders if (folder / CELL).exists()]
    for table, schema in SCHEMAS.items():
        parts = [read_table(folder, table) for folder in finished]
        write_table(out, table, pa.concat_tables([schema.empty_table(), *parts]))


def _attempt(cell: CellConfig, folder: pathlib.Path, grid: int) -> None:
    """Run a cell; if it fails, leave the reason in its folder and let the others go on.

    Raises:
        OSError: if the folder cannot be written, as no other cell would fare better.
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
    """Every number and text of a nested configuration, under a name that says where it stands."""
    if isinstance(value, dict) and value:
        parts = ((f"{place}.{key}" if place else key, part) for key, part in value.items())
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        parts = ((f"{place}.{index}", part) for index, part in enumerate(value))
    else:
        return {place: value}
    return {name: leaf for where, part in parts for name, leaf in _flat(part, where).items()}


@contextlib.contextmanager
def _alone(out: pathlib.Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases when this process ends, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another process runs a grid in this folder; name another") from None
        yield


@contextlib.contextmanager
def _writing(out: pathlib.Path) -> Iterator[None]:
    """Turn errors and signals that end a grid into those that `run_grid` names."""
    try:
        yield
    except OSError as error:
        # Arrow puts words of its own around the system's.
        said = os.strerror(error.errno) if error.errno else error
        raise ValueError(
            f"{error.filename or out}: cannot be read or written: {said}; what is finished is kept, and the "
            "same command goes on from there"
        ) from error
    except concurrent.futures.BrokenExecutor as error:
        raise ValueError(
            f"{out}: a worker process was killed, perhaps for want of memory; the same command goes on with the cells "
            "that are not finished"
        ) from error
    except KeyboardInterrupt as error:
        said = "stopped; the same command goes on with the cells that are not finished"
        raise Stopped(error.args[0] if error.args else signal.SIGINT, said) from None


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt(number)


@app.command()
def main(
    out: Annotated[pathlib.Path, typer.Option(help="Folder of the grid; a grid in it goes on.")],
    preset: Annotated[str | None, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = None,
    config: Annotated[pathlib.Path | None, typer.Option(help="JSON file of a grid instead.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Cells at a time; as many as cores, on a GPU one.")] = None,
    backend: Annotated[str, typer.Option(help=f"Where cells run: {', '.join(GRID_BACKENDS)}.")] = "loky",
    address: Annotated[str | None, typer.Option(help="Of a dask or ray cluster.")] = None,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Only write the tables of the cells that are finished.")
    ] = False,
) -> None:
    """Train, judge and probe every cell of a grid, or go on with a grid that was stopped or killed."""
    if jobs is None:  # All cells run on the first GPU where there is one.
        jobs = 1 if torch.cuda.is_available() else joblib.cpu_count()
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
                jobs=jobs,
                backend_name=backend,
                address=address,
                command=command_line("experiments.grid"),
                console=Console(stderr=True, soft_wrap=True),
            )
    finally:
        signal.signal(signal.SIGTERM, previous)
    for cell in missing:
        told = outcome(out / "cells" / cell.id) or "not finished"
        typer.echo(f"missing from the tables: {describe(cell)}: {told}", err=True)
    typer.echo(out)
    if missing:
        raise typer.Exit(1)


if __name__ == "__main__":
    sys.exit(run_app(app))
