"""Files and folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


class ResultError(ValueError):
    """A file or folder that cannot be read or written as a result; the message is one line for the user."""


def check_replaceable(directory: Path, names: Collection[str]) -> None:
    """Raise ResultError where `replacing` could not put a folder of these ``names`` at ``directory``."""
    try:
        _check_replaceable(directory, names)
    except OSError as error:
        raise ResultError(f"{directory}: cannot be written to: {error.strerror}") from error


def _check_replaceable(directory: Path, names: Collection[str]) -> None:
    if directory.is_symlink() and not directory.exists():
        raise ResultError(f"{directory}: is a link to nothing; an output folder is needed")
    target = directory.resolve()
    if target.exists() and not target.is_dir():
        raise ResultError(f"{directory}: is a file; an output folder is needed")
    if target.is_dir():
        foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in names)
        if foreign:
            raise ResultError(
                f"{directory}: holds {foreign[0]!r}, which no earlier run wrote; name another folder"
            )
        if Path.cwd().is_relative_to(target):
            raise ResultError(f"{directory}: is the current folder, which would be replaced; name another")
        if target.is_mount():
            raise ResultError(f"{directory}: is a mount point, which cannot be replaced; name a folder in it")
    ancestor = next(parent for parent in target.parents if parent.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
        raise ResultError(f"{directory}: {ancestor} is not a folder that can be written to")
    # Only the attempt shows whether a file system takes new folders, and names of this length.
    Path(tempfile.mkdtemp(prefix=_prefix(target, "old-"), dir=ancestor)).rmdir()


def _prefix(directory: Path, kind: str = "") -> str:
    """How the name of a temporary folder beside ``directory`` begins."""
    return f".{directory.name}-{kind}"


@contextmanager
def replacing(directory: Path, names: Collection[str]) -> Iterator[Path]:
    """An empty folder beside ``directory`` that takes its place when the block ends, or vanishes on failure.

    An earlier folder there, or that a link there leads to, is replaced as a whole, and only where everything in it is
    one of ``names``.
    Raises ResultError as `check_replaceable` does.
    """
    check_replaceable(directory, names)
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=_prefix(directory), dir=directory.parent))
    try:
        new.chmod(0o755)
        yield new
        if directory.exists():
            old = Path(tempfile.mkdtemp(prefix=_prefix(directory, "old-"), dir=directory.parent))
            directory.rename(old / directory.name)
            new.rename(directory)
            shutil.rmtree(old)
        else:
            new.rename(directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
