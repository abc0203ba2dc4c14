"""What a grid left in its folder, read back and checked: the report computes from these tables and from nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from analysis.results import ResultError

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "cells": (
        *("cell", "task", "frames", "image_size", "patch_size", "variant", "class_token", "steps", "seed"),
        *("parameters", "chance", "n_test", "accuracy", "weights_sha256"),
    ),
    "predictions": ("cell", "clip", "label", "prediction", "correct"),
    "training": ("cell", "step", "loss", "accuracy"),
    "probes": ("cell", "trained", "probe", "layer", "direction", "scope", "quantity", "unit", "value"),
    "profiles": ("cell", "trained", "layer", "direction", "scope", "quantity", "unit", "index", "value"),
    "times": ("cell", "stage", "seconds"),
}
"""The columns that the report reads of each table; a table may have more."""

ROWS = "rows.npz"
ARRAYS = (
    *("frames", "names", "labels", "predictions", "P", "layers", "directions", "class_positions", "grid"),
)
"""What the viewer reads of a cell's `ROWS`."""


@dataclass(frozen=True)
class SavedGrid:
    """A grid's folder.

    Attributes:
        description: of grid.json; provenance: of provenance.json.
        tables: by name, those of `COLUMNS`.
        unfinished: ids of cells that the grid is to have and has not.
    """

    folder: Path
    description: Mapping[str, Any]
    provenance: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    unfinished: tuple[str, ...]

    @property
    def cells(self) -> pd.DataFrame:
        return self.tables["cells"]


def read_grid(folder: Path) -> SavedGrid:
    """Read a grid's folder. Raises ResultError, naming the file, for what is missing, damaged or of another version."""
    if not (folder / "grid.json").is_file():
        raise ResultError(
            f"{folder}: holds no grid (no grid.json); make one: "
            f"python -m experiments.grid --preset quick --out {folder}"
        )
    description = _read_json(folder / "grid.json")
    tables = {name: _read_table(folder / f"{name}.parquet", columns) for name, columns in COLUMNS.items()}
    done = set(tables["cells"]["cell"])
    if not done:
        raise ResultError(f"{folder / 'cells.parquet'}: no cell is finished; let the grid run on")
    planned = _planned(folder / "grid.json", description)
    return SavedGrid(
        folder=folder,
        description=description,
        provenance=_read_json(folder / "provenance.json"),
        tables=tables,
        unfinished=tuple(cell for cell in planned if cell not in done),
    )


def _planned(path: Path, description: Mapping[str, Any]) -> list[str]:
    cells = description.get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells):
        raise ResultError(f"{path}: does not list the grid's cells; it is of another version: run the grid again")
    return cells


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ResultError(f"{path}: not JSON ({error}); run the grid again") from error
    if not isinstance(found, dict):
        raise ResultError(f"{path}: not a JSON object; run the grid again")
    return found


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pyarrow.parquet.read_table(path).to_pandas()
    except FileNotFoundError as error:
        raise ResultError(f"{path}: is missing; run the grid again, which redoes no finished cell") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise ResultError(f"{path}: not a parquet table ({error}); run the grid again") from error
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise ResultError(f"{path}: has no column {lacking[0]!r}; it is of another version: run the grid again")
    return table


def read_rows(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of a cell's rows.npz. Raises ResultError where they are damaged or of another version."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except Exception as error:  # A damaged archive raises errors of zipfile, zlib, struct or numpy.
        raise ResultError(f"{path}: not the rows of a cell ({error}); delete its cell and run the grid") from error
    lacking = [name for name in ARRAYS if name not in found]
    if lacking:
        raise ResultError(f"{path}: has no array {lacking[0]!r}; it is of another version: run the grid again")
    return found
