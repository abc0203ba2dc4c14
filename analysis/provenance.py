"""Where numbers come from: models, clips, settings, versions and the machine, as records that load back exactly."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, JsonValue
from pydantic.dataclasses import dataclass
from torch import nn

import vmp
from vmp.checkpoint import weights_sha256
from vmp.layout import TokenLayout

_RECORD = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_RECORD)
class ModelOrigin:
    """One model of a result.

    Attributes:
        path: of its checkpoint, or "" for a model that was built in memory.
        file_sha256: of that file's bytes, or "".
        weights_sha256: of the tensors, whatever file holds them.
        recognised: what the file, or the module, was recognised as, in one line.
        config: every field of the model's configuration, where it has one of this project's kind.
        layout: where the tokens lie.
        frames, size: of each clip; None for token sequences.
        dtype, device: of the mixers.
        backend: the scan backend that ran, or "none: self-attention".
        sizes: lengths of the axes on which models may differ.
    """

    path: str
    file_sha256: str
    weights_sha256: str
    recognised: str
    config: dict[str, JsonValue]
    layout: TokenLayout
    frames: int | None
    size: int | None
    dtype: str
    device: str
    backend: str
    sizes: dict[str, int]


@dataclass(frozen=True, config=_RECORD)
class Clips:
    """What the models were shown.

    Attributes:
        source: name of the clip source, "random tokens", or "given" for clips that a caller passed.
        names, labels: one for each clip.
    """

    source: str
    names: tuple[str, ...]
    labels: tuple[str | None, ...]


@dataclass(frozen=True, config=_RECORD)
class Provenance:
    """Where a result comes from: enough to run it again.

    Attributes:
        toolkit, torch, python: versions.
        command: the command line, or "analysis.probe" for a call.
        date: UTC, ISO 8601.
        seed: of the clips, of all that is drawn, and of the bootstrap.
        resamples: bootstrap resamples behind each interval; the level is 95 %.
        measures: settings by name.
        clips: what was shown. models: by name.
        notes: what holds for the whole result, such as gaps common to all layers.
    """

    toolkit: str
    torch: str
    python: str
    command: str
    date: str
    seed: int
    resamples: int
    measures: dict[str, dict[str, JsonValue]]
    clips: Clips
    models: dict[str, ModelOrigin]
    notes: tuple[str, ...]


def origin_of(
    model: nn.Module,
    known: Mapping[str, Any],
    layout: TokenLayout,
    shape: Sequence[int],
    dtype: str,
    backend: str,
    sizes: Mapping[str, int] | None = None,
) -> ModelOrigin:
    """What a result keeps of a model.

    Args:
        known: fields of `ModelOrigin` that a checkpoint gave; a model built in memory has none.
        shape: of the samples that it was shown, (3, T, H, W) or (L,).
    """
    video, parameter = len(shape) == 4, next(model.parameters())
    kind = type(model)
    fields = {
        "path": "",
        "file_sha256": "",
        "recognised": f"{kind.__module__}.{kind.__qualname__}",
        "config": {},
        **known,
    }
    fields.setdefault("weights_sha256", weights_sha256(model.state_dict()))
    return ModelOrigin(
        **fields,
        layout=layout,
        frames=shape[1] if video else None,
        size=shape[-1] if video else None,
        dtype=dtype or str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        backend=backend or "none",
        sizes=dict(sizes or {}),
    )


def provenance(
    command: str,
    seed: int,
    resamples: int,
    measures: Mapping[str, Mapping[str, Any]],
    clips: Clips,
    models: Mapping[str, ModelOrigin],
) -> Provenance:
    """Where a result comes from that is made now, by this installation."""
    return Provenance(
        toolkit=toolkit_version(),
        torch=torch.__version__,
        python=platform.python_version(),
        command=command,
        date=now(),
        seed=seed,
        resamples=resamples,
        measures=json.loads(json.dumps(measures, default=str)),
        clips=clips,
        models=dict(models),
        notes=(),
    )


def toolkit_version() -> str:
    """The version that is installed, or of this folder where none is."""
    try:
        return importlib.metadata.version("vmp-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return vmp.__version__


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
