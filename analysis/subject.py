"""What every probe begins with: the model that a request names, read once and ready to be shown clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import nn

from analysis.capture import family_of
from analysis.inputs import Sample
from analysis.matrix.scopes import Scope
from analysis.pretrained import LoadedFolder
from analysis.request import (
    Request,
    RequestError,
    clips_depend_on,
    parse_device,
    parse_layers,
    parse_scopes,
    provenance,
    read,
    samples_of,
)
from analysis.results import Provenance
from vmp.checkpoint import Loaded
from vmp.config import ModelConfig
from vmp.layout import TokenLayout


class Shown(Protocol):
    """What a probe says of the samples that a model was shown, and of how it ran."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> tuple[str | None, ...]: ...
    @property
    def layout(self) -> TokenLayout: ...
    @property
    def dtype(self) -> str: ...
    @property
    def backend(self) -> str: ...


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A request whose checkpoint is read: ``loaded.model`` is on the request's device, in evaluation mode, in float32
    at least, as half precision is a way to store weights.

    Attributes:
        scopes, layers: those asked for, parsed.
    """

    request: Request
    loaded: Loaded | LoadedFolder
    scopes: tuple[Scope, ...]
    layers: tuple[int, ...]

    @property
    def model(self) -> nn.Module:
        return self.loaded.model

    @property
    def config(self) -> ModelConfig:
        return self.loaded.config

    def samples(self) -> tuple[str, int, Iterator[Sample]]:
        """The name of the source, how many samples, and the samples, the same at every call."""
        return samples_of(self.request, self.config)

    def depends(self) -> dict[str, Any]:
        """All that changes what a probe finds in a clip, as `analysis.unfinished.Unfinished.begin` takes it."""
        return clips_depend_on(self.request, self.loaded)

    def provenance(self, command: str, source: str, shown: Shown) -> Provenance:
        """Where a result comes from; ``source`` is the clips'."""
        return provenance(
            self.request,
            command,
            self.loaded,
            source,
            names=shown.names,
            labels=shown.labels,
            length=shown.layout.length,
            dtype=shown.dtype,
            backend=shown.backend,
        )


def subject_of(request: Request) -> Subject:
    """Read a request's checkpoint.

    Raises RequestError where the request or the checkpoint will not do, with a message for the user.
    """
    scopes = parse_scopes(request.scopes)
    device = parse_device(request.device)
    loaded = read(request)
    try:
        family_of(loaded.model)
    except TypeError as error:
        raise RequestError(f"{request.checkpoint}: {error}") from error
    try:
        layers = parse_layers(request.layers, loaded.config.depth)
    except RequestError as error:
        raise RequestError(f"{request.checkpoint}: {error}") from error
    dtype = torch.promote_types(next(loaded.model.parameters()).dtype, torch.float32)
    loaded.model.to(device, dtype).eval()
    return Subject(request, loaded, scopes, tuple(layers))
