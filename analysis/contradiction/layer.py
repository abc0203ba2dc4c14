"""The four measures of contradiction on one layer's input for one clip.

The layer is run again from its own input, once as it was and once for each mediator with that token replaced. Its
scans, or its self-attention, are read entry by entry, so that nothing of size D x L x L is ever held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.capture import AttentionCapture, Capture, Captured
from analysis.contradiction.entries import Entries, entries, logits
from analysis.contradiction.metrics import (
    QUANTILES,
    Mass,
    contradictory_mass,
    cosine,
    histogram,
    log_change,
    transitivity_residual,
    weighted_mean,
    weighted_quantiles,
)
from analysis.contradiction.rank import block_rank
from analysis.contradiction.triples import (
    Triples,
    draw_mediators,
    draw_triples,
    octaves,
    related_triples,
)
from analysis.matrix.reduce import AbsoluteMean, reduce
from analysis.matrix.scopes import Scope, scoped
from analysis.measure import SiteRun

PAIRS = 4
"""Number of triples that are drawn for each mediator and octave of lag."""


def measure_layer(
    site: SiteRun, mediators: int, rng: np.random.Generator
) -> dict[tuple[str, str], dict[str, Any]]:
    """Measure every direction and scope of one layer's input.

    Args:
        site: The input and the directions that have it.
        mediators: How many tokens are replaced, one at a time.
        rng: The source of mediators, replacements and triples. The directions and scopes share what is drawn.

    Returns:
        By direction and scope, the values of one clip under the names of `Contradiction.quantities` and
        `Contradiction.kept`.
    """
    captures, scopes = site.captures, site.scopes
    margin = captures[0].reach
    length = site.hidden.shape[1]
    places = draw_mediators(length, margin, mediators, rng)
    others = replacements(captures[0], places, rng)
    triples = [draw_triples(length, margin, _steps(places, capture), PAIRS, rng) for capture in captures]
    plain = draw_triples(length, 1, draw_mediators(length, 1, mediators, rng), PAIRS, rng)
    sensitivity = Sensitivity(captures, scopes, triples)
    for place, other in zip(places.tolist(), others.tolist(), strict=True):
        sensitivity.replaced(place, site.run(substitute(site.hidden, place, other)))
    similarity = cosine(site.hidden[0])
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for capture, drawn in zip(captures, triples, strict=True):
        transitivity = _transitivity(capture, scopes, _related(capture, mediators, rng) or plain)
        for scope in scopes:
            weight, mass = direction_mass(capture, scope, similarity)
            found[capture.direction, scope] = {
                **sensitivity.values(capture, scope, drawn),
                **transitivity[scope],
                **_rank(capture, scope, weight),
                "contradictory_observed": mass.observed,
                "contradictory_expected": mass.expected,
                "contradictory_quantiles": _quantiles(mass.rows),
            }
    return found


def replacements(
    capture: Captured, places: Int[np.ndarray, " j"], rng: np.random.Generator
) -> Int[np.ndarray, " j"]:
    """Draw for each place the position of another token of the clip, among all that take part in the layer.

    The class token takes no part in attention over time, where its place in the input holds zeros.
    """
    length = capture.hidden.shape[1]
    drawn = (places + rng.integers(1, max(length, 2), len(places))) % max(length, 1)
    allowed = capture.allowed if isinstance(capture, AttentionCapture) else None
    if allowed is None:
        return drawn
    part = np.flatnonzero(allowed.any(1).cpu().numpy())
    # A token that takes no part gives way to the next that does.
    turned = [np.roll(part, -int(np.searchsorted(part, other))) for other in drawn]
    return np.array(
        [next((t for t in at if t != place), place) for place, at in zip(places, turned, strict=True)],
        dtype=int,
    )


def substitute(hidden: Float[Tensor, "1 L M"], place: int, other: int) -> Float[Tensor, "1 L M"]:
    """Return the layer's input with the token at one position replaced by that at another."""
    changed = hidden.clone()
    changed[:, place] = hidden[:, other]
    return changed


