"""What adapters share: where a layer is hooked, and its parts taken out with a word on what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

Part = TypeVar("Part", bound=nn.Module)


class CaptureError(TypeError):
    """A model, or a layer of it, that cannot be captured; the message is one line for the user."""


def shown(what: object, *words: object, **sizes: int) -> str:
    """A repr on one line: the class, words such as a direction or a dtype, and sizes by their letters."""
    named = (
        str(word).removeprefix("torch.") if isinstance(word, torch.dtype) else str(word) for word in words
    )
    return f"{type(what).__name__}({', '.join((*named, *(f'{k}={v}' for k, v in sizes.items())))})"


def first_argument(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    """A module's input: its first positional argument, or the keyword `hidden_states`."""
    return arguments[0] if arguments else keywords["hidden_states"]


@final
@dataclass(frozen=True)
class Site:
    """One place of a layer that is hooked.

    Attributes:
        module: The module whose input is taken.
        hidden: Computes that input from the module's arguments, as (B, L, M) in the order of the layout.
        direction: The direction whose capture this input is for; None where all of the layer's share it.
    """

    module: nn.Module
    hidden: Callable[[tuple[Any, ...], Mapping[str, Any]], Tensor] = first_argument
    direction: str | None = None


def part(mixer: nn.Module, layer: int, path: str, kind: type[Part]) -> Part:
    """A submodule whose weights can be read.

    Raises:
        CaptureError: The submodule is absent, of another kind (fused, wrapped by an adapter), or quantised.
    """
    owner = type(mixer).__name__
    try:
        found = mixer.get_submodule(path)
    except AttributeError:
        raise CaptureError(
            f"layer {layer}: {owner} has no {path}, a {kind.__name__}; a fused layer hides what it computes with"
        ) from None
    if not isinstance(found, kind):
        raise CaptureError(
            f"layer {layer}: {path} of {owner} is a {type(found).__name__}; a plain {kind.__name__} is needed"
        )
    weight = found.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim < 2:
        stored = str(weight.dtype).removeprefix("torch.") if isinstance(weight, Tensor) else "hidden"
        raise CaptureError(
            f"layer {layer}: {path}.weight of {owner} is {stored}; load the model with floating point weights"
        )
    return found


def parameter(mixer: nn.Module, layer: int, name: str) -> Tensor:
    """A parameter of the mixer itself, detached.

    Raises:
        CaptureError: The parameter is absent.
    """
    found = getattr(mixer, name, None)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise CaptureError(f"layer {layer}: {type(mixer).__name__} has no floating point parameter {name}")
    return found.detach()


def is_of(model: nn.Module, module: str, *names: str) -> bool:
    """Whether a model is of a named class, or derived from one, without importing where that class is from."""
    return any(kind.__module__ == module and kind.__name__ in names for kind in type(model).__mro__)


def needs_evaluation(layer: int, mixer: nn.Module) -> None:
    """Raise CaptureError where dropout would make the layer's output random."""
    if any(isinstance(m, nn.Dropout) and m.training and m.p > 0 for m in mixer.modules()):
        raise CaptureError(f"layer {layer}: dropout is active; call model.eval() before recording")
