"""The families of models whose captures are known, and which of them a model is of.

A family is one file: a module, or an object, with the names of `Family`. An installed package makes one known through
the entry-point group `vmp.families`; a session, through `register_family`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from analysis.capture.attention import AttentionCapture
from analysis.capture.capture import Capture
from analysis.capture.parts import CaptureError, Site

GROUP = "vmp.families"
OWN = (
    "analysis.capture.vmp_models",
    "analysis.capture.hf_videomae",
    "analysis.capture.hf_timesformer",
    "analysis.capture.hf_vivit",
    "analysis.capture.hf_mamba",
    "analysis.capture.modules",
)
"""This project's families, which are also entry points; the last one takes what no other recognises."""


@runtime_checkable
class Family(Protocol):
    """What the recorder asks of a model family; a module with these names will do."""

    NAME: str

    def recognises(self, model: nn.Module) -> bool:
        """Whether `model` is of this family; asked of models of every kind."""

    def mixers(self, model: Any) -> Sequence[nn.Module]:
        """The token mixers, in the order of the layers."""

    def sites(self, model: Any, layer: int) -> Sequence[Site]:
        """Where a layer is hooked: its mixer's input, or one place for each direction with an input of its own."""

    def captures(self, model: Any, layer: int, hidden: Tensor) -> Sequence[Capture | AttentionCapture]:
        """The directions of one layer, each from the same input (B, L, M), in the order of the layout.

        Raises:
            CaptureError: The layer has none, or hides its parameters.
        """

    def run(self, model: Any, inputs: Tensor) -> Tensor:
        """The model's logits, or features without a head, of clips (B, 3, T, H, W) or token ids (B, L)."""


_registered: list[Family] = []


def register_family(family: Family) -> None:
    """Make a family known to this session; it is asked before those known so far.

    Args:
        family: A module or object with the names of `Family`. One that has the `NAME` of an earlier one replaces it.

    Raises:
        TypeError: A name of `Family` is missing.
    """
    _check(family, "family")
    _registered[:] = [family, *(known for known in _registered if known.NAME != family.NAME)]


def families() -> tuple[Family, ...]:
    """The known families in the order in which a model is put to them: the one registered last comes first."""
    by_name: dict[str, Family] = {}
    for family in (*_registered, *_installed()):
        by_name.setdefault(family.NAME, family)
    return tuple(by_name.values())


def family_of(model: nn.Module, family: Family | str | None = None) -> Family:
    """The family of a model.

    Args:
        model: Any module.
        family: A family, or its name, where it is not to be found out.

    Raises:
        CaptureError: No family recognises the model, or none has that name; the message lists those known.
    """
    if family is not None and not isinstance(family, str):
        return _check(family, "family")
    known = families()
    for one in known:
        if family == one.NAME or (family is None and one.recognises(model)):
            return one
    names = ", ".join(one.NAME for one in known)
    if family is not None:
        raise CaptureError(f"family: {family!r} is not known; known families: {names}")
    raise CaptureError(
        f"model: no adapter for {type(model).__name__}; known families: {names}. "
        "analysis.capture.register_family adds one"
    )


@cache
def _installed() -> tuple[Family, ...]:
    """Families of other packages before this project's own."""
    others = [entry for entry in entry_points(group=GROUP) if entry.value not in OWN]
    found = [_check(entry.load(), f"entry point {entry.name!r} of {GROUP}") for entry in others]
    # By name, as the metadata of an older installation lacks them.
    return (*found, *(cast(Family, import_module(module)) for module in OWN))


def _check(family: object, what: str) -> Family:
    wanted = ("NAME", "recognises", "mixers", "sites", "captures", "run")
    missing = [name for name in wanted if not hasattr(family, name)]
    if missing:
        raise TypeError(f"{what}: {family!r} has no {', '.join(missing)}; a family has {', '.join(wanted)}")
    return cast(Family, family)
