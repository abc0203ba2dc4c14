"""Sums of the clips that an interrupted probe had done, so that the same command goes on from there."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

ClipRecord = Mapping[tuple[int, str, str], Mapping[str, np.ndarray | None]]
"""One clip: by layer, direction and scope, the fields of `ClipSums` and, where it is drawn, "matrix"."""


@final
class Unfinished:
    """A folder with a file a clip, to be removed once the whole result is written.

    Args:
        directory: where it lies; made when the first clip is kept.
        request: all that a clip's sums depend on, as JSON values. What an earlier run kept for another request is
            dropped.
    """

    def __init__(self, directory: Path, request: Mapping[str, Any]):
        self._directory = directory
        self._key = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()[:16]
        if directory.is_dir() and not (directory / self._key).exists():
            shutil.rmtree(directory)

    def get(self, index: int) -> tuple[ClipRecord, dict[str, Any]] | None:
        """A clip's record and what else was kept with it, or None where that clip is still to be done."""
        path = self._path(index)
        if not path.exists():
            return None
        record: dict[tuple[int, str, str], dict[str, np.ndarray | None]] = {}
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                if name != "about":
                    layer, direction, scope, field = name.split(".")
                    value = file[name]
                    kept = record.setdefault((int(layer), direction, scope), {})
                    kept[field] = None if value.dtype == bool else value
            return record, json.loads(str(file["about"]))

    def put(self, index: int, record: ClipRecord, about: Mapping[str, Any]) -> None:
        """Keep a clip. The file appears whole or not at all."""
        self._path(index).parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{layer}.{direction}.{scope}.{field}": np.array(False) if value is None else value
            for (layer, direction, scope), fields in record.items()
            for field, value in fields.items()
        }
        temporary = self._path(index).with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(dict(about))), **arrays)
        temporary.replace(self._path(index))

    def _path(self, index: int) -> Path:
        return self._directory / self._key / f"clip-{index:05d}.npz"
