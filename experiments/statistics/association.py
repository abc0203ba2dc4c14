"""Does a probe's number go with a task's accuracy? Rank correlation over cells."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from analysis.intervals import LEVEL, MOST_UNDEFINED, percentile_interval
from experiments.statistics.bases import base_fields, can_read, groups, ordered
from experiments.statistics.intervals import holm
from experiments.statistics.paired import RESAMPLES

SCAN_DIRECTIONS = {"both j<=i": "forward", "both j>=i": "backward"}
"""Self-attention's sides, by the direction of the scan that could carry the same keys (docs/math.md, section 3)."""

CORRELATED: Mapping[str, str] = {
    "decay_index_tokens": "contribution",
    "decay_index_frames": "contribution",
    "half_life_tokens": "contribution",
    "effective_context_tokens": "contribution",
    "contradictory_mass": "contribution",
    "mediator_sensitivity": "ssm",
    "transitivity_unmasked": "ssm",
    "block_rank": "ssm",
}
"""The quantities that are put to accuracy, each in one scope: in contributions, where scans and self-attention are
alike, or where its definition stands (docs/math.md, sections 2 to 4). Chosen before any result, as every further one
makes Holm's correction of all harsher. The transitivity residual is that before the mask: after it, it is 1."""

PERMUTATIONS = 20_000

GROUPS = ("Mamba variants", "all variants")
MOST_VARIANTS = 8
"""All orders of this many variants are counted out."""

_COLUMNS = (
    *("correlation", "low", "high", "cells", "blocks", "variants"),
    *("p_value", "p_holm", "family", "p_variants", "p_variants_holm", "note"),
)


def cell_probes(probes: pd.DataFrame, trained: bool = True) -> pd.DataFrame:
    """Each cell's number of every quantity: the mean over layers, by direction and over directions.

    A gap in a layer is left out of the mean; a quantity that is infinite in a layer (a half-life beyond the sequence)
    is infinite. Self-attention's sides stand under the direction of the scan that could carry the same keys, and its
    whole rows under "both", which no scan has. Direction "mean" is the mean of forward and backward, whichever there
    are; where self-attention has a quantity of whole rows alone (contradictory mass), it is that of the whole rows.

    Returns:
        Columns: cell, probe, scope, quantity, unit, direction, value.
    """
    keys = ["cell", "probe", "scope", "quantity", "unit"]
    rows = probes[(probes["trained"] == trained) & probes["value"].notna()]
    rows = rows.assign(direction=rows["direction"].replace(SCAN_DIRECTIONS))
    by_direction = rows.groupby([*keys, "direction"], as_index=False)["value"].mean()
    is_side = by_direction["direction"] != "both"
    sided = is_side.groupby([by_direction[key] for key in keys]).transform("any")
    over = (
        by_direction[is_side | ~sided].groupby(keys, as_index=False)["value"].mean().assign(direction="mean")
    )
    return ordered(pd.concat([by_direction, over], ignore_index=True), [*keys, "direction"])


