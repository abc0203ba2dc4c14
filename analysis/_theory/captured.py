"""How each claim reads on a scan that is given, whose parameters are what they are.

A claim is put to such a scan as it is stated, or in the form whose assumptions the scan meets, or not at all; the
reading says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch

from analysis._theory import relations, scans
from analysis._theory.case import Case
from analysis.theory import CLAIMS
from vmp.layout import TokenLayout


@final
@dataclass(frozen=True)
class Reading:
    """``deviation`` measures the claim on a scan; ``form`` says what was put to it, "as stated" or otherwise."""

    deviation: Callable[[Case], float]
    form: str = "as stated"


def reading(claim: str, case: Case, layout: TokenLayout) -> Reading | str:
    """How the claim reads on one scan, or why it does not apply. ``layout`` is that of the whole sequence."""
    if claim in _READINGS:
        return _READINGS[claim](case, layout)
    return _as_stated(claim)


def _as_stated(claim: str) -> Reading:
    return Reading(lambda case: CLAIMS[claim].deviation(case, None))


def _decay_bound(case: Case, layout: TokenLayout) -> Reading | str:
    if case.residual == "none":
        return _as_stated("decay-bound")
    return Reading(
        lambda given: CLAIMS["decay-bound"].deviation(replace(given, residual="none"), None),
        "without its residual",
    )


def _exponential(case: Case, layout: TokenLayout) -> Reading | str:
    if case.states != 1:
        return f"N = {case.states}"
    varying = [name for name in ("delta", "B", "C") if (getattr(case, name).diff(dim=-1) != 0).any()]
    if varying:
        return f"{', '.join(varying)} vary from token to token"
    if case.residual == "initial" or case.mask_diagonal:
        return f"residual {case.residual}, {'masked' if case.mask_diagonal else 'not masked'}"
    return _as_stated("exponential")


def _double_diagonal(case: Case, layout: TokenLayout) -> Reading | str:
    if not case.mask_diagonal:
        return "no pair of equal directions"
    if case.residual == "initial" and not case.silent_start:
        return "residual initial: the first masked step reads the state before it"
    return Reading(scans.masked_half, "masked half: no diagonal")


def _initial_column(case: Case, layout: TokenLayout) -> Reading | str:
    return _as_stated("initial-column") if case.residual == "initial" else f"residual {case.residual}"


def _transitivity(case: Case, layout: TokenLayout) -> Reading | str:
    if case.mask_diagonal:
        return "masked: alpha_jj = 0"
    if case.states == 1:
        return _as_stated("transitivity")
    return Reading(relations.transitivity_by_state, f"state by state (N = {case.states})")


def _mediator(case: Case, layout: TokenLayout) -> Reading | str:
    return Reading(relations.mediated_steps, "as stated, for the scan")


def _class_first(case: Case, layout: TokenLayout) -> Reading | str:
    if not layout.class_positions:
        return "no class token"
    if layout.class_positions[0] != 0:
        return f"the class token is token {layout.class_positions[0] + 1}"
    return "backward direction" if case.reverse else _as_stated("class-first")


_READINGS: Mapping[str, Callable[[Case, TokenLayout], Reading | str]] = {
    "decay-bound": _decay_bound,
    "exponential": _exponential,
    "double-diagonal": _double_diagonal,
    "initial-column": _initial_column,
    "transitivity": _transitivity,
    "mediator": _mediator,
    "class-first": _class_first,
}
"""The claims that assume something of the parameters; the others hold of every scan."""


def nonfinite(case: Case) -> str | None:
    """The name of a term that holds NaN or infinity, or None."""
    names = (name for name in ("delta", "A", "B", "C", "D", "u"))
    return next((name for name in names if not torch.isfinite(getattr(case, name)).all()), None)
