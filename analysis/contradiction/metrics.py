"""The four measures of docs/math.md section 4 on entries and matrices, and weighted distributions of them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.matrix.base import Entries

QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)
"""Quantiles kept of every distribution."""

BINS = 20
"""Bins of the transitivity residual's histogram on [0, 1]."""

QUARTER = 4
"""The least similar keys of a row are its floor(keys / 4) least similar ones."""

TURNS, SETTLED = 500, 1e-12
"""The lag profile is refitted until no row moves by more than SETTLED of itself, at most TURNS times."""


def weighted_mean(values: Float[Tensor, "D P"], weight: Float[Tensor, " P"]) -> tuple[float, float]:
    """Over channels and pairs, each pair with its weight, and the share of the weight that was left out.

    Entries that are NaN are left out; the mean is NaN where nothing is left.
    """
    kept = ~values.isnan()
    total = float(weight.sum()) * len(values)
    used = float((kept * weight).sum())
    if used == 0:
        return np.nan, 1.0 if total else np.nan
    return float((values.nan_to_num() * weight).sum()) / used, max(0.0, 1 - used / total)


def weighted_quantiles(values: Float[Tensor, "D P"], weight: Float[Tensor, " P"]) -> Float[np.ndarray, "q"]:
    """`QUANTILES` of what `weighted_mean` is the mean of: the least value with at least that share at or below."""
    kept = ~values.isnan()
    if not kept.any():
        return np.full(len(QUANTILES), np.nan)
    x, w = values[kept], weight.expand_as(values)[kept]
    order = x.argsort()
    share = w[order].cumsum(0)
    place = torch.searchsorted(share, share[-1] * torch.tensor(QUANTILES, dtype=share.dtype))
    return x[order][place.clamp(max=len(x) - 1)].numpy()


def histogram(values: Float[Tensor, "D P"], weight: Float[Tensor, " P"]) -> Float[np.ndarray, "b"]:
    """Shares of `BINS` equal bins of [0, 1] in the same; NaN where nothing is left."""
    kept = ~values.isnan()
    bins = (values[kept] * BINS).long().clamp(max=BINS - 1)
    sums = torch.bincount(bins, weight.expand_as(values)[kept], minlength=BINS)
    return (sums / sums.sum()).numpy()


def log_change(before: Entries, after: Entries) -> Float[Tensor, "D P"]:
    """ln abs(M'_ij) - ln abs(M_ij); NaN where either entry is 0, as its logarithm has no value."""
    nothing = torch.isinf(before.log) | torch.isinf(after.log)
    return (after.log - before.log).masked_fill(nothing, torch.nan)


def transitivity_residual(ij: Entries, jk: Entries, ik: Entries, jj: Entries) -> Float[Tensor, "D P"]:
    """abs(M_ij M_jk - M_ik M_jj) / (abs(M_ij M_jk) + abs(M_ik M_jj)), in [0, 1]; NaN where both products are 0.

    It is 0 where two relations fix the third, and 1 where one product is 0 or the two have opposite signs.
    """
    two, one = ij.log + jk.log, ik.log + jj.log
    top = torch.maximum(two, one)
    first, second = (two - top).exp(), (one - top).exp()
    signed = (ij.sign * jk.sign * first - ik.sign * jj.sign * second).abs() / (first + second)
    return signed.masked_fill(top == -torch.inf, torch.nan)


def effective_rank(values: Float[Tensor, "*batch r"]) -> Float[Tensor, "*batch"]:
    """exp of the entropy of the singular values divided by their sum; NaN for a matrix of zeros.

    Source: Roy and Vetterli, The effective rank, EUSIPCO 2007, definition 1.
    """
    p = values / values.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


@dataclass(frozen=True, eq=False)
class Mass:
    """Shares of P on the least similar keys.

    Attributes:
        observed, expected: the share, mean over rows that have such keys; as it is, and in the mean over shuffles.
        rows: the rows' own ratios, NaN for rows without such keys or weight.
        least: which part of each pair counts as least similar, in [0, 1]; below 1 only where similarities tie.
        share, blind: P, and what the shuffles make of it in the mean.
    """

    observed: float
    expected: float
    rows: Float[np.ndarray, "L"]
    least: Float[np.ndarray, "L L"]
    share: Float[np.ndarray, "L L"]
    blind: Float[np.ndarray, "L L"]


