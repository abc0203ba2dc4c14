"""The tables of a grid: their columns, and how they are written and read.

Each cell writes its rows of every table into its own folder; the grid's tables are those rows, with the cells in the
preset's order. All tables but `times` are the same bits in two runs with the same seeds on one CPU.

    cells        one row for each cell: its configuration, and its accuracy on the n_test held-out clips
    predictions  one row for each held-out clip: what the model said of it, and the conditions it was made under
    training     one row for each logged step
    probes       one row for each quantity of `analysis.decay` or `analysis.contradiction`, with its interval over clips
    profiles     one row for each entry of a curve (lag profile, frame matrix, ...); its index is "3" or "2,5", 0-based
    times        one row for each stage: seconds

`chance` and `blind` stand beside a cell's accuracy: `blind` is what a guess attains that is blind to what the task asks
(`ClipDataset.blind`). `trained` is False for the same model before its first step. `read_direction` and `read_distance`
(frames) say how the read-out reaches the cue of a clip, if there is a cue.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from analysis.files import write_atomically

_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def _of(kind: pa.DataType, *names: str) -> dict[str, pa.DataType]:
    return dict.fromkeys(names, kind)


_PLACE = {
    **_of(_FLAG, "trained"),
    **_of(_WHOLE, "layer"),
    **_of(_TEXT, "direction", "scope", "quantity", "unit"),
}
_INTERVAL = _of(_REAL, "value", "low", "high")

_COLUMNS: Mapping[str, Mapping[str, pa.DataType]] = {
    "cells": {
        **_of(_TEXT, "task"),
        **_of(_WHOLE, "frames", "image_size", "patch_size", "tubelet_size", "d_model", "depth", "d_state"),
        **_of(_TEXT, "variant", "class_token"),
        **_of(_WHOLE, "steps", "batch_size"),
        **_of(_REAL, "learning_rate"),
        **_of(_WHOLE, "warmup_steps"),
        **_of(_REAL, "weight_decay"),
        **_of(_WHOLE, "train_clips", "test_clips", "probe_clips", "seed", "parameters"),
        **_of(_REAL, "chance", "blind"),
        **_of(_WHOLE, "n_test"),
        **_of(_REAL, "accuracy"),
        **_of(_TEXT, "weights_sha256"),
    },
    "predictions": {
        **_of(_TEXT, "clip", "label", "prediction"),
        **_of(_FLAG, "correct"),
        **_of(_REAL, "probability"),
        **_of(_WHOLE, "cue_frame"),
        **_of(_TEXT, "read_direction"),
        **_of(_WHOLE, "read_distance"),
        **_of(_TEXT, "mediator"),
        **_of(_WHOLE, "gap"),
        **_of(_TEXT, "source"),
    },
    "training": {**_of(_WHOLE, "step"), **_of(_REAL, "loss", "accuracy", "learning_rate")},
    "probes": {**_of(_TEXT, "probe"), **_PLACE, **_INTERVAL, **_of(_WHOLE, "n_clips"), **_of(_TEXT, "note")},
    "profiles": {**_PLACE, **_of(_TEXT, "index"), **_INTERVAL},
    "times": {**_of(_TEXT, "stage"), **_of(_REAL, "seconds")},
}

SCHEMAS: Mapping[str, pa.Schema] = {
    name: pa.schema({"cell": _TEXT, **columns}) for name, columns in _COLUMNS.items()
}
"""The columns of each table and their types; every one may be null but `cell`."""


def write_rows(folder: pathlib.Path, table: str, cell: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a cell's rows of a table to `folder`; columns that a row lacks are null."""
    full = [{"cell": cell, **row} for row in rows]
    write_table(folder, table, pa.Table.from_pylist(full, SCHEMAS[table]))


def write_table(folder: pathlib.Path, table: str, content: pa.Table) -> None:
    """Write a table to `folder`, atomically."""
    path = folder / f"{table}.parquet"
    write_atomically(path, lambda temporary: pyarrow.parquet.write_table(content, temporary))


def read_table(folder: pathlib.Path, table: str) -> pa.Table:
    """A table of the folder of a grid or of a cell."""
    return pyarrow.parquet.read_table(folder / f"{table}.parquet", schema=SCHEMAS[table])
