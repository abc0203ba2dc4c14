"""Sums of the clips that an interrupted probe had done, so that the same command goes on from there."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from analysis.results import ResultError

ClipRecord = Mapping[tuple[int, str, str], Mapping[str, np.ndarray | None]]
"""One clip: by layer, direction and scope, what a probe keeps of it, an array or None a field."""


@final
class Unfinished:
    """A folder with a sub-folder for a request and in it a file a clip, removed once the whole result is written.

    Nothing else is ever removed: a sub-folder goes only where its name and those of all its files are such as
    this class gives, and the folder itself only where it is empty then.

    Args:
        directory: where it lies; made when the first clip is kept.

    Raises:
        ResultError: where something other than a folder has that name.
    """

    def __init__(self, directory: Path):
        if (directory.exists() or directory.is_symlink()) and not directory.is_dir():
            raise ResultError(f"{directory}: is a file, where the sums of finished clips would be kept")
        self._directory = directory
        self._kept: Path | None = None

    def begin(self, request: Mapping[str, Any]) -> None:
        """Say what clips are about to be kept for.

        Args:
            request: all that a clip's sums depend on, as JSON values. What was kept for another request is not used,
                and is dropped when the first clip of this one is kept.
        """
        key = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self._kept = self._directory / key

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
        path = self._path(index)
        if not path.parent.exists() and self._directory.exists():
            for other in self._directory.iterdir():
                _remove(other)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{layer}.{direction}.{scope}.{field}": np.array(False) if value is None else value
            for (layer, direction, scope), fields in record.items()
            for field, value in fields.items()
        }
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(dict(about))), **arrays)
        temporary.replace(path)

    def discard(self) -> None:
        """Remove what was kept for this request."""
        if self._kept is None or not self._kept.exists():
            return
        _remove(self._kept)
        if not any(self._directory.iterdir()):
            self._directory.rmdir()

    def _path(self, index: int) -> Path:
        if self._kept is None:
            raise RuntimeError("begin comes before get and put")
        return self._kept / f"clip-{index:05d}.npz"


def _remove(folder: Path) -> None:
    """Remove a request's sub-folder; leave anything else."""
    if re.fullmatch(r"[0-9a-f]{16}", folder.name) is None or folder.is_symlink() or not folder.is_dir():
        return
    if all(
        re.fullmatch(r"clip-\d{5,}\.(npz|tmp)", file.name) and file.is_file() for file in folder.iterdir()
    ):
        shutil.rmtree(folder)
