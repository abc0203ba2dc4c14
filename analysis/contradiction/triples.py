"""Triples of tokens i > j > k to take means over: stratified by lag, seeded, with the weight that each stands for."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Triples:
    """P triples, in steps of the scan, 0-based.

    Attributes:
        row, mediator, column: i, j, k.
        other: another key l <= i of row i, outside the same reach of j and not k.
        octave: floor(log2(i - k)).
        weight: how many triples of its mediator and octave each stands for, so that a weighted mean estimates the
            mean over all triples.
    """

    row: Int[Tensor, " P"]
    mediator: Int[Tensor, " P"]
    column: Int[Tensor, " P"]
    other: Int[Tensor, " P"]
    octave: Int[Tensor, " P"]
    weight: Float[Tensor, " P"]

    def around(self, mediator: int) -> Int[Tensor, " p"]:
        """Which triples have this mediator."""
        return (self.mediator == mediator).nonzero().flatten()


def octaves(length: int) -> int:
    """How many octaves of lag a sequence has: [1, 2), [2, 4), ... up to its length."""
    return max(length - 1, 0).bit_length()


def draw_mediators(length: int, margin: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, " j"]:
    """At most `count` positions, each once, that have a token `margin` or more away on either side.

    None where the sequence has fewer than 2 `margin` + 1 tokens.
    """
    possible = np.arange(margin, length - margin)
    return np.sort(rng.choice(possible, min(count, len(possible)), replace=False))


def draw_triples(
    length: int, margin: int, mediators: Int[np.ndarray, " j"], count: int, rng: np.random.Generator
) -> Triples:
    """`count` triples for each mediator and octave of the lag i - k, uniform over those there are.

    Args:
        margin: i and k are at least that far from j: 1, or the width of a convolution that is to be kept out.
        mediators: j, in steps.
    """
    drawn: list[tuple[int, int, int, int, int, float]] = []
    for j in mediators.tolist():
        lags = np.arange(length)
        # i runs over [first, last], as k = i - lag has to lie in [0, j - margin].
        first, last = np.maximum(j + margin, lags), np.minimum(length - 1, j - margin + lags)
        pairs = np.maximum(last - first + 1, 0) * (lags >= 2 * margin)
        for octave in range(octaves(length)):
            here = lags[2**octave : 2 ** (octave + 1)]
            there = pairs[here].sum()
            if there == 0:
                continue
            for lag in rng.choice(here, count, p=pairs[here] / there):
                i = int(rng.integers(first[lag], last[lag] + 1))
                k = i - int(lag)
                drawn.append((i, j, k, _other(i, j, k, margin, rng), octave, float(there / count)))
    row, mediator, column, other, octave = (
        torch.tensor([whole[:5] for whole in drawn], dtype=torch.long).reshape(-1, 5).T
    )
    weight = torch.tensor([whole[5] for whole in drawn], dtype=torch.float64)
    return Triples(row, mediator, column, other, octave, weight)


def related_triples(
    allowed: Bool[Tensor, "L L"], mediators: Int[np.ndarray, " j"], count: int, rng: np.random.Generator
) -> Triples:
    """`count` triples for each mediator, uniform over those all of whose pairs the layer may relate.

    Args:
        allowed: which columns each row may see, such as those of its patch or of its frame alone.
    """
    may = allowed.cpu().numpy()
    drawn, weights = [np.zeros((0, 3), dtype=int)], [np.zeros(0)]
    for j in mediators[may[mediators, mediators]].tolist():
        i, k = np.nonzero(may[j + 1 :, j, None] & may[j, :j] & may[j + 1 :, :j])
        if len(i) == 0:
            continue
        chosen = rng.integers(len(i), size=count)
        drawn.append(np.stack([i[chosen] + j + 1, np.full(count, j), k[chosen]], 1))
        weights.append(np.full(count, len(i) / count))
    row, mediator, column = torch.from_numpy(np.concatenate(drawn)).T
    octave = torch.tensor([int(lag).bit_length() - 1 for lag in row - column], dtype=torch.long)
    return Triples(row, mediator, column, row, octave, torch.from_numpy(np.concatenate(weights)))


def _other(i: int, j: int, k: int, margin: int, rng: np.random.Generator) -> int:
    """A key of row i, uniform over those at least `margin` from j but k itself; i where there is no other."""
    before, after = j - margin + 1, i - (j + margin) + 1
    place = int(rng.integers(before - 1 + after))
    if place < before - 1:
        return place + (place >= k)
    return j + margin + place - (before - 1)
