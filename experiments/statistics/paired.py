"""Paired differences to a reference variant: over seeds, over test clips, and corrected for their number."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from analysis.intervals import LEVEL, percentile_interval
from experiments.statistics.bases import REFERENCE, base_fields, ordered
from experiments.statistics.intervals import holm, seed_interval
from experiments.statistics.mcnemar import mcnemar_counts

RESAMPLES = 2000

_COLUMNS = (
    *("difference", "low", "high", "seed_low", "seed_high", "sd", "n", "clips", "wins", "losses"),
    *("statistic", "exact", "p_value", "p_holm", "family", "note"),
)


@dataclass(frozen=True, eq=False)
class Pair:
    """Whether each of two models of one base and seed told each clip right; clips are in the order of their names."""

    one: Bool[np.ndarray, " n"]
    other: Bool[np.ndarray, " n"]


def paired_differences(
    cells: pd.DataFrame,
    predictions: pd.DataFrame,
    reference: str = REFERENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of each variant less that of `reference` in the same base, seed by seed and clip by clip.

    A bootstrap over 3 seeds is too narrow: drawing from 3 values has a variance of 2/3 of theirs and tails no longer
    than they are. Where seeds differ much more than clips of a seed, it includes the truth in about 3 of 4 grids;
    Student's interval does in 19 of 20, and tells whether a variant differs. McNemar's test speaks of the trained
    models at hand (`mcnemar_counts`).

    Returns:
        Columns: those of `base_fields`; variant; reference;
          difference            the mean over seeds, as a fraction
          low, high             95 % bootstrap interval: seeds are drawn and, within them, test clips; both models of a
                                seed are on the same draw, and each seed has its own, as it is judged on its own clips
          seed_low, seed_high   Student's 95 % interval over seeds of the differences; NaN where there is none
          sd, n, clips          standard deviation of the differences over seeds; seeds; pooled pairs of predictions
          wins, losses          pooled clips that the variant alone, and the reference alone, told right
          statistic, exact, p_value   McNemar's test on the pooled clips, and whether it is exact
          p_holm, family        corrected by Holm for all rows of the table, of which there are `family`
          note                  what a reader has to know of a row

    Raises:
        ValueError: if two models of one seed were judged on different clips.

    Source: Efron, Annals of Statistics 7, 1979; Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    base = base_fields(cells)
    keys = [*base, "variant", "reference"]
    rows = []
    for key, pairs, absent in _pairs(cells, predictions, base, reference):
        fields = dict(zip(keys, (*key, reference), strict=True))
        rows.append({**fields, **_difference(pairs, absent, resamples, seed)})
    table = pd.DataFrame(rows, columns=[*keys, *_COLUMNS])
    table["family"] = len(table)
    table["p_holm"] = holm(table["p_value"])
    return ordered(table, keys)


def _pairs(
    cells: pd.DataFrame, predictions: pd.DataFrame, base: list[str], reference: str
) -> Iterator[tuple[tuple[object, ...], list[Pair], str]]:
    """For each base and variant: its fields, a pair for each seed that both have, and the seeds that one lacks."""
    in_order = predictions.sort_values("clip", kind="stable").set_index("clip")
    hits = dict(iter(in_order.groupby("cell")["correct"]))
    for key, group in cells.groupby(base, dropna=False):
        by_variant = {name: part.set_index("seed")["cell"] for name, part in group.groupby("variant")}
        others = by_variant.pop(reference, None)
        if others is None:
            continue
        for variant, ones in by_variant.items():
            both = sorted(set(ones.index) & set(others.index))
            absent = ", ".join(map(str, sorted(set(ones.index) ^ set(others.index))))
            pairs = [_pair(hits[ones[seed]], hits[others[seed]], ones[seed], others[seed]) for seed in both]
            if pairs:
                yield (*key, variant), pairs, absent


def _pair(one: pd.Series, other: pd.Series, name: str, partner: str) -> Pair:
    if not one.index.equals(other.index):
        raise ValueError(
            f"cells {name} and {partner}: judged on different clips; a paired comparison needs the same"
        )
    return Pair(one.to_numpy(dtype=bool), other.to_numpy(dtype=bool))


def _difference(pairs: list[Pair], absent: str, resamples: int, seed: int) -> dict[str, object]:
    found = seed_interval([pair.one.mean() - pair.other.mean() for pair in pairs])
    low, high, _ = percentile_interval(_draws(pairs, resamples, seed), LEVEL)
    one, other = (np.concatenate([getattr(pair, side) for pair in pairs]) for side in ("one", "other"))
    test = mcnemar_counts(one, other)
    notes = ["one seed: intervals over test clips alone" if len(pairs) == 1 else found.note]
    if absent:
        notes.append(f"seeds without a partner: {absent}")
    return {
        "difference": found.value,
        "low": float(low),
        "high": float(high),
        "seed_low": found.low,
        "seed_high": found.high,
        "sd": found.sd,
        "n": found.n,
        "clips": test.clips,
        "wins": test.only_one,
        "losses": test.only_other,
        "statistic": test.statistic,
        "exact": test.exact,
        "p_value": test.p_value,
        "note": "; ".join(filter(None, notes)),
    }


def _draws(pairs: list[Pair], resamples: int, seed: int) -> Float[np.ndarray, " R"]:
    """Bootstrap draws of the mean over seeds of the mean over clips of one model's hits less the other's."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(pairs), size=(resamples, len(pairs)))
    # Differences of clips are 0, 1 or -1, so how often each is drawn says it all; a seed drawn twice has its clips
    # drawn twice. With 0 first, swapping the models turns the sign of every draw.
    clips = np.array([len(pair.one) for pair in pairs])
    wins, losses = (
        np.array([(getattr(p, right) & ~getattr(p, wrong)).sum() for p in pairs])
        for right, wrong in (("one", "other"), ("other", "one"))
    )
    shares = np.stack([clips - wins - losses, wins, losses], axis=-1) / clips[:, None]
    counts = rng.multinomial(clips[drawn], shares[drawn])
    return ((counts[..., 1] - counts[..., 2]) / clips[drawn]).mean(axis=1)
