"""What the bench saves: rows of samples, checks of the gate, and the machine, versions and command behind them.

Each row belongs to a group. A group is measured in one process whose calls take turns, so ratios are taken only within
a group. Every record is written at once, and `--resume` skips the groups that are complete.
"""

import hashlib
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from analysis.files import ResultError, write_text
from analysis.provenance import Machine, now, this_machine, versions

RECORD = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

PACKAGES = ("vmp-toolkit", "numpy", "numba", "triton", "mambapy", "transformers", "mamba-ssm")
TIMED = ("vmp", "analysis", "experiments/bench")
"""The code that is timed, and that times it: a resumed run is of one code."""


@dataclass(frozen=True, config=RECORD)
class Row:
    """Samples of one quantity of one subject."""

    group: str  # what it was measured together with
    subject: str  # the backend, peer or part that was measured
    quantity: str  # "forward", "forward+backward", ...
    unit: str  # of the samples
    case: dict[str, JsonValue] = field(default_factory=dict)  # sizes, dtype and options
    samples: tuple[float, ...] = ()  # every repeat, in the order taken; empty where there is a problem
    problem: str = ""  # why there is no figure: "FAILED: ...", "not installed: ...", "not timed: ..."
    note: str = ""  # what the reader has to know about the figure

    @property
    def names(self) -> tuple[str, ...]:
        """What no other row of a run shares."""
        return (self.group, self.subject, self.quantity)

    @property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Distance between the quartiles, in the row's unit; 0 for a single sample."""
        low, high = np.percentile(self.samples, (25, 75))
        return float(high - low)


@dataclass(frozen=True, config=RECORD)
class Check:
    """How far one tensor of a subject is from the float64 specification."""

    group: str  # what the check belongs to
    subject: str  # the backend, peer or part that was checked
    tensor: str  # "out", or the tensor whose gradient it is
    inputs: str  # what both were given
    deviation: float  # max |got - expected| / max |expected|, in units of the dtype's eps
    allowed: float  # the largest deviation at which timings are shown

    @property
    def names(self) -> tuple[str, ...]:
        """What no other check of a run shares."""
        return (self.group, self.subject, self.tensor, self.inputs)

    @property
    def passed(self) -> bool:
        """Whether the deviation is allowed; False where it is NaN."""
        return self.deviation <= self.allowed


Emit = Callable[[Row | Check], None]
"""Takes a row or a check as soon as it is known."""


@dataclass(frozen=True, config=RECORD)
class BenchRun:
    """One subcommand on one device; `subjects` says exactly what each name stands for."""

    subcommand: str
    device: str
    quick: bool
    seed: int
    command: str
    date: str
    machine: Machine
    versions: dict[str, str]
    subjects: dict[str, str] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    checks: tuple[Check, ...] = ()
    groups: tuple[str, ...] = ()  # those that are complete


@final
class Recorder:
    """Keeps a run and writes its file after every record; with `resume`, on top of what the file already holds.

    Raises ResultError where that file is damaged, or belongs to another machine, version, code, seed or size.
    """

    def __init__(self, folder: Path, run: BenchRun, resume: bool) -> None:
        # A GPU's run has one name, whichever device rehearsed it.
        self.path = folder / (
            "gpu.json" if run.subcommand == "gpu" else f"{run.subcommand}-{run.device}.json"
        )
        self.run = run
        if resume and self.path.exists():
            earlier = read_run(self.path)
            same = ("subcommand", "device", "quick", "seed", "machine", "versions")
            if any(getattr(earlier, name) != getattr(run, name) for name in same):
                raise ResultError(
                    f"{self.path}: is of another machine, version, code, seed or size; leave --resume out to replace it"
                )
            self.run = replace(earlier, command=run.command)
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, group: str) -> bool:
        """Tell whether a group is complete."""
        return group in self.run.groups

    def reopen(self, groups: Iterable[str]) -> None:
        """Measure these groups again; what is known of them stays until it is replaced."""
        self._write(groups=tuple(name for name in self.run.groups if name not in set(groups)))

    def put(self, record: Row | Check) -> None:
        """Write one record, in the place of an earlier one of the same names."""
        kind = "rows" if isinstance(record, Row) else "checks"
        known: tuple[Row | Check, ...] = getattr(self.run, kind)
        if record not in known:
            self._write(**{kind: (*(one for one in known if one.names != record.names), record)})

    def finish(self, group: str) -> None:
        """Write that a group is complete."""
        self._write(groups=(*(name for name in self.run.groups if name != group), group))

    def _write(self, **changes: Any) -> None:
        self.run = replace(self.run, date=now(), **changes)
        write_text(self.path, TypeAdapter(BenchRun).dump_json(self.run, indent=1).decode() + "\n")


def read_run(path: Path) -> BenchRun:
    """Read the file of a run.

    Raises:
        ResultError: it holds something else; the message says where.
        OSError: it cannot be read.
    """
    try:
        return TypeAdapter(BenchRun).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise ResultError(f"{path}: not a run of the bench: {where}: {first['msg']}") from error


def new_run(
    subcommand: str, device: str, quick: bool, seed: int, command: str, subjects: dict[str, str]
) -> BenchRun:
    """Return a run without rows, of this machine at its present number of threads."""
    root, sources = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(path for part in TIMED for path in (root / part).rglob("*.py")):
        sources.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    found = {"python": platform.python_version(), "torch": torch.__version__, **versions(*PACKAGES)}
    found["sources"] = sources.hexdigest()[:12]
    return BenchRun(subcommand, device, quick, seed, command, now(), this_machine(device), found, subjects)


def find_runs(folder: Path) -> dict[tuple[str, str], BenchRun]:
    """Load every run of a folder, by subcommand and device.

    Raises:
        ResultError: there is no such folder, or one of its files is no run.
    """
    if not folder.is_dir():
        raise ResultError(f"{folder}: there is no such folder of results")
    runs = map(read_run, sorted(folder.glob("*.json")))
    return {(run.subcommand, run.device): run for run in runs}
