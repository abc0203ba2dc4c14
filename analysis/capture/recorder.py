"""Recording while a model runs, with hooks on its mixers that leave the model and its outputs as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, SupportsIndex, TypeAlias, final, overload

import torch
from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture
from analysis.capture.parts import CaptureError, Site
from analysis.capture.registry import Family, family_of
from vmp.layout import TokenLayout

Captured: TypeAlias = Capture | AttentionCapture
Layout: TypeAlias = TokenLayout | Callable[[int], TokenLayout]
"""Where tokens lie in a sequence, or a function that says so for a sequence of a length."""


@final
class Captures(list[Captured]):
    """Captures in the order in which they were recorded, by position and by name: `captures[3, "backward"]`.

    Args:
        depth: How many layers the model has, so that `captures[-1, "forward"]` is the last layer's.
    """

    def __init__(self, depth: int):
        super().__init__()
        self._depth = depth

    @overload
    def __getitem__(self, key: SupportsIndex | tuple[int, str]) -> Captured: ...
    @overload
    def __getitem__(self, key: slice) -> list[Captured]: ...
    def __getitem__(self, key: SupportsIndex | slice | tuple[int, str]) -> Captured | list[Captured]:
        """The captures at a position, or of a layer (negative from the end) and direction.

        Raises:
            KeyError: No capture has that name, or several have it, as the model ran more than once.
            IndexError: There is no such position.
        """
        if not isinstance(key, tuple):
            return super().__getitem__(key)
        layer, direction = key
        wanted = (layer % self._depth if -self._depth <= layer < 0 else layer, direction)
        found = [capture for capture in self if (capture.layer, capture.direction) == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            raise KeyError(
                f"layer {layer} {direction} was recorded {len(found)} times; take one by its position"
            )
        met = ", ".join(dict.fromkeys(f"layer {c.layer} {c.direction}" for c in self)) or "nothing"
        raise KeyError(f"layer {layer} {direction} was not recorded; recorded: {met}")


def layer_indices(layers: Sequence[int] | None, depth: int) -> list[int]:
    """Layers as indices from 0, negative ones counted from the end.

    Raises:
        IndexError: A layer is out of range.
    """
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
    sink: Callable[[Captured], None] | None = None,
    *,
    layout: Layout | None = None,
    family: Family | str | None = None,
) -> Iterator[Captures]:
    """Record every chosen layer's scans, or self-attention, while the model runs.

    Args:
        model: A model of a known family, in evaluation mode, or any module that holds known mixers.
        layers: Which layers, from 0, negative from the end; all where None.
        sink: A function that is called with each capture as its layer runs. Captures are then not kept, so that
            memory does not grow with depth.
        layout: Where class tokens, frames and patches lie, for a model whose family knows its tokens as a plain
            sequence only.
        family: The model's family, or its name; found out where None.

    Yields:
        The captures, layer by layer, forward before backward; none with a `sink`.

    Raises:
        CaptureError: A TypeError. No family recognises the model, a chosen layer hides its parameters or has neither
            scan nor self-attention, or `layout` does not fit the tokens.
        IndexError: A layer is out of range.
    """
    chosen = family_of(model, family)
    kept = Captures(len(chosen.mixers(model)))
    take = kept.append if sink is None else sink

    @torch.no_grad()
    def seen(layer: int, site: Site, hidden: Tensor) -> None:
        for capture in captures_of(model, layer, hidden, site.direction, family=chosen, layout=layout):
            take(capture)

    with _hooked(model, layers, chosen, seen):
        yield kept


def layer_inputs(
    model: nn.Module, inputs: Tensor, layers: Sequence[int] | None = None, family: Family | str | None = None
) -> dict[int, list[tuple[Tensor, str | None]]]:
    """Each chosen layer's mixer input as the model runs once, with the direction that it is for.

    A layer has one input for all its directions, and the direction None, except where it is divided into attention in
    time and attention in space, one after the other.

    Args:
        model: A model of a known family, in evaluation mode.
        inputs: Clips (B, 3, T, H, W) or token ids (B, L); they go to the device, and clips to the dtype, of the
            model's parameters.
        layers: Which layers, from 0, negative from the end; all where None.
        family: The model's family, or its name; found out where None.

    Returns:
        Inputs (B, L, M) in the order of the layout, by layer.

    Raises:
        CaptureError: No family recognises the model, or what a layer is given is not all of a sequence.
        IndexError: A layer is out of range.
    """
    chosen = family_of(model, family)
    found: dict[int, list[tuple[Tensor, str | None]]] = {}

    def seen(layer: int, site: Site, hidden: Tensor) -> None:
        found.setdefault(layer, []).append((hidden.detach(), site.direction))

    parameter = next(model.parameters())
    inputs = inputs.to(parameter.device)
    with _hooked(model, layers, chosen, seen):
        chosen.run(model, inputs.to(parameter.dtype) if inputs.is_floating_point() else inputs)
    return found


def captures_of(
    model: nn.Module,
    layer: int,
    hidden: Tensor,
    direction: str | None = None,
    *,
    family: Family | str | None = None,
    layout: Layout | None = None,
) -> list[Captured]:
    """What the directions of one layer use for a mixer input (B, L, M), as `layer_inputs` gives it.

    Args:
        model: A model of a known family, in evaluation mode.
        layer: Index of the layer, from 0.
        hidden: The mixer's input, in the order of the layout.
        direction: The direction that the input is for; all of the layer's where None.
        family: The model's family, or its name; found out where None.
        layout: Where class tokens, frames and patches lie, as in `record`.

    Raises:
        CaptureError: The layer cannot be captured, or `layout` does not fit the tokens.
    """
    captures = family_of(model, family).captures(model, layer, hidden)
    chosen = [capture for capture in captures if direction in (None, capture.direction)]
    return chosen if layout is None else [_laid_out(capture, layout) for capture in chosen]


def _laid_out(capture: Captured, layout: Layout) -> Captured:
    tokens = capture.layout.length
    given = layout if isinstance(layout, TokenLayout) else layout(tokens)
    if given.length != tokens:
        raise CaptureError(
            f"layout: has {given.length} tokens and layer {capture.layer} sees {tokens}; the two have to be equal"
        )
    if capture.layout.is_video and given != capture.layout:
        raise CaptureError(f"layout: {given} was given and the model's own is {capture.layout}; leave it out")
    return replace(capture, layout=given)


@contextmanager
def _hooked(
    model: nn.Module,
    layers: Sequence[int] | None,
    family: Family,
    seen: Callable[[int, Site, Tensor], None],
) -> Iterator[None]:
    """Call `seen` with each chosen layer, site and input, as the model runs."""

    def hook_for(layer: int, site: Site) -> Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
            seen(layer, site, site.hidden(arguments, keywords))

        return hook

    handles = [
        site.module.register_forward_pre_hook(hook_for(layer, site), with_kwargs=True)
        for layer in layer_indices(layers, len(family.mixers(model)))
        for site in family.sites(model, layer)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