def rank_correlations(
    cells: pd.DataFrame,
    probes: pd.DataFrame,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's rank correlation, over cells of a task, of each probe's number (CORRELATED) with accuracy.

    What all variants share is taken out first: cells are ranked within their block, which is one base (frames, class
    token, ...) and seed, and the correlation is that of the centred ranks of all blocks together. So no difference
    between clips of more or fewer frames, or between seeds, passes for one between models. Cells that cannot see a
    frame (`can_read`) are left out, as their accuracy is chance whatever a probe says.

    The result is an association over few variants that differ in known ways. It is no proof that what a probe measures
    is the reason.

    Returns:
        Columns: task; group (Mamba variants, or all with self-attention); probe; scope; quantity; unit; direction;
          correlation   in [-1, 1]; NaN where either never varies within a block
          low, high     95 % bootstrap interval: cells are drawn anew within each block, and taken for independent; NaN
                        where more than MOST_UNDEFINED of the draws leave the correlation undefined
          cells, blocks, variants   how many; blocks of one cell say nothing and are not counted
          p_value       two-sided, by permutation of cells within blocks (add-one): could the accuracies of one seed
                        have gone with any of its models? It takes the cells of one variant for independent
          p_variants    two-sided, by permutation of variants with all their cells: could the variants' accuracies have
                        gone with any of them? Every order of at most 8 variants is counted, so it is exact; variants
                        that not every block has are left out. With k of them it cannot be below 2 / k! but for ties.
                        It is the one that speaks of variants
          p_holm, p_variants_holm, family   each corrected by Holm for the table, in which `family` rows have a p-value
          note          why a number is not there

    Source: Spearman 1904; ours for the blocks.
    """
    numbers = cell_probes(probes)
    numbers = numbers[
        (numbers["scope"] == numbers["quantity"].map(CORRELATED)) & (numbers["direction"] != "both")
    ]
    keep = cells[can_read(cells)]
    keys = ["task", "group", "probe", "scope", "quantity", "unit", "direction"]
    block_fields = [*(name for name in base_fields(cells) if name != "task"), "seed"]
    rows = []
    for task, group, chosen in _groups(keep):
        merged = numbers.merge(chosen, on="cell").sort_values("variant", kind="stable")
        for key, table in groups(merged, keys[2:]):
            if group == GROUPS[1] and "attention" not in set(table["variant"]):
                continue  # Self-attention has no such number: the cells are those of the Mamba variants.
            found = _correlation(_blocks(table, block_fields), resamples, permutations, seed)
            rows.append({"task": task, "group": group, **key, **found})
    table = pd.DataFrame(rows, columns=[*keys, *_COLUMNS])
    table["family"] = int(table["p_value"].notna().sum())
    table["p_holm"] = holm(table["p_value"])
    table["p_variants_holm"] = holm(table["p_variants"])
    return ordered(table, keys)


def _groups(cells: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for task, chosen in cells.groupby("task"):
        mamba = chosen[chosen["variant"] != "attention"]
        yield str(task), GROUPS[0], mamba
        if len(mamba) < len(chosen):
            yield str(task), GROUPS[1], chosen


@dataclass(frozen=True, eq=False)
class Stratum:
    """Cells of one base and seed: their variants, a probe's numbers, and accuracies, in the order of variants."""

    variants: tuple[str, ...]
    probe: Float[np.ndarray, " k"]
    accuracy: Float[np.ndarray, " k"]


def _blocks(table: pd.DataFrame, fields: list[str]) -> list[Stratum]:
    blocks = (group for _, group in groups(table, fields) if len(group) > 1)
    return [
        Stratum(tuple(b["variant"]), b["value"].to_numpy(dtype=float), b["accuracy"].to_numpy(dtype=float))
        for b in blocks
    ]


def blocked_correlation(
    probe: Float[np.ndarray, "R k"], accuracy: Float[np.ndarray, "R k"]
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """Sums of products and of squares of centred ranks in one block, for each of R rows."""
    one, other = (stats.rankdata(values, axis=1) for values in (probe, accuracy))
    one, other = one - one.mean(axis=1, keepdims=True), other - other.mean(axis=1, keepdims=True)
    return (one * other).sum(axis=1), (one**2).sum(axis=1), (other**2).sum(axis=1)


def _correlation(blocks: list[Stratum], resamples: int, permutations: int, seed: int) -> dict[str, object]:
    nothing = float("nan")
    variants = sorted({name for block in blocks for name in block.variants})
    row = {
        **dict.fromkeys(("correlation", "low", "high", "p_value", "p_variants"), nothing),
        "cells": sum(len(block.variants) for block in blocks),
        "blocks": len(blocks),
        "variants": len(variants),
        "note": "",
    }
    value = _pooled([blocked_correlation(b.probe[None], b.accuracy[None]) for b in blocks])
    if not blocks or np.isnan(value[0]):
        return row | {"note": "the probe or the accuracy never varies within a base and seed"}
    rng = np.random.default_rng(seed)
    low, high, undefined = percentile_interval(_pooled([_drawn(b, resamples, rng) for b in blocks]), LEVEL)
    permuted = _pooled([_permuted(b, permutations, rng) for b in blocks])
    # Equal correlations may differ by rounding, and count as no less extreme.
    extreme = int((np.abs(permuted) >= abs(value[0]) - 1e-12).sum())
    told = undefined <= MOST_UNDEFINED
    row |= {
        "correlation": float(value[0]),
        "low": float(low) if told else nothing,
        "high": float(high) if told else nothing,
        "p_value": (1 + extreme) / (1 + permutations),
        "p_variants": _p_variants(blocks),
    }
    if undefined > 0:
        row["note"] = (
            f"{'' if told else 'no interval: '}undefined in {100 * float(undefined):.1f} % of resamples"
        )
    return row


def _pooled(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Float[np.ndarray, " R"]:
    if not parts:
        return np.full(1, np.nan)
    product, one, other = (np.sum(terms, axis=0) for terms in zip(*parts, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return product / np.sqrt(one * other)


def _drawn(
    block: Stratum, resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cells = rng.integers(len(block.variants), size=(resamples, len(block.variants)))
    return blocked_correlation(block.probe[cells], block.accuracy[cells])


def _permuted(
    block: Stratum, permutations: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    one, other = (stats.rankdata(values) for values in (block.probe, block.accuracy))
    one, other = one - one.mean(), other - other.mean()
    shuffled = rng.permuted(np.tile(other, (permutations, 1)), axis=1)
    return shuffled @ one, np.sum(one**2), np.sum(other**2)


def _p_variants(blocks: list[Stratum]) -> float:
    """The share of orders of the variants whose correlation is no less extreme, over variants that every block has.

    With X and Y the centred ranks by block and variant, an order s has the correlation's numerator
    sum_b sum_v X_bv Y_bs(v) = sum_v (X^T Y)_vs(v); its denominator is the same for all.
    """
    shared = set.intersection(*(set(block.variants) for block in blocks))
    if not 2 <= len(shared) <= MOST_VARIANTS:
        return float("nan")
    kept = [np.array([name in shared for name in block.variants]) for block in blocks]
    probe, accuracy = (
        np.stack(
            [stats.rankdata(getattr(block, name)[keep]) for block, keep in zip(blocks, kept, strict=True)]
        )
        - (len(shared) + 1) / 2
        for name in ("probe", "accuracy")
    )
    products = probe.T @ accuracy
    orders = _orders(len(shared))
    found = products[np.arange(len(shared)), orders].sum(axis=1)
    return float((np.abs(found) >= abs(np.trace(products)) - 1e-9).mean())


@functools.cache
def _orders(count: int) -> Int[np.ndarray, "orders count"]:
    return np.array(list(itertools.permutations(range(count))))
