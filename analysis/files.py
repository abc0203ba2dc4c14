"""Files and folders that are written whole: a reader finds the old ones or the new ones, and never a part of either."""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


class ResultError(ValueError):
    """A file or folder cannot be read or written as a result; the message is one line for the user."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, then move it there in one step.

    A reader, or the next run after a kill, finds the old file or the new one and never a part of either.

    Args:
        path: where the file goes.
        write: fills the file whose path it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as `write_atomically` does."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_replaceable(directory: Path, names: Collection[str], mark: str | None = None) -> None:
    """Check that `replacing` could put a folder at a place.

    Args:
        directory: where the folder would stand.
        names: every name that an earlier run may have written into it.
        mark: the one of them that each earlier run wrote, so that a folder without it is another's.

    Raises:
        ResultError: The folder could not be put there; the message says why.
    """
    try:
        _check_replaceable(directory, names, mark)
    except OSError as error:
        raise ResultError(f"{directory}: cannot be written to: {error.strerror}") from error


def _check_replaceable(directory: Path, names: Collection[str], mark: str | None) -> None:
    if directory.is_symlink() and not directory.exists():
        raise ResultError(f"{directory}: is a link to nothing; an output folder is needed")
    target = directory.resolve()
    if target.exists() and not target.is_dir():
        raise ResultError(f"{directory}: is a file; an output folder is needed")
    if target.is_dir():
        there = sorted(entry.name for entry in target.iterdir())
        foreign = there if mark and mark not in there else [name for name in there if name not in names]
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
    """Return how the name of a temporary folder beside `directory` begins."""
    return f".{directory.name}-{kind}"


@contextmanager
def replacing(directory: Path, names: Collection[str], mark: str | None = None) -> Iterator[Path]:
    """Give an empty folder that takes the place of another when the block ends, or vanishes where the block fails.

    An earlier folder, or the folder that a link leads to, is replaced as a whole. It is replaced only where everything
    in it has one of `names`.

    Args:
        directory: the folder that is replaced; it need not exist.
        names: every name that an earlier run may have written into it.
        mark: as in `check_replaceable`.

    Yields:
        The new folder, which stands beside `directory` until the block ends.

    Raises:
        ResultError: The folder could not be put there, as `check_replaceable` finds.
    """
    check_replaceable(directory, names, mark)
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
