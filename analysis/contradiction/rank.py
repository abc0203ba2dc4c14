"""Effective rank of the block that carries everything from the first half of a sequence to the second."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.capture import AttentionCapture, Captured
from analysis.contradiction.metrics import effective_rank
from analysis.matrix.scopes import scoped

DENSE_CHANNELS = 16
"""Channels whose block is decomposed where it is not a product of thin factors: evenly spaced ones of all."""


@final
@dataclass(frozen=True, eq=False)
class BlockRank:
    """Effective rank of M[m+1:, :m], m = L / 2 rounded down, in the order of the steps.

    Attributes:
        ranks: The rank of each channel looked at, from 1 to the bound.
        bound: The most that the rank can be, or None where nothing but the block's size bounds it.
        logits, logits_bound: The same of self-attention before the softmax, head by head; None for a scan.
    """

    ranks: Float[np.ndarray, "d"]
    bound: int | None
    logits: Float[np.ndarray, "h"] | None = None
    logits_bound: int | None = None


def block_rank(capture: Captured, scope: str, weight: Float[np.ndarray, "L L"]) -> BlockRank | None:
    """The block rank of one direction of one clip; None for a sequence of one token, which has no block.

    In scope `ssm` a scan's block has at most rank N. In `mixer` a convolution that runs with the scan reaches
    across the border, so that its W - 1 taps add to the bound. `contribution` is a matrix of norms, without bound.

    Args:
        capture: One direction of one layer, of one clip (B = 1).
        scope: One of `analysis.matrix.scopes.SCOPES`.
        weight: W of the scope, (L, L), in the order of the sequence.
    """
    L = len(weight)
    m = L // 2
    if m == 0:
        return None
    bound = None
    if scope == "contribution":
        block = weight[::-1, ::-1] if capture.reversed else weight
        ranks = effective_rank(torch.linalg.svdvals(torch.from_numpy(block[m:, :m].copy()))[None])
    elif (thin := (matrix := scoped(capture, scope)).border(m)) is not None:
        left, right = (factor[0] for factor in thin)
        bound = min(left.shape[-1], L - m, m)
        ranks = effective_rank(_singular_values(left, right))
    else:
        every = max(1, matrix.channels // DENSE_CHANNELS)
        blocks = [
            matrix.tile(slice(m, L), slice(0, m), slice(c, c + 1))[0, 0].double()
            for c in range(0, matrix.channels, every)[:DENSE_CHANNELS]
        ]
        ranks = effective_rank(torch.stack([torch.linalg.svdvals(block) for block in blocks]))
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
