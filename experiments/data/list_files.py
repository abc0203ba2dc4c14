"""The files that lists of videos are made of: text by lines, JSON, and videos found by their names.

Whatever cannot be read is a ValueError of one line that names the file, and the line where there is one.
"""

import json
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

PathLike = str | pathlib.Path

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})


def read_text(path: PathLike) -> str:
    """The whole text, without the mark of UTF-8 that some editors begin it with."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise ValueError(f"{path}: the list cannot be read: {reason}") from error


def read_lines(path: PathLike) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, stripped, each with where it is; ValueError if there are none."""
    lines = [
        (f"{path}, line {number}", line.strip())
        for number, line in enumerate(read_text(path).splitlines(), 1)
    ]
    filled = [(where, line) for where, line in lines if line]
    if not filled:
        raise ValueError(f"{path}: the list is empty")
    return iter(filled)


def read_names(path: PathLike) -> tuple[str, ...]:
    """The names of the classes, one a line; ValueError where one comes twice."""
    names: dict[str, None] = {}
    for where, name in read_lines(path):
        if name in names:
            raise ValueError(
                f"{where}: {name!r} comes a second time; it must be one name a line for each class"
            )
        names[name] = None
    return tuple(names)


def read_json(path: PathLike, kind: type) -> Any:
    """What a JSON file holds: a dict or list, as `kind` says, that is not empty."""
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(data, kind) or not data:
        raise ValueError(
            f"{path}: it must hold {'an object' if kind is dict else 'a list'} that is not empty"
        )
    return data


def file_beside(listing: PathLike, *names: str) -> pathlib.Path:
    """The first of the files of these names that is in the folder of `listing`."""
    places = [pathlib.Path(listing).with_name(name) for name in names]
    for place in places:
        if place.exists():
            return place
    raise ValueError(f"{listing}: beside it there is no {' and no '.join(names)}; name the file of labels")


def find_videos(root: pathlib.Path, names: Collection[str], depth: int) -> dict[str, pathlib.Path]:
    """Video files and folders of images by those of `names` that are theirs, at most `depth` folders below `root`."""
    found: dict[str, pathlib.Path] = {}
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{root}: the folder of videos cannot be read: {error.strerror}") from error
    for entry in entries:
        path = root / entry.name
        if entry.name in names and entry.is_dir():
            found[entry.name] = path
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            if path.stem in names:
                found[path.stem] = path
        elif depth and entry.is_dir():
            found |= find_videos(path, names, depth - 1)
    return found
