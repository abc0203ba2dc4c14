"""Single entries of a capture's matrices, in every scope that is asked for at the price of the widest."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.capture import AttentionCapture, Captured
from analysis.matrix.base import Entries
from analysis.matrix.scopes import Contribution, MixerMatrix, Scope, scoped
from analysis.matrix.softmax import AttentionContribution, ProjectedAttention

__all__ = ["Entries", "entries", "logits"]


def entries(
    capture: Captured, scopes: Sequence[Scope], rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]
) -> dict[Scope, Entries]:
    """M at (rows[p], columns[p]) for every p, in each scope, on the CPU.

    Channels are those of the scope: the scan's, or heads, or outputs; `contribution` has one, the norm.

    Args:
        capture: One direction of one layer, of one clip (B = 1).
        scopes: Which scopes.
        rows, columns: In steps of the scan, so that i > j is "i after j" in either direction.

    Raises:
        IndexError: A step is outside the sequence.
    """
    length = capture.hidden.shape[1]
    if len(columns) and not 0 <= int(columns.min()) <= int(columns.max()) < length:
        raise IndexError(f"columns: steps have to lie in 0..{length - 1}")
    # Triples share pairs, each of which is computed once.
    pairs, inverse = torch.unique(rows.long() * length + columns, return_inverse=True)
    rows, columns = pairs // length, pairs % length
    if capture.reversed:
        rows, columns = length - 1 - rows, length - 1 - columns
    found = (
        _of_scan(capture, scopes, rows, columns)
        if capture.is_scan
        else _of_attention(capture, scopes, rows, columns)
    )
    return {
        scope: Entries(found[scope].sign[0].cpu(), found[scope].log[0].cpu()).at(inverse.cpu())
        for scope in scopes
    }


def logits(
    capture: Captured, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]
) -> Float[Tensor, "H P"] | None:
    """scale q_i . k_j of self-attention; None for a scan, which has none."""
    return capture.operator().logits_at(rows, columns)[0] if isinstance(capture, AttentionCapture) else None


def _of_scan(
    capture: Captured, scopes: Sequence[Scope], rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]
) -> dict[str, Entries]:
    # The widest scope asked for decides what surrounds alpha; the narrower ones are met on the way.
    matrix = scoped(capture, next((s for s in ("contribution", "mixer") if s in scopes), "ssm"))
    if not isinstance(matrix, MixerMatrix | Contribution):
        return {"ssm": matrix.entries(rows, columns)}
    found = matrix.entries_by_scope(rows, columns)
    if "contribution" in found:
        found["contribution"] = _weights(found["contribution"].norm())
    return found


def _of_attention(
    capture: Captured, scopes: Sequence[Scope], rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]
) -> dict[str, Entries]:
    softmax = capture.operator().entries(rows, columns)
    found = {"ssm": softmax}
    for scope in scopes:
        matrix = scoped(capture, scope)
        if isinstance(matrix, ProjectedAttention):
            found[scope] = matrix.entries(rows, columns, softmax)
        elif isinstance(matrix, AttentionContribution):
            found[scope] = _weights(matrix.weigh_entries(rows, columns, softmax))
    return found


def _weights(log: Float[Tensor, "B P"]) -> Entries:
    """Weights, which are never negative, as the entries of one channel."""
    return Entries((log > -torch.inf).double()[:, None], log[:, None])