def direction_mass(
    capture: Captured, scope: Scope, similarity: Float[np.ndarray, "L L"]
) -> tuple[Float[np.ndarray, "L L"], Mass]:
    """Return W of one direction, in the order of the sequence, and its contradictory mass."""
    matrix = scoped(capture, scope)
    weight = reduce(matrix, [AbsoluteMean()])["AbsoluteMean"][0].double().cpu().numpy()
    sees = matrix.sees(slice(0, matrix.length)).cpu().numpy()
    return weight, contradictory_mass(weight, sees, similarity)


def _related(capture: Captured, mediators: int, rng: np.random.Generator) -> Triples | None:
    """Draw triples of pairs that the layer may relate; None where it forbids nothing but what comes after.

    A triple with a forbidden pair has a residual of 1, whatever the layer learned.
    """
    allowed = capture.allowed if isinstance(capture, AttentionCapture) else None
    length = capture.hidden.shape[1]
    if allowed is None or bool(allowed.tril().sum() == length * (length + 1) // 2):
        return None
    places = draw_mediators(length, 1, mediators, rng)
    return related_triples(allowed, places, PAIRS * octaves(length), rng)


def _steps(places: Int[np.ndarray, " j"], capture: Captured) -> Int[np.ndarray, " j"]:
    """Turn positions in the sequence into steps of the scan, or steps into positions."""
    return capture.hidden.shape[1] - 1 - places if capture.reversed else places


@final
class Sensitivity:
    """Collects how the entries of each direction and scope change as mediators are replaced, one after the other.

    Every run of the layer is of one clip, so that untouched tokens go through the same arithmetic to the last bit.

    Args:
        captures: The directions of the layer as it was.
        scopes: Which matrices are read.
        triples: The triples of each direction.
    """

    def __init__(self, captures: Sequence[Captured], scopes: Sequence[Scope], triples: Sequence[Triples]):
        self._scopes, self._triples = scopes, triples
        self._before: dict[str, tuple[dict[Scope, Entries], dict[Scope, Entries], Tensor | None]] = {}
        self._change: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        for capture, drawn in zip(captures, triples, strict=True):
            before = self._read(capture, drawn.row, drawn.column, drawn.other)
            self._before[capture.direction] = before
            for scope in scopes:
                nothing = torch.full_like(before[0][scope].log, torch.nan)
                self._change[capture.direction, scope] = (nothing, nothing.clone())
            if before[2] is not None:
                nothing = torch.full_like(before[2], torch.nan)
                self._change[capture.direction, "logits"] = (nothing, nothing)

    def _read(
        self, capture: Captured, row: Tensor, column: Tensor, other: Tensor
    ) -> tuple[dict[Scope, Entries], dict[Scope, Entries], Tensor | None]:
        both = entries(capture, self._scopes, row.repeat(2), torch.cat([column, other]))
        first, second = torch.arange(2 * len(row)).chunk(2) if len(row) else (row, row)
        of_softmax = logits(capture, row, column)
        return (
            {scope: found.at(first) for scope, found in both.items()},
            {scope: found.at(second) for scope, found in both.items()},
            None if of_softmax is None else of_softmax.cpu(),
        )

    def replaced(self, place: int, captures: Sequence[Captured]) -> None:
        """Take what the layer gives where the token at `place` is replaced."""
        for capture, drawn in zip(captures, self._triples, strict=True):
            at = drawn.around(int(_steps(np.array([place]), capture)[0]))
            after = self._read(capture, drawn.row[at], drawn.column[at], drawn.other[at])
            before = self._before[capture.direction]
            for scope in self._scopes:
                change, other = self._change[capture.direction, scope]
                change[:, at] = log_change(before[0][scope].at(at), after[0][scope])
                other[:, at] = log_change(before[1][scope].at(at), after[1][scope])
            if before[2] is not None and after[2] is not None:
                self._change[capture.direction, "logits"][0][:, at] = after[2] - before[2][:, at]

    def values(self, capture: Captured, scope: Scope, drawn: Triples) -> dict[str, Any]:
        """Return the mediator sensitivity of one direction and scope."""
        change, other = self._change[capture.direction, scope]
        size, weight = change.abs(), drawn.weight
        mean, left_out = weighted_mean(size, weight)
        before = self._before[capture.direction][0][scope].log
        # The scan, or the softmax, of this dtype holds a smaller number as 0.
        weak = (before < np.log(torch.finfo(capture.dtype).tiny)) & (before > -torch.inf)
        on_logits, _ = self._change.get((capture.direction, "logits"), (None, None))
        return {
            "mediator_sensitivity": mean,
            "mediator_relative": weighted_mean((change - other).abs(), weight)[0],
            "mediator_logits": np.nan if on_logits is None else weighted_mean(on_logits.abs(), weight)[0],
            "mediator_left_out": left_out,
            "mediator_underflow": weighted_mean(weak.double(), weight)[0],
            "mediator_quantiles": weighted_quantiles(size, weight),
            "mediator_by_lag": [
                weighted_mean(size[:, drawn.octave == octave], weight[drawn.octave == octave])[0]
                for octave in range(octaves(capture.hidden.shape[1]))
            ],
        }


def _transitivity(capture: Captured, scopes: Sequence[Scope], drawn: Triples) -> dict[Scope, dict[str, Any]]:
    as_it_is = before_mask = _residuals(capture, scopes, drawn)
    if isinstance(capture, Capture) and capture.terms.mask_diagonal:
        unmasked = replace(capture, terms=replace(capture.terms, mask_diagonal=False))
        before_mask = _residuals(unmasked, scopes, drawn)
    found: dict[Scope, dict[str, Any]] = {}
    for scope in scopes:
        mean, left_out = weighted_mean(as_it_is[scope], drawn.weight)
        found[scope] = {
            "transitivity_residual": mean,
            "transitivity_left_out": left_out,
            "transitivity_unmasked": weighted_mean(before_mask[scope], drawn.weight)[0],
            "transitivity_quantiles": weighted_quantiles(before_mask[scope], drawn.weight),
            "transitivity_histogram": histogram(before_mask[scope], drawn.weight),
        }
    return found


def _residuals(capture: Captured, scopes: Sequence[Scope], drawn: Triples) -> dict[Scope, Tensor]:
    i, j, k = drawn.row, drawn.mediator, drawn.column
    found = entries(capture, scopes, torch.cat([i, j, i, j]), torch.cat([j, k, k, j]))
    pairs = torch.arange(4 * len(i)).view(4, -1)  # ij, jk, ik, jj
    return {scope: transitivity_residual(*map(found[scope].at, pairs)) for scope in scopes}


def _rank(capture: Captured, scope: Scope, weight: Float[np.ndarray, "L L"]) -> dict[str, Any]:
    found = block_rank(capture, scope, weight)
    ranks, bound, logits, logits_bound = (
        (np.array([]), None, None, None)
        if found is None
        else (found.ranks, found.bound, found.logits, found.logits_bound)
    )
    return {
        "block_rank": _mean(ranks),
        "block_rank_bound": np.nan if bound is None else bound,
        "block_rank_logits": np.nan if logits is None else _mean(logits),
        "block_rank_logits_bound": np.nan if logits_bound is None else logits_bound,
        "block_rank_quantiles": _quantiles(ranks),
    }


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else np.nan


def _quantiles(values: np.ndarray) -> Float[np.ndarray, "q"]:
    finite = values[np.isfinite(values)]
    return np.quantile(finite, QUANTILES) if finite.size else np.full(len(QUANTILES), np.nan)
