"""What a run of the bench saves: rows of samples, checks of the gate, and the machine, versions and command behind.

A row belongs to a group, and all of a group was measured in turns in one process, so that ratios are taken inside a
group only. A group is written as soon as it is complete; `--resume` goes on after the last one.
"""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import field, replace
from pathlib import Path
from typing import Any, final

import torch
from pydantic import JsonValue
from pydantic.dataclasses import dataclass

from analysis.results import RECORD, ResultError, load, to_json
from experiments.runs import write_text

PACKAGES = ("vmp-toolkit", "torch", "numpy", "numba", "triton", "mambapy", "transformers", "mamba-ssm")


@dataclass(frozen=True, config=RECORD)
class Row:
    """Samples of one quantity of one subject.

    Attributes:
        group: what it was measured together with.
        subject: the backend, peer or part that was measured.
        quantity: "forward", "forward+backward", ...
        unit: of the samples.
        case: sizes, dtype and options.
        samples: every repeat, in the order taken; empty where there is a problem.
        problem: why there is no figure: "FAILED: ...", "not installed: ...", "not timed: ...".
        note: what the reader has to know about the figure.
    """

    group: str
    subject: str
    quantity: str
    unit: str
    case: dict[str, JsonValue] = field(default_factory=dict)
    samples: tuple[float, ...] = ()
    problem: str = ""
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What no other row of a run shares."""
        return (self.group, self.subject, self.quantity)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """The distance between quartiles, in the row's unit; 0 of a single sample."""
        if len(self.samples) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return high - low


@dataclass(frozen=True, config=RECORD)
class Check:
    """How far one tensor of a subject is from the float64 specification.

    Attributes:
        tensor: "out", or the tensor whose gradient it is.
        inputs: what both were given.
        deviation: max |got - expected| / max |expected|, in units of the dtype's eps.
        allowed: the largest deviation at which timings are shown.
    """

    group: str
    subject: str
    tensor: str
    inputs: str
    deviation: float
    allowed: float

    @property
    def names(self) -> tuple[str, ...]:
        """What no other check of a run shares."""
        return (self.group, self.subject, self.tensor, self.inputs)

    @property
    def passed(self) -> bool:
        return self.deviation <= self.allowed  # False for NaN


@dataclass(frozen=True, config=RECORD)
class Machine:
    """Where it ran. `vector` is the widest vector unit in bits; `gpu` None where the run used none."""

    cpu: str
    cores: int
    threads: int
    vector: int
    memory_gb: float
    system: str
    gpu: str | None


@dataclass(frozen=True, config=RECORD)
class Run:
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
    groups: tuple[str, ...] = ()

    def row(self, group: str, subject: str, quantity: str) -> Row | None:
        """The row of that name, or None where the run has none."""
        wanted = (group, subject, quantity)
        return next((row for row in self.rows if row.names == wanted), None)

    @property
    def file(self) -> str:
        """The name of its file: a GPU's run has one name, whichever device rehearsed it."""
        return "gpu.json" if self.subcommand == "gpu" else f"{self.subcommand}-{self.device}.json"

    def same_setting(self, other: "Run") -> bool:
        """Whether rows of the two may stand in one file: same machine, versions, code, seed and sizes."""
        names = ("subcommand", "device", "quick", "seed", "machine", "versions")
        return all(getattr(self, name) == getattr(other, name) for name in names)


@dataclass(frozen=True, config=RECORD)
class Measured:
    """What a step found."""

    rows: tuple[Row, ...] = ()
    checks: tuple[Check, ...] = ()


Emit = Callable[[Row | Check], None]
"""Takes a row or a check as soon as it is known."""


@final
class Recorder:
    """Keeps a run and writes its file after every group, or after every record that is handed to it alone."""

    def __init__(self, folder: Path, run: Run, resume: bool) -> None:
        self.path = folder / run.file
        self.run = run
        if resume and self.path.exists():
            earlier = load(Run, self.path)
            if not earlier.same_setting(run):
                raise ResultError(
                    f"{self.path}: is of another machine, version, code, seed or size; leave --resume out to replace it"
                )
            self.run = replace(earlier, command=run.command)
        folder.mkdir(parents=True, exist_ok=True)

    def reopen(self, groups: Iterable[str]) -> None:
        """Measure these groups again; what is known of them stays until it is replaced."""
        self._write(groups=tuple(name for name in self.run.groups if name not in set(groups)))

    def put(self, record: Row | Check) -> None:
        """Write one record, in the place of an earlier one of the same thing."""
        if isinstance(record, Row):
            kept = (row for row in self.run.rows if row.names != record.names)
            self._write(rows=(*kept, record))
        else:
            others = (check for check in self.run.checks if check.names != record.names)
            self._write(checks=(*others, record))

    def finish(self, group: str) -> None:
        """Write that a group is complete."""
        self._write(groups=(*(name for name in self.run.groups if name != group), group))

    def has(self, group: str) -> bool:
        return group in self.run.groups

    def add(self, group: str, measured: Measured) -> None:
        """Write what was measured of a group."""
        self._write(
            rows=self.run.rows + measured.rows,
            checks=self.run.checks + measured.checks,
            groups=(*self.run.groups, group),
        )

    def _write(self, **changes: Any) -> None:
        self.run = replace(self.run, date=now(), **changes)
        write_text(self.path, to_json(self.run))


def new_run(
    subcommand: str, device: str, quick: bool, seed: int, command: str, subjects: dict[str, str]
) -> Run:
    """A run without rows, of this machine at its present number of threads."""
    return Run(subcommand, device, quick, seed, command, now(), this_machine(device), versions(), subjects)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of what takes part in a measurement, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["torch"] = torch.__version__
    found["sources"] = _sources()
    return found


def _sources() -> str:
    """The first digits of the SHA-256 of what is timed and what times it: a resumed run is of one code."""
    root = Path(__file__).parents[2]
    files = [
        path for part in ("vmp", "analysis", "experiments/bench") for path in (root / part).rglob("*.py")
    ]
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return whole.hexdigest()[:12]


def this_machine(device: str) -> Machine:
    """What /proc says of the processor, and torch of the GPU where `device` is "cuda"."""
    told = _proc_fields("/proc/cpuinfo")
    flags = told.get("flags", "").split()
    return Machine(
        cpu=told.get("model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        vector=512 if "avx512f" in flags else 256 if "avx2" in flags else 128,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        system=f"{platform.system()} {platform.machine()}",
        gpu=_gpu() if device == "cuda" else None,
    )


def _proc_fields(path: str) -> dict[str, str]:
    """`name : value` lines, the first of each name; nothing where the system has no such file."""
    try:
        text = Path(path).read_text()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _gpu() -> str:
    """Name and driver of the GPU."""
    name = torch.cuda.get_device_name()
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return f"{name}, CUDA {torch.version.cuda}"
    return f"{name}, CUDA {torch.version.cuda}, driver {driver}"


def find_runs(folder: Path) -> dict[tuple[str, str], Run]:
    """Every run saved in a folder, by subcommand and device. Raises ResultError for a file that is none."""
    if not folder.is_dir():
        raise ResultError(f"{folder}: there is no such folder of results")
    runs: Iterable[Run] = [load(Run, path) for path in sorted(folder.glob("*.json"))]
    return {(run.subcommand, run.device): run for run in runs}
