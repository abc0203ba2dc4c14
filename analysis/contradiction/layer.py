"""The four measures of one layer for one clip."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.capture import AttentionCapture, Capture, Family
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

Captured = Capture | AttentionCapture
Key = tuple[int, str, str]
"""Layer, direction, scope."""

PAIRS = 4
"""Triples a mediator and octave of lag."""


def measure_layer(
    family: Family,
    model: nn.Module,
    layer: int,
    hidden: Float[Tensor, "1 L M"],
    directions: Sequence[str],
    scopes: Sequence[Scope],
    mediators: int,
    rng: np.random.Generator,
) -> Iterator[tuple[Key, dict[str, np.ndarray]]]:
    """What every direction and scope of a layer gives, by the names of `analysis.contradiction.measure`.

    Args:
        hidden: the mixer's input, of one clip; directions: those that have it.
        mediators: how many tokens are replaced.
    """
    captures = captured(family, model, layer, hidden, directions)
    margin = reach(captures[0])
    length = hidden.shape[1]
    places = draw_mediators(length, margin, mediators, rng)
    others = replacements(captures[0], places, rng)
    triples = [draw_triples(length, margin, _steps(places, capture), PAIRS, rng) for capture in captures]
    plain = draw_triples(length, 1, draw_mediators(length, 1, mediators, rng), PAIRS, rng)
    sensitivity = Sensitivity(captures, scopes, triples)
    for place, other in zip(places.tolist(), others.tolist(), strict=True):
        changed = substitute(hidden, place, other)
        sensitivity.replaced(place, captured(family, model, layer, changed, directions))
    similarity = cosine(hidden[0])
    for capture, drawn in zip(captures, triples, strict=True):
        transitivity = _transitivity(capture, scopes, _related(capture, mediators, rng) or plain)
        for scope in scopes:
            weight, mass = direction_mass(capture, scope, similarity)
            found = {
                **sensitivity.values(capture, scope, drawn),
                **transitivity[scope],
                **_rank(capture, scope, weight),
                "contradictory_observed": mass.observed,
                "contradictory_expected": mass.expected,
                "contradictory_quantiles": _quantiles(mass.rows),
            }
            key = (layer, capture.direction, scope)
            yield key, {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}


def captured(
    family: Family, model: nn.Module, layer: int, hidden: Float[Tensor, "1 L M"], directions: Sequence[str]
) -> list[Captured]:
    """What these directions of a layer use for an input."""
    return [c for c in family.captures(model, layer, hidden) if c.direction in directions]


def reach(capture: Captured) -> int:
    """The least distance at which no token feels another through the convolution: its width, or 1 without one."""
    return capture.reach


def replacements(
    capture: Captured, places: Int[np.ndarray, " j"], rng: np.random.Generator
) -> Int[np.ndarray, " j"]:
    """For each place the position of another token of the clip, drawn among all that take part in the layer.

    In attention over time the class token does not, and its place in the input holds zeros.
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
    """The layer's input with one token replaced by another of the clip."""
    changed = hidden.clone()
    changed[:, place] = hidden[:, other]
    return changed


def direction_mass(
    capture: Captured, scope: Scope, similarity: Float[np.ndarray, "L L"]
) -> tuple[Float[np.ndarray, "L L"], Mass]:
    """W of one direction, in the order of the sequence, and its contradictory mass."""
    matrix = scoped(capture, scope)
    weight = reduce(matrix, [AbsoluteMean()])["AbsoluteMean"][0].double().cpu().numpy()
    sees = matrix.sees(slice(0, matrix.length)).cpu().numpy()
    return weight, contradictory_mass(weight, sees, similarity)


def reversed_steps(capture: Captured) -> bool:
    """Whether the steps of the scan run from the last token to the first."""
    return capture.reversed


def _related(capture: Captured, mediators: int, rng: np.random.Generator) -> Triples | None:
    """Triples of pairs that the layer may relate, where it forbids more than what comes after; else None.

    A triple with a forbidden pair has a residual of 1 whatever the layer learned.
    """
    allowed = capture.allowed if isinstance(capture, AttentionCapture) else None
    length = capture.hidden.shape[1]
    if allowed is None or bool(allowed.tril().sum() == length * (length + 1) // 2):
        return None
    places = draw_mediators(length, 1, mediators, rng)
    return related_triples(allowed, places, PAIRS * octaves(length), rng)


def _steps(places: Int[np.ndarray, " j"], capture: Captured) -> Int[np.ndarray, " j"]:
    """Positions in the sequence as steps of the scan, or the other way round."""
    return capture.hidden.shape[1] - 1 - places if reversed_steps(capture) else places


class Sensitivity:
    """Collects how the entries of each direction and scope change as mediators are replaced, one after the other.

    Every run of the layer is of one clip, so that untouched tokens go through the same arithmetic to the last bit.
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
        """Take what the layer gives with the token at ``place`` replaced."""
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
        """Mediator sensitivity of one direction and scope."""
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
        before_mask = _residuals(_unmasked(capture), scopes, drawn)
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


def _unmasked(capture: Capture) -> Capture:
    return replace(capture, terms=replace(capture.terms, mask_diagonal=False))


def _residuals(capture: Captured, scopes: Sequence[Scope], drawn: Triples) -> dict[Scope, Tensor]:
    i, j, k = drawn.row, drawn.mediator, drawn.column
    ij, jk, ik, jj = (entries(capture, scopes, *pair) for pair in ((i, j), (j, k), (i, k), (j, j)))
    return {s: transitivity_residual(ij[s], jk[s], ik[s], jj[s]) for s in scopes}


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
