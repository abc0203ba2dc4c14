"""`record`: hooks on a model's mixers that leave the model and its outputs as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from analysis.capture import (
    hf_mamba,
    hf_timesformer,
    hf_videomae,
    hf_vivit,
    mamba_ssm,
    vmp_models,
)
from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture
from analysis.capture.parts import Site


@runtime_checkable
class Family(Protocol):
    """What the recorder asks of a model family; a module with these names will do."""

    NAME: str

    def recognises(self, model: nn.Module) -> bool:
        """Whether ``model`` is of this family."""

    def mixers(self, model: Any) -> Sequence[nn.Module]:
        """The token mixers, in the order of the layers."""

    def sites(self, model: Any, layer: int) -> Sequence[Site]:
        """Where a layer is hooked: its mixer's input, or one place for each direction with an input of its own."""

    def captures(self, model: Any, layer: int, hidden: Tensor) -> list[Capture] | list[AttentionCapture]:
        """The directions of one layer, each from the same input (B, L, M), in the order of the layout.

        Raises TypeError where the layer has none, or hides its parameters.
        """

    def run(self, model: Any, inputs: Tensor) -> Tensor:
        """The model's logits, or features without a head, of clips (B, 3, T, H, W) or token ids (B, L)."""


FAMILIES: tuple[Family, ...] = (vmp_models, hf_videomae, hf_timesformer, hf_vivit, hf_mamba, mamba_ssm)


def family_of(model: nn.Module) -> Family:
    """The adapter for a model. Raises TypeError, with the families known, where there is none."""
    for family in FAMILIES:
        if family.recognises(model):
            return family
    known = "; ".join(family.NAME for family in FAMILIES)
    raise TypeError(f"model: no adapter for {type(model).__name__}; known families: {known}")


def layer_indices(layers: Sequence[int] | None, depth: int) -> list[int]:
    """Layers as indices from 0, negative ones counted from the end. Raises IndexError for one out of range."""
    if layers is None:
        return list(range(depth))
    for layer in layers:
        if not -depth <= layer < depth:
            raise IndexError(f"layers: {layer} is out of range; the model has layers 0 to {depth - 1}")
    return sorted({layer % depth for layer in layers})


@contextmanager
def record(
    model: nn.Module,
    layers: Sequence[int] | None = None,
    sink: Callable[[Capture | AttentionCapture], None] | None = None,
) -> Iterator[list[Capture | AttentionCapture]]:
    """Record every chosen layer's scans, or self-attention, while the model runs.

    Args:
        model: a model of a known family, in evaluation mode.
        layers: which layers, from 0, negative from the end; all where None.
        sink: called with each capture as its layer runs; captures are then not kept, so that memory does not grow
            with depth.

    Yields:
        The list that captures are appended to, layer by layer, forward before backward. Empty with a ``sink``.

    Raises:
        TypeError: an unknown family, or a chosen layer that hides its parameters or has neither scan nor
            self-attention.
        IndexError: a layer out of range.
    """
    family = family_of(model)
    kept: list[Capture | AttentionCapture] = []
    take = kept.append if sink is None else sink

    def hook_for(layer: int, site: Site) -> Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], None]:
        @torch.no_grad()
        def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
            for capture in family.captures(model, layer, site.hidden(arguments, keywords)):
                if site.direction in (None, capture.direction):
                    take(capture)

        return hook

    handles = [
        site.module.register_forward_pre_hook(hook_for(layer, site), with_kwargs=True)
        for layer in layer_indices(layers, len(family.mixers(model)))
        for site in family.sites(model, layer)
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
