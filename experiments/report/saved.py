"""What a grid left in its folder, read back and checked: the report computes from these tables alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from pydantic import ValidationError

from analysis.files import ResultError
from experiments.cell import CellConfig
from experiments.grid_tables import SCHEMAS
from experiments.presets import Preset

AGAIN = "run the grid again, which redoes no finished cell"
ARRAYS = (
    *("frames", "names", "labels", "predictions", "P", "layers", "directions", "class_positions", "grid"),
)
"""What the viewer reads of a cell's rows.npz."""


@dataclass(frozen=True)
class SavedGrid:
    """A grid's folder.

    Attributes:
        folder: where it is.
        preset: the name of its preset.
        tables: its tables by name, those of `experiments.grid_tables.SCHEMAS`.
        provenance: what provenance.json holds.
        unfinished: the cells of the preset that are not finished.
    """

    folder: Path
    preset: str
    tables: Mapping[str, pd.DataFrame]
    provenance: Mapping[str, Any]
    unfinished: tuple[CellConfig, ...]

    @property
    def cells(self) -> pd.DataFrame:
        return self.tables["cells"]


def read_grid(folder: Path) -> SavedGrid:
    """Read a grid's folder.

    Raises:
        ResultError: if a file is missing, damaged or of another version; the message names it.
    """
    path = folder / "grid.json"
    if not path.is_file():
        raise ResultError(
            f"{folder}: holds no grid (no grid.json); make one: "
            f"python -m experiments.grid --preset quick --out {folder}"
        )
    description = _read_json(path)
    try:
        planned = Preset.model_validate(description["config"]).cells()
        preset = str(description["preset"])
    except (KeyError, ValidationError) as error:
        raise ResultError(f"{path}: is no grid of this version; name another folder for the grid") from error
    tables = {name: _read_table(folder / f"{name}.parquet", schema) for name, schema in SCHEMAS.items()}
    provenance = _read_json(folder / "provenance.json")
    if not isinstance(provenance.get("sessions"), dict):
        raise ResultError(
            f"{folder / 'provenance.json'}: has no sessions, so another version wrote it; {AGAIN}"
        )
    done = set(tables["cells"]["cell"])
    if not done:
        raise ResultError(f"{folder / 'cells.parquet'}: no cell is finished; let the grid run on")
    return SavedGrid(
        folder, preset, tables, provenance, tuple(cell for cell in planned if cell.id not in done)
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from error
    except ValueError as error:
        raise ResultError(f"{path}: not JSON ({error}); {AGAIN}") from error
    if not isinstance(found, dict):
        raise ResultError(f"{path}: not a JSON object; {AGAIN}")
    return found


def _read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise ResultError(f"{path}: is missing; {AGAIN}") from error
    except (OSError, pa.ArrowException) as error:
        raise ResultError(f"{path}: not a parquet table ({error}); {AGAIN}") from error
    lacking = [column for column in schema.names if column not in table.column_names]
    if lacking:
        raise ResultError(f"{path}: has no column {lacking[0]!r}, so another version wrote it; {AGAIN}")
    # A whole number that may be absent stays whole: to numpy it would be a float.
    table = table.select(schema.names).cast(schema)
    partly = {f.name: "Int64" for f in schema if f.type == pa.int64() and table[f.name].null_count}
    return table.to_pandas(integer_object_nulls=True).astype(partly)


def read_rows(path: Path) -> Mapping[str, np.ndarray]:
    """Read the arrays of a cell's rows.npz.

    Raises:
        ResultError: if they are damaged or of another version.
    """
    again = f"delete {path.parent} and run the grid again"
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (
        Exception
    ) as error:  # A damaged archive raises what zipfile, zlib, struct or numpy come upon first.
        raise ResultError(f"{path}: not the rows of a cell ({error}); {again}") from error
    lacking = [name for name in ARRAYS if name not in found]
    if lacking:
        raise ResultError(f"{path}: has no array {lacking[0]!r}, so another version wrote it; {again}")
    return found
