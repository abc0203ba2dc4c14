"""Effective rank of the block that carries everything from the first half of a sequence to the second."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.capture import AttentionCapture, Capture
from analysis.contradiction.metrics import effective_rank
from analysis.implicit import Folds, ImplicitAttention, Rectangle
from analysis.weights import scoped

DENSE_CHANNELS = 16
"""Channels whose block is decomposed where it is not a product of thin factors: evenly spaced ones of all."""


@dataclass(frozen=True, eq=False)
class BlockRank:
    """Effective rank of M[m+1:, :m], m = L / 2 rounded down, in the order of the steps.

    Attributes:
        ranks: of each channel looked at; of 1 to the bound.
        bound: the most that the rank can be, or None where nothing but the block's size bounds it.
        logits, logits_bound: the same of self-attention before the softmax, head by head; None for a scan.
    """

    ranks: Float[np.ndarray, "d"]
    bound: int | None
    logits: Float[np.ndarray, "h"] | None = None
    logits_bound: int | None = None


def block_rank(
    capture: Capture | AttentionCapture, scope: str, weight: Float[np.ndarray, "L L"]
) -> BlockRank | None:
    """The block rank of one direction of one clip; None for a sequence of one token, which has no block.

    In scope ``ssm`` a scan's block has at most rank N. In ``mixer`` a convolution that runs with the scan reaches
    across the border, so that its W - 1 taps add to the bound. ``contribution`` is a matrix of norms, without bound.

    Args:
        weight: W of the scope, (L, L), in the order of the sequence.
    """
    L = len(weight)
    m = L // 2
    if m == 0:
        return None
    if scope == "contribution":
        block = weight[::-1, ::-1] if capture.reversed else weight
        dense = torch.from_numpy(block[m:, :m].copy())
        ranks, bound = effective_rank(torch.linalg.svdvals(dense)[None]), None
    elif isinstance(capture, Capture):
        folded = scoped(capture, scope).folded()
        assert folded is not None  # Scopes ssm and mixer of a scan have that form.
        left, right = _thin(*folded, m)
        bound = min(left.shape[-1], L - m, m)
        ranks = effective_rank(_singular_values(left, right))
    else:
        matrix = scoped(capture, scope)
        every = max(1, matrix.channels // DENSE_CHANNELS)
        blocks = [
            matrix.tile(slice(m, L), slice(0, m), slice(c, c + 1))[0, 0].double()
            for c in range(0, matrix.channels, every)[:DENSE_CHANNELS]
        ]
        ranks, bound = effective_rank(torch.stack([torch.linalg.svdvals(block) for block in blocks])), None
    logits = logits_bound = None
    if isinstance(capture, AttentionCapture):
        q, k = (capture.scale * capture.q[0]).double(), capture.k[0].double()
        # The logits of pairs that a mask forbids are among them.
        values = _singular_values(q[:, m:], k[:, :m].transpose(-1, -2))
        logits, logits_bound = effective_rank(values).cpu().numpy(), min(q.shape[-1], L - m, m)
    return BlockRank(ranks.cpu().numpy(), bound, logits, logits_bound)


def _singular_values(left: Float[Tensor, "D r q"], right: Float[Tensor, "D q m"]) -> Float[Tensor, "D s"]:
    """Those of left @ right, which is never formed."""
    first, second = torch.linalg.qr(left).R, torch.linalg.qr(right.transpose(-1, -2)).R
    return torch.linalg.svdvals(first @ second.transpose(-1, -2))


def _thin(
    scan: ImplicitAttention, folds: Folds, m: int
) -> tuple[Float[Tensor, "D r q"], Float[Tensor, "D q m"]]:
    """Factors of diag(gate) (alpha + D I) diag(slope) K diag(scale) at rows m.. and columns ..m.

    Sources before m reach the rows through the N states. Those after it that a column's taps reach ahead to, each
    through a column of its own.
    """
    L = scan.length
    near = range(m, min(m + folds.taps.shape[1] - 1, L) if folds.ahead == -1 else m)
    read, write = (x[0].double() for x in scan.factors(Rectangle(m, L, 0, m), slice(None)))
    direct = torch.zeros((scan.channels, L - m, len(near)), dtype=torch.float64, device=scan.device)
    for piece in scan._pieces(Rectangle(m, L, m, near.stop)):
        direct[:, piece.top - m : piece.bottom - m, piece.left - m : piece.right - m] = scan._fill(
            piece, slice(None)
        )[0].double()
    direct.diagonal(dim1=-2, dim2=-1).add_(folds.skip.double()[:, None])
    left = folds.gate[0].double()[:, m:, None] * torch.cat([read, direct], -1)
    states = write.shape[1]
    sources = write.new_zeros((scan.channels, states + len(near), near.stop))
    sources[:, :states, :m] = write
    for place, source in enumerate(near):
        sources[:, states + place, source] = 1
    sources *= folds.slope[0].double()[:, None, : near.stop]
    right = sources.new_zeros((scan.channels, states + len(near), m))
    for tap in range(folds.taps.shape[1]):
        at = torch.arange(m, device=scan.device) - folds.ahead * tap
        inside = (at >= 0) & (at < near.stop)
        right[..., inside] += sources[..., at[inside]] * folds.taps.double()[:, tap, None, None]
    return left, right * folds.scale[0].double()[:, None, :m]
