"""The form in which each claim is put to a scan that is given, whose parameters are what they are.

A claim is put to such a scan as it is stated, or in the form whose assumptions the scan meets, or not at all; the
reading says which.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from analysis.theory import relations, scans
from analysis.theory.case import Case
from analysis.theory.claims import CLAIMS
from vmp.layout import TokenLayout


@final
@dataclass(frozen=True)
class Reading:
    """The form of a claim that is put to a scan, and the function that measures the deviation from it."""

    deviation: Callable[[Case], float]
    form: str = "as stated"


def reading(claim: str, scan: Case, layout: TokenLayout) -> Reading | str:
    """Decide how a claim reads on one scan.

    Args:
        claim: The claim's id.
        scan: The scan.
        layout: The layout of the whole sequence, of which the scan may be the first steps.

    Returns:
        The reading, or the reason why the claim does not apply.
    """
    stated = Reading(lambda case: CLAIMS[claim].deviation(case, None))
    match claim:
        case "decay-bound" if scan.residual != "none":
            return replace(stated, form="without its residual")
        case "exponential":
            return _why_not_exponential(scan) or stated
        case "double-diagonal" if not scan.mask_diagonal:
            return "no pair of equal directions"
        case "double-diagonal" if scan.residual == "initial" and not scan.silent_start:
            return "residual initial: the first masked step reads the state before it"
        case "double-diagonal":
            return Reading(scans.masked_half, "masked half: no diagonal")
        case "initial-column" if scan.residual != "initial":
            return f"residual {scan.residual}"
        case "transitivity" if scan.mask_diagonal:
            return "masked: alpha_jj = 0"
        case "transitivity" if scan.states > 1:
            return Reading(relations.transitivity_by_state, f"state by state (N = {scan.states})")
        case "mediator":
            return Reading(relations.mediated_steps, "as stated, for the scan")
        case "class-first" if not layout.class_positions:
            return "no class token"
        case "class-first" if layout.class_positions[0] != 0:
            return f"the class token is token {layout.class_positions[0] + 1}"
        case "class-first" if scan.reverse:
            return "backward direction"
    return stated


def _why_not_exponential(scan: Case) -> str:
    if scan.states != 1:
        return f"N = {scan.states}"
    varying = [name for name in ("delta", "B", "C") if (getattr(scan, name).diff(dim=-1) != 0).any()]
    if varying:
        return f"{', '.join(varying)} vary from token to token"
    if scan.residual == "initial" or scan.mask_diagonal:
        return f"residual {scan.residual}, {'masked' if scan.mask_diagonal else 'not masked'}"
    return ""
