"""Where numbers come from: the time, the versions of the packages, and the machine."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """The machine that a program ran on.

    Attributes:
        cpu: name of the processor.
        cores: how many of its cores the process may use.
        threads: how many of torch's threads a computation takes.
        vector: width of the widest vector unit, in bits.
        memory_gb: main memory, in units of 1e9 bytes.
        system: operating system and architecture.
        gpu: name and driver of the GPU, or None where none was used.
    """

    cpu: str
    cores: int
    threads: int
    vector: int
    memory_gb: float
    system: str
    gpu: str | None


def now() -> str:
    """Return the time in UTC, to the second, by ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed, by their names on PyPI."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def this_machine(device: str) -> Machine:
    """Describe this machine at its present number of threads.

    Args:
        device: "cpu", or "cuda" where the GPU is part of the description.

    Returns:
        What /proc says of the processor, and what torch and the driver say of the GPU.
    """
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
    """Read `name : value` lines, the first of each name; there are none where the system has no such file."""
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
    name = torch.cuda.get_device_name()
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return f"{name}, CUDA {torch.version.cuda}"
    return f"{name}, CUDA {torch.version.cuda}, driver {driver}"
