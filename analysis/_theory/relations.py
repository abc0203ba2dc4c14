"""How far a scan is from each claim about relations among three tokens or more (as in `analysis._theory.scans`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from analysis._theory.case import Case, apart, cuts, entrywise

HEAD_WIDTH = 8
"""Width of the random attention head that stands beside a scan."""


def transitivity(case: Case, dropped: str | None) -> float:
    case = replace(case, mask_diagonal=dropped == "diagonal kept")
    if dropped != "one state":
        case = replace(case, A=case.A[:, :1], B=case.B[:, :1], C=case.C[:, :1], h0=None)
    alpha = in_steps(case)
    if dropped == "one channel":
        alpha = alpha.mean(1, keepdim=True)
    return _intransitive(alpha, between=dropped != "between")


def transitivity_by_state(case: Case) -> float:
    """Each state's term alone is a scan of one state, so the claim holds of it whatever N is."""
    return _intransitive(in_steps(case.by_state()))


def _intransitive(alpha: Float[Tensor, "B D L L"], between: bool = True) -> float:
    """The largest transitivity residual of math.md section 4, over i > j > k; without ``between``, over i, k > j."""
    found = 0.0
    for j in range(1, alpha.shape[-1] - 1):
        i, k = slice(j + 1, None), slice(0, j) if between else slice(j + 1, None)
        through = alpha[..., i, j, None] * alpha[..., j, None, k]
        direct = alpha[..., i, k] * alpha[..., j, j, None, None]
        found = max(found, entrywise(through, direct))
    return found


def semiseparable(case: Case, dropped: str | None) -> float:
    alpha = in_steps(case)
    if dropped == "a scan":
        alpha = _attention(case)
    elif dropped == "one channel":
        alpha = alpha.mean(1, keepdim=True)
    blocks = [alpha[..., m:, :m] for m in cuts(case.length)]
    if dropped == "columns before rows":
        blocks = [alpha[..., 1:, :]]
    return max(_beyond_rank(block, case.states) for block in blocks)


def _beyond_rank(block: Float[Tensor, "B D r c"], rank: int) -> float:
    """The first singular value past ``rank`` over the largest: 0 where the block has no more than ``rank``."""
    values = torch.linalg.svdvals(block)
    if values.shape[-1] <= rank:
        return 0.0
    largest = values[..., 0]
    beyond = torch.where(largest > 0, values[..., rank] / largest, torch.zeros_like(largest)).max()
    return beyond.item() if torch.isfinite(beyond) else float("inf")


def mediator(case: Case, dropped: str | None) -> float:
    if dropped == "two tokens":
        return _logits_moved(case, mixed=True)
    return max(mediated_steps(case, dropped), _logits_moved(case, mixed=False))


def mediated_steps(case: Case, dropped: str | None = None) -> float:
    """Entries of each state's term with the step at j replaced, against the old ones times the claimed ratio."""
    per_state = case if dropped == "one state" else case.by_state()
    if dropped == "one state":
        # The rate that would rule if the states' sum were one state.
        rate = case.A.mean(-1)[:, None, None]
    else:
        rate = per_state.A[:, :, None]
    old, L, found = in_steps(per_state), case.length, 0.0
    for j in cuts(L):
        if not 0 < j < L - 1:
            continue
        at = L - 1 - j if case.reverse else j
        other = (at + L // 2) % L
        delta = per_state.delta.clone()
        delta[..., at] = per_state.delta[..., other]
        if dropped == "only the mediator":
            delta[..., (at + 1) % L] = per_state.delta[..., other]
        new = in_steps(replace(per_state, delta=delta))
        step, replaced = (x[..., at][..., None, None] for x in (per_state.delta, delta))
        rows, columns = slice(j + 1, L), slice(0, j)
        if dropped == "between":
            columns = slice(j + 1, L)
        # Cross-multiplied, so that no exponent is above zero.
        found = max(
            found,
            entrywise(
                new[..., rows, columns] * torch.exp(rate * step),
                old[..., rows, columns] * torch.exp(rate * replaced),
            ),
        )
    return found


def in_steps(case: Case) -> Float[Tensor, "B D L L"]:
    """The definition's responses with rows and columns in the order of the steps: lower triangular."""
    alpha = case.responses()
    return alpha.flip((-2, -1)) if case.reverse else alpha


def _logits_moved(case: Case, mixed: bool) -> float:
    """Self-attention on the tokens u: how far replacing token j moves the relation of two others.

    The larger of the change of a logit, and the spread along a row of the change of log-probabilities, which may only
    shift as a whole. ``mixed`` lets each token be a mean with the one before it first, so that a relation is no longer
    one of two tokens.
    """
    tokens = case.u.transpose(1, 2)
    j = case.length // 2
    replaced = tokens.clone()
    replaced[:, j] = tokens[:, (j + case.length // 2) % case.length]
    old, new = (_logits(x, mixed) for x in (tokens, replaced))
    kept = (torch.arange(case.length, device=tokens.device) != j).nonzero().flatten()
    among = (..., kept[:, None], kept)
    shift = (new.log_softmax(-1) - old.log_softmax(-1))[among]
    return max(apart(new[among], old[among]), apart(shift, shift[..., :1].expand_as(shift), scale=old))


def _logits(tokens: Float[Tensor, "B L M"], mixed: bool = False) -> Float[Tensor, "B 1 L L"]:
    """q k^T / sqrt(width) of one random head."""
    if mixed:
        tokens = torch.cat([tokens[:, :1], (tokens[:, 1:] + tokens[:, :-1]) / 2], 1)
    width = tokens.shape[-1]
    g = torch.Generator().manual_seed(0)
    query, key = (
        tokens @ torch.randn(width, HEAD_WIDTH, generator=g, dtype=torch.float64).to(tokens) for _ in range(2)
    )
    return (query @ key.transpose(-1, -2) / HEAD_WIDTH**0.5)[:, None]


def _attention(case: Case) -> Float[Tensor, "B 1 L L"]:
    return _logits(case.u.transpose(1, 2)).softmax(-1)
