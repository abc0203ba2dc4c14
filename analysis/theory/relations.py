"""The deviation of a scan from each claim about relations among three tokens or more, as in `analysis.theory.scans`."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.theory.case import Case, apart, cuts, entrywise

HEAD_WIDTH = 8
"""The width of the random attention heads that scans are compared with."""


def transitivity(case: Case, dropped: str | None) -> float:
    case = replace(case, mask_diagonal=dropped == "diagonal kept")
    if dropped != "one state":
        case = replace(case, A=case.A[:, :1], B=case.B[:, :1], C=case.C[:, :1], h0=None)
    alpha = case.in_steps()
    if dropped == "one channel":
        alpha = alpha.mean(1, keepdim=True)
    return _intransitive(alpha, between=dropped != "between")


def transitivity_by_state(case: Case) -> float:
    """Measure transitivity state by state: each state's term alone is a scan of one state, whatever N is."""
    return _intransitive(case.by_state().in_steps())


def _intransitive(alpha: Float[Tensor, "B D L L"], between: bool = True) -> float:
    """Return the largest transitivity residual of math.md section 4 over i > j > k, or over i, k > j."""
    found = 0.0
    for j in range(1, alpha.shape[-1] - 1):
        i, k = slice(j + 1, None), slice(0, j) if between else slice(j + 1, None)
        through = alpha[..., i, j, None] * alpha[..., j, None, k]
        direct = alpha[..., i, k] * alpha[..., j, j, None, None]
        found = max(found, entrywise(through, direct))
    return found


def semiseparable(case: Case, dropped: str | None) -> float:
    alpha = case.in_steps()
    if dropped == "a scan":
        alpha = _logits(case.u.transpose(1, 2)).softmax(-1)
    elif dropped == "one channel":
        alpha = alpha.mean(1, keepdim=True)
    blocks = [alpha[..., m:, :m] for m in cuts(case.length)]
    if dropped == "columns before rows":
        blocks = [alpha[..., 1:, :]]
    return max(_beyond_rank(block, case.states) for block in blocks)


def _beyond_rank(block: Float[Tensor, "B D r c"], rank: int) -> float:
    """Return the first singular value past `rank` over the largest, or 0 where the block has no more than `rank`."""
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
    """Compare each state's term after the step at j is replaced with the old term times the claimed ratio."""
    summed = dropped == "one state"
    per_state = case if summed else case.by_state()
    # The sum over states is held to the rate that would rule if it were one state.
    rate = per_state.A.mean(-1)[:, None, None]
    old, L, found = per_state.in_steps(), case.length, 0.0
    for j in cuts(L):
        if not 0 < j < L - 1:
            continue
        at = L - 1 - j if case.reverse else j
        other = (at + L // 2) % L
        delta = per_state.delta.clone()
        delta[..., at] = per_state.delta[..., other]
        if dropped == "only the mediator":
            delta[..., (at + 1) % L] = per_state.delta[..., other]
        new = replace(per_state, delta=delta).in_steps()
        step, replaced = (x[..., at, None, None] for x in (per_state.delta, delta))
        after = slice(j + 1, L)
        block = (..., after, after if dropped == "between" else slice(0, j))
        # The products are compared crosswise, so that no exponent is above zero.
        gap = entrywise(new[block] * torch.exp(rate * step), old[block] * torch.exp(rate * replaced))
        found = max(found, gap)
    return found


def _logits_moved(case: Case, mixed: bool) -> float:
    """Measure how far replacing token j moves the relation of two others in self-attention on the tokens u.

    Args:
        case: The scan whose input the tokens are.
        mixed: Whether each token is first averaged with the one before it, so that a relation is no longer a function
            of its two tokens.

    Returns:
        The larger of two numbers: the change of a logit, and the spread along a row of the change of log-probabilities,
        which may only shift as a whole.
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
    """Compute the logits of one random head, q k^T / sqrt(width)."""
    if mixed:
        tokens = torch.cat([tokens[:, :1], (tokens[:, 1:] + tokens[:, :-1]) / 2], 1)
    g = torch.Generator().manual_seed(0)
    query, key = (
        tokens @ torch.randn(tokens.shape[-1], HEAD_WIDTH, generator=g, dtype=torch.float64).to(tokens)
        for _ in range(2)
    )
    return (query @ key.transpose(-1, -2) / HEAD_WIDTH**0.5)[:, None]
