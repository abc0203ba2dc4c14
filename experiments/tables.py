"""The tables of a grid: their columns, and how they are written and read.

Each cell writes its rows of every table into its own folder; the grid's tables are those rows, cells in the preset's
order. `times` stands apart, as all other tables are the same bits in two runs with the same seeds on one CPU.

    cells        one row a cell: its configuration and its accuracy on the n_test held-out clips, beside chance and
                 what a guess attains that is blind to what the task asks (`ClipDataset.blind`)
    predictions  one row a held-out clip: what the model said of it, and the conditions that the clip was made under
    training     one row a logged step
    probes       one row a quantity of `analysis.decay` or `analysis.contradiction`, with its interval over clips
    profiles     one row an entry of a curve (lag profile, frame matrix, ...); index "3" or "2,5", 0-based
    times        seconds by stage

`trained` is False for the same model before its first step. `read_direction` and `read_distance` (frames) say how the
read-out reaches the cue of a clip, where there is a cue.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from analysis.files import write_atomically

_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()

_CELL = {
    "task": _TEXT,
    "frames": _WHOLE,
    "image_size": _WHOLE,
    "patch_size": _WHOLE,
    "tubelet_size": _WHOLE,
    "d_model": _WHOLE,
    "depth": _WHOLE,
    "d_state": _WHOLE,
    "variant": _TEXT,
    "class_token": _TEXT,
    "steps": _WHOLE,
    "batch_size": _WHOLE,
    "learning_rate": _REAL,
    "warmup_steps": _WHOLE,
    "weight_decay": _REAL,
    "train_clips": _WHOLE,
    "test_clips": _WHOLE,
    "probe_clips": _WHOLE,
    "seed": _WHOLE,
}
_PLACE = {
    "trained": _FLAG,
    "layer": _WHOLE,
    "direction": _TEXT,
    "scope": _TEXT,
    "quantity": _TEXT,
    "unit": _TEXT,
}
_INTERVAL = {"value": _REAL, "low": _REAL, "high": _REAL}

_COLUMNS: Mapping[str, Mapping[str, pa.DataType]] = {
    "cells": {
        **_CELL,
        "parameters": _WHOLE,
        "chance": _REAL,
        "blind": _REAL,
        "n_test": _WHOLE,
        "accuracy": _REAL,
        "weights_sha256": _TEXT,
    },
    "predictions": {
        "clip": _TEXT,
        "label": _TEXT,
        "prediction": _TEXT,
        "correct": _FLAG,
        "probability": _REAL,
        "cue_frame": _WHOLE,
        "read_direction": _TEXT,
        "read_distance": _WHOLE,
        "mediator": _TEXT,
        "gap": _WHOLE,
        "source": _TEXT,
    },
    "training": {"step": _WHOLE, "loss": _REAL, "accuracy": _REAL, "learning_rate": _REAL},
    "probes": {"probe": _TEXT, **_PLACE, **_INTERVAL, "n_clips": _WHOLE, "note": _TEXT},
    "profiles": {**_PLACE, "index": _TEXT, **_INTERVAL},
    "times": {"stage": _TEXT, "seconds": _REAL},
}

SCHEMAS: Mapping[str, pa.Schema] = {
    name: pa.schema({"cell": _TEXT, **columns}) for name, columns in _COLUMNS.items()
}
"""The columns of each table and their types; every one may be null but `cell`."""


def write_rows(folder: pathlib.Path, table: str, cell: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a cell's rows of a table to `folder`; columns that a row lacks are null. Raises OSError."""
    full = [{"cell": cell, **row} for row in rows]
    write_table(folder, table, pa.Table.from_pylist(full, SCHEMAS[table]))


def write_table(folder: pathlib.Path, table: str, content: pa.Table) -> None:
    """Write a table to `folder`, atomically. Raises OSError."""
    path = folder / f"{table}.parquet"
    write_atomically(path, lambda temporary: pyarrow.parquet.write_table(content, temporary))


def read_table(folder: pathlib.Path, table: str) -> pa.Table:
    """A table of a grid's or a cell's folder."""
    return pyarrow.parquet.read_table(folder / f"{table}.parquet", schema=SCHEMAS[table])
