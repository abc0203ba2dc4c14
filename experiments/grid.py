"""Trains, judges and probes the cells of a grid: `python -m experiments.grid --preset quick --out DIR`."""

import pathlib
import sys
from typing import Annotated

import joblib
import pyarrow as pa
import typer
from rich.console import Console

from experiments.cell import CELL, CellConfig, run_cell
from experiments.presets import PRESETS, Preset
from experiments.tables import SCHEMAS, read_table, write_table


def run_grid(preset: Preset, out: pathlib.Path, jobs: int = 1) -> None:
    """Run what is not finished of a grid in the folder `out`, and write its tables."""
    cells = preset.cells()
    with joblib.parallel_config(n_jobs=jobs, inner_max_num_threads=1 if jobs > 1 else None):
        joblib.Parallel()(joblib.delayed(run_cell)(cell, out / "cells" / cell.id) for cell in cells)
    write_tables(cells, out)


def write_tables(cells: tuple[CellConfig, ...], out: pathlib.Path) -> None:
    """Write the grid's tables from the rows of its finished cells."""
    folders = [out / "cells" / cell.id for cell in cells]
    finished = [folder for folder in folders if (folder / CELL).exists()]
    for table, schema in SCHEMAS.items():
        parts = [read_table(folder, table) for folder in finished]
        write_table(out, table, pa.concat_tables([schema.empty_table(), *parts]))


def main(
    out: Annotated[pathlib.Path, typer.Option(help="Folder of the grid; a grid in it goes on.")],
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "quick",
    jobs: Annotated[int, typer.Option(help="Cells at a time.")] = 2,
) -> None:
    """Train, judge and probe every cell of a grid."""
    console = Console(stderr=True, soft_wrap=True)
    try:
        run_grid(PRESETS[preset], out, jobs)
    except ValueError as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        raise typer.Exit(2) from None
    typer.echo(out)


if __name__ == "__main__":
    typer.run(main)
    sys.exit()
