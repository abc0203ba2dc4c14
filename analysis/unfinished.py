"""What finished clips gave an interrupted probe, so that the same request goes on from there."""

import hashlib
import inspect
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from analysis.files import ResultError

Key = tuple[int, str, str]
"""Layer, direction and scope."""

ClipRecord = Mapping[tuple[str, Key], Mapping[str, np.ndarray]]
"""One clip of one model: by measure and place, arrays by name."""


@final
class Unfinished:
    """A folder with a sub-folder for a request and in it a file a clip, removed once the whole result is there.

    Nothing else is ever removed: a sub-folder goes only where its name and those of all its files are such as this
    class gives, and the folder itself only where it is empty then.

    Args:
        directory: where it lies; it is made when the first clip is kept.

    Raises:
        ResultError: where something other than a folder has that name.
    """

    def __init__(self, directory: Path):
        if (directory.exists() or directory.is_symlink()) and not directory.is_dir():
            raise ResultError(f"{directory}: is a file, where finished clips would be kept")
        self._directory = directory
        self._kept: Path | None = None

    def begin(self, request: Mapping[str, Any]) -> None:
        """Say what clips are about to be kept for.

        Args:
            request: all that a clip's values depend on, as JSON values. What was kept for another request is not used,
                and is dropped when the first clip of this one is kept.
        """
        key = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self._kept = self._directory / key

    def get(self, model: int, clip: int) -> tuple[ClipRecord, dict[str, Any]] | None:
        """A clip's record and what else was kept with it, or None where that clip is still to be done."""
        path = self._path(model, clip)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            record: dict[tuple[str, Key], dict[str, np.ndarray]] = {}
            for number, (measure, layer, direction, scope, fields) in enumerate(about.pop("arrays")):
                record[measure, (layer, direction, scope)] = {
                    name: file[f"{number}.{place}"] for place, name in enumerate(fields)
                }
        return record, about

    def put(self, model: int, clip: int, record: ClipRecord, about: Mapping[str, Any]) -> None:
        """Keep a clip. The file appears whole or not at all."""
        path = self._path(model, clip)
        if not path.parent.exists() and self._directory.exists():
            for other in self._directory.iterdir():
                _remove(other)
        path.parent.mkdir(parents=True, exist_ok=True)
        index = [[measure, *key, list(fields)] for (measure, key), fields in record.items()]
        arrays = {
            f"{number}.{place}": value
            for number, fields in enumerate(record.values())
            for place, value in enumerate(fields.values())
        }
        text = np.array(json.dumps({**about, "arrays": index}))
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, about=text, **arrays)
        temporary.replace(path)

    def discard(self) -> None:
        """Remove what was kept for this request."""
        if self._kept is None or not self._kept.exists():
            return
        _remove(self._kept)
        if not any(self._directory.iterdir()):
            self._directory.rmdir()

    def _path(self, model: int, clip: int) -> Path:
        if self._kept is None:
            raise RuntimeError("begin comes before get and put")
        return self._kept / f"clip-{model:02d}-{clip:05d}.npz"


def text_of(function: Any) -> str:
    """The source of a function, or what it was compiled to, so that an edited one is not taken for what ran before.

    What else it calls is not looked at.
    """
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return repr(function) if code is None else f"{code.co_code.hex()} {code.co_names} {code.co_consts}"


def text_of_layout(layout: Any) -> str:
    """A layout, or the text of a function that gives one, with all that the function sees from outside."""
    if not inspect.isroutine(layout):
        return repr(layout)
    inside, outside, *_ = inspect.getclosurevars(layout)
    own = (getattr(layout, name, None) for name in ("__defaults__", "__kwdefaults__", "__self__"))
    return f"{text_of(layout)} {inside} {outside} {[*own]}"


def _remove(folder: Path) -> None:
    """Remove a request's sub-folder; leave anything else."""
    if re.fullmatch(r"[0-9a-f]{16}", folder.name) is None or folder.is_symlink() or not folder.is_dir():
        return
    if all(
        re.fullmatch(r"clip-\d{2,}-\d{5,}\.(npz|tmp)", file.name) and file.is_file()
        for file in folder.iterdir()
    ):
        shutil.rmtree(folder)
