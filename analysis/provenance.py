"""Where a result comes from: models, clips, versions and settings, as records that load back exactly."""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from pydantic import ConfigDict, JsonValue
from pydantic.dataclasses import dataclass

import vmp
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
        date=datetime.now(UTC).isoformat(timespec="seconds"),
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
        return version("vmp-toolkit")
    except PackageNotFoundError:
        return vmp.__version__
