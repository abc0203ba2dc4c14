"""The folder of a run: its configuration, metrics, and checkpoint, each whole at every instant, whatever is killed."""

import contextlib
import json
import pathlib
from collections.abc import Collection, Iterator
from typing import Any, final

import torch

from analysis.files import write_atomically, write_text

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.pt"

MOST_NAMED = 4
"""Differing fields that an error names: grids may differ in hundreds."""


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turn what the system raises while `path` is written into a ValueError of one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}; what was there is kept") from error


@final
class RunFolder:
    """One run's folder. Making it creates the folder, or checks that it holds the same run and clears up after it.

    The configuration is written before the first metrics or checkpoint and not sooner: a run that fails ahead of them
    leaves nothing that would refuse a corrected one.

    Args:
        path: the folder.
        config: the run's configuration, of types that JSON has.
        free: names of fields that may change when the run is continued.
        owner: False in further processes of the same run, which only read.

    Raises:
        ValueError: if `path` is a file, cannot be written, holds a run of another configuration, whose differing
            fields are named, or files of these names that are of no run.
    """

    def __init__(
        self, path: pathlib.Path, config: dict[str, Any], free: Collection[str] = (), owner: bool = True
    ) -> None:
        self.path, self._config, self._claimed = path, config, False
        if not owner:
            return
        with _naming(path):
            path.mkdir(parents=True, exist_ok=True)
            for unfinished in path.glob(".*.tmp"):
                unfinished.unlink()
            if (path / CONFIG).exists():
                check_same(path, "run", _read_config(path / CONFIG), config, free)
            elif (path / CHECKPOINT).exists():
                raise ValueError(f"{path / CHECKPOINT}: there is no {CONFIG} beside it; name another folder")

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by `state`: tensors and plain Python values.

        Raises:
            ValueError: if it cannot be written; the checkpoint that was there is then still whole.
        """
        with writing(self.path / CHECKPOINT):
            self._claim()
            write_atomically(self.path / CHECKPOINT, lambda temporary: _save(state, temporary))

    def load(self) -> dict[str, Any] | None:
        """The last state saved, on the CPU, or None. ValueError if the file is damaged."""
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{path}: damaged; delete it to start this run again") from error

    def discard_checkpoint(self) -> None:
        """Delete the checkpoint of a finished run."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the configuration and the checkpoint, and the folder too where it holds nothing else."""
        self.discard_checkpoint()
        (self.path / CONFIG).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def keep_metrics(self, steps: int) -> None:
        """Drop the lines of metrics after the first `steps` steps, and any that a kill left unfinished."""
        path = self.path / METRICS
        with _naming(path):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            try:
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= steps]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{path}: not the metrics of a run; move it, or name another folder"
                ) from error
            write_text(path, "".join(kept))

    def log(self, **metrics: float) -> None:
        """Append a line of metrics.

        Raises:
            ValueError: if it cannot be written.
        """
        with writing(self.path / METRICS):
            self._claim()
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")

    def _claim(self) -> None:
        if not self._claimed:
            write_text(self.path / CONFIG, json.dumps(self._config, indent=2) + "\n")
            self._claimed = True


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged: it must hold the fields of a run, in JSON; name another folder"
        ) from error
    return config


def _save(state: dict[str, Any], path: pathlib.Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        # torch closes its archive after a failed write, and complains of that rather than of the full disk.
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{error.filename or path}: the folder cannot be used: {error.strerror}") from error


def check_same(
    path: pathlib.Path, kind: str, old: dict[str, Any], new: dict[str, Any], free: Collection[str] = ()
) -> None:
    """Raise ValueError, naming what differs, where a folder's old configuration of a `kind` is not the new one."""
    differing = [name for name in sorted({*old, *new}) if name not in free and old.get(name) != new.get(name)]
    if differing:
        changes = ", ".join(
            f"{name} was {old.get(name)!r} and is now {new.get(name)!r}" for name in differing[:MOST_NAMED]
        )
        if len(differing) > MOST_NAMED:
            changes += f", and {len(differing) - MOST_NAMED} more"
        raise ValueError(
            f"{path}: the folder holds a {kind} of another configuration: {changes}; name another"
        )