def contradictory_mass(
    weight: Float[np.ndarray, "L L"],
    sees: Bool[np.ndarray, "L L"],
    similarity: Float[np.ndarray, "L L"],
) -> Mass:
    """Share of P on the least similar quarter of keys, against the same share blind to similarity.

    Shuffling: with U_ij = P_ij T_i, the U of pairs of equal i - j change places and are divided by the T of the row
    that they come to. T takes the row's length out, as a row that the sequence's end cuts short has the same weight
    on fewer keys: it solves T_i = sum_j u(i - j) over the keys that row i sees, with u(k) the mean of U at lag k, up
    to a factor common to all rows. So W that depends on lag alone is what it was after any shuffle. A share is linear
    in U, so its mean over all shuffles is exact: every U replaced by its lag's mean.

    Args:
        weight: W, not negative. sees: pairs allowed by structure. similarity: of token i and key j.

    Source: ours.
    """
    L = len(weight)
    weight = np.where(sees, weight, 0.0)
    total = weight.sum(1)
    valid = (total > 0) & np.isfinite(total)
    share = np.where(valid[:, None], weight / np.where(valid, total, 1.0)[:, None], 0.0)
    sees = sees & valid[:, None]
    blind = _by_lag_alone(share, sees)
    least = np.stack([_least(similarity[i], sees[i]) for i in range(L)]) if L else np.zeros((0, 0))
    observed, expected = (least * share).sum(1), (least * blind).sum(1)
    counted = least.sum(1) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.where(counted & (expected > 0), observed / expected, np.nan)
        means = [float(part[counted].sum() / counted.sum()) for part in (observed, expected)]
    return Mass(means[0], means[1], rows, least, share, blind)


def _by_lag_alone(share: Float[np.ndarray, "L L"], sees: Bool[np.ndarray, "L L"]) -> Float[np.ndarray, "L L"]:
    """u(i - j) / sum_j u(i - j): P with all but its dependence on lag taken out."""
    L = len(share)
    by_lag, seen = _skewed(share), _skewed(sees.astype(float))
    pairs = np.maximum(seen.sum(0), 1)
    length = sees.sum(1).astype(float)
    u = np.zeros(2 * L - 1 if L else 0)
    for _ in range(TURNS):
        u = length @ by_lag / pairs
        fitted = seen @ u
        fitted *= length.sum() / max(fitted.sum(), np.finfo(float).tiny)
        settled = np.abs(fitted - length).max(initial=0) <= SETTLED * length.max(initial=0)
        length = fitted
        if settled:
            break
    lag = np.subtract.outer(np.arange(L), np.arange(L)) + L - 1
    blind = u[lag] * sees
    total = blind.sum(1, keepdims=True)
    return np.divide(blind, total, out=np.zeros_like(blind), where=total > 0)


def _skewed(matrix: Float[np.ndarray, "L L"]) -> Float[np.ndarray, "L K"]:
    """Row i by lag: column i - j + L - 1."""
    L = len(matrix)
    wide = np.zeros((L, 2 * L - 1 if L else 0))
    for i in range(L):
        wide[i, i : i + L] = matrix[i, ::-1]
    return wide


def _least(similarity: Float[np.ndarray, "L"], sees: Bool[np.ndarray, "L"]) -> Float[np.ndarray, "L"]:
    """1 for the least similar quarter of the keys seen, 0 for others; keys that tie at the border share its rest."""
    count = int(sees.sum()) // QUARTER
    chosen = np.zeros(len(similarity))
    if count == 0:
        return chosen
    border = np.partition(similarity[sees], count - 1)[count - 1]
    below, at = sees & (similarity < border), sees & (similarity == border)
    chosen[below] = 1.0
    chosen[at] = (count - below.sum()) / at.sum()
    return chosen


def cosine(hidden: Float[Tensor, "L M"]) -> Float[np.ndarray, "L L"]:
    """Cosine similarity of every two tokens; a token of zeros is like none."""
    unit = torch.nn.functional.normalize(hidden.double(), dim=-1)
    return (unit @ unit.T).cpu().numpy()
