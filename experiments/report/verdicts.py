"""Each claim judged on a grid's tables: the measurement, its interval, and what they allow to say.

The rule, the same for every claim and fixed before any result was seen. The number is the mean over bases of the mean
over seeds, with an interval in which the seed is the unit (`experiments.statistics.seed_interval`). The claim

    holds          where that interval excludes the claim's value of no effect on the claim's side, and the p-value
                   does after Holm's correction for all claims that could be measured (0.05);
    does not hold  where both say the opposite;
    cannot be told here   otherwise: the interval holds no effect, or Holm's correction leaves it in doubt, or a base
                   taken alone says the opposite, or there are no models that could be compared.

A base in which one of the models compared did not leave chance is left out: it may be short of training rather than of
ability. So is one with one seed where others have more.

Of a correlation the interval is over models, and the p-value the one that permutes whole variants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from analysis.tables import number
from experiments.report.claims import CLAIMS, Claim
from experiments.report.measures import MEASURES, Measure, Tables
from experiments.report.names import base_labels, variant_label
from experiments.report.numbers import p_value as said_p
from experiments.statistics import (
    GROUPS,
    base_fields,
    holm,
    left_chance,
    paired_values,
    seed_interval,
    strata,
)

LEVEL = 0.05
Numbers = Mapping[tuple[str, bool], pd.Series]
"""A measure's values by cell, after training and before."""

HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot be told here"


@dataclass(frozen=True)
class Evidence:
    """The number in one base."""

    base: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Verdict:
    """What a grid says of a claim.

    Attributes:
        measured: the number, in words; unit: what `shown` writes it in.
        value, low, high: the number and its 95 % interval; NaN where there is none.
        n: pairs of models, or models.
        p_value, p_holm: before and after Holm's correction over the `family` claims that could be measured.
        verdict: HOLDS, FAILS or UNTOLD; sentence: that says it, with its reason.
        shown: the number and its interval, as text.
        bases: the number in each base; left_out: bases, and why.
    """

    claim: Claim
    measured: str
    unit: str
    value: float
    low: float
    high: float
    n: int
    p_value: float
    p_holm: float
    family: int
    verdict: str
    shown: str
    sentence: str
    bases: tuple[Evidence, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """A claim's number before Holm's correction."""

    measured: str
    measure: Measure | None
    value: float
    low: float
    high: float
    n: int
    p_value: float
    note: str
    bases: tuple[Evidence, ...] = ()
    left_out: tuple[str, ...] = ()
    before: tuple[float, float, float] | None = None
    further: str = ""

    def said(self, value: float) -> str:
        return number(value) if self.measure is None else self.measure.shown(value)

    @property
    def shown(self) -> str:
        if np.isnan(self.value):
            return "not measured"
        unit = f" {self.measure.unit}" if self.measure and self.measure.unit else ""
        if np.isnan(self.low):
            return f"{self.said(self.value)}{unit}, no interval"
        return f"{self.said(self.value)}{unit} ({self.said(self.low)} to {self.said(self.high)})"


def judge(
    tables: Tables, correlations: pd.DataFrame, claims: Sequence[Claim] = CLAIMS
) -> tuple[Verdict, ...]:
    """The verdict on each claim.

    Args:
        tables: a grid's, of which cells, predictions and probes are used.
        correlations: what `experiments.statistics.rank_correlations` makes of them.
    """
    left = left_chance(tables["cells"])
    used = {claim.measure for claim in claims if claim.measure}
    numbers = {
        (name, trained): MEASURES[name].by_cell(tables, trained) for name in used for trained in (True, False)
    }
    found = [
        _association(claim, correlations)
        if claim.association
        else _measure(claim, tables["cells"], numbers, left)
        for claim in claims
    ]
    p_values = pd.Series([one.p_value for one in found])
    family, corrected = int(p_values.notna().sum()), holm(p_values)
    return tuple(
        _verdict(claim, one, float(p_holm), family)
        for claim, one, p_holm in zip(claims, found, corrected, strict=True)
    )


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A row a claim: id, says, source, and the fields of its verdict that are numbers or text."""
    rows = []
    for verdict in verdicts:
        fields = {name: value for name, value in asdict(verdict).items() if name not in ("claim", "bases")}
        fields["left_out"] = "; ".join(verdict.left_out)
        claim = verdict.claim
        rows.append({"id": claim.id, "says": claim.says, "source": claim.source, **fields})
    return pd.DataFrame(rows)


def _measure(claim: Claim, cells: pd.DataFrame, numbers: Numbers, left: pd.DataFrame) -> _Found:
    measure = MEASURES[claim.measure]
    fields = base_fields(cells)
    rows, left_out = _without_chance(_rows(claim, cells, numbers[claim.measure, True]), claim, cells, left)
    alone = rows.groupby(fields, dropna=False)["value"].transform("size") == 1
    if alone.any() and not alone.all():
        names = dict.fromkeys(base_labels(rows[alone], fields, cells))
        left_out += tuple(f"{name} (one seed)" for name in names)
        rows = rows[~alone]
    estimate = seed_interval(rows["value"].to_numpy(dtype=float) - claim.null, strata(rows, fields))
    before = None
    if measure.probed and len(rows):
        kept = _rows(claim, cells, numbers[claim.measure, False]).merge(
            rows[[*fields, "seed"]], on=[*fields, "seed"]
        )
        start = seed_interval(kept["value"].to_numpy(dtype=float) - claim.null, strata(kept, fields))
        before = (start.value + claim.null, start.low + claim.null, start.high + claim.null)
    less = f", {variant_label(claim.variant)}"
    less += f" less {variant_label(claim.reference)}" if claim.reference else ""
    return _Found(
        measured=measure.label + less,
        measure=measure,
        value=estimate.value + claim.null,
        low=estimate.low + claim.null,
        high=estimate.high + claim.null,
        n=estimate.n,
        p_value=estimate.p_value,
        note=estimate.note,
        bases=tuple(_by_base(rows, fields, cells)),
        left_out=left_out,
        before=before,
    )


def _rows(claim: Claim, cells: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """The claim's number in every base and seed: columns of the base, seed, value."""
    if claim.reference:
        pairs = paired_values(cells, values, claim.variant, claim.reference)
        return pairs.rename(columns={"difference": "value"})
    chosen = cells[cells["variant"] == claim.variant]
    rows = chosen[[*base_fields(cells), "seed"]].assign(value=chosen["cell"].map(values))
    return rows.dropna(subset="value").sort_values("seed", ignore_index=True)


def _without_chance(
    rows: pd.DataFrame, claim: Claim, cells: pd.DataFrame, left: pd.DataFrame
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of bases in which all models compared left chance, and which did not."""
    fields = base_fields(cells)
    compared = [claim.variant, *([claim.reference] if claim.reference else [])]
    at_chance = left[~left["left"] & left["variant"].isin(compared)]
    guessing: dict[tuple[object, ...], list[str]] = {}
    for key, variant in zip(strata(at_chance, fields), at_chance["variant"], strict=True):
        guessing.setdefault(key, []).append(variant_label(variant))
    keys = strata(rows, fields)
    out = np.array([key in guessing for key in keys], dtype=bool)
    labels = base_labels(rows, fields, cells)
    named = {label: guessing[key] for label, key in zip(labels, keys, strict=True) if key in guessing}
    said = tuple(f"{label} ({' and '.join(names)} at chance)" for label, names in named.items())
    return rows[~out], said


def _by_base(rows: pd.DataFrame, fields: list[str], cells: pd.DataFrame) -> list[Evidence]:
    labels = base_labels(rows, fields, cells)
    found = []
    for label in dict.fromkeys(labels):
        one = seed_interval(rows.loc[labels == label, "value"].to_numpy(dtype=float))
        found.append(Evidence(label, one.value, one.low, one.high, one.n))
    return found


def _association(claim: Claim, correlations: pd.DataFrame) -> _Found:
    assert claim.association is not None
    task, quantity = claim.association
    chosen = correlations[
        (correlations["task"] == task)
        & (correlations["quantity"] == quantity)
        & (correlations["direction"] == "mean")
    ]
    mamba, chosen = (chosen[chosen["group"] == group] for group in GROUPS)
    named = f"rank correlation of {quantity.replace('_', ' ')} with accuracy of {task}, over trained models"
    if chosen.empty:
        nothing = float("nan")
        return _Found(
            named, None, nothing, nothing, nothing, 0, nothing, f"no models of {task} with this probe"
        )
    row = chosen.iloc[0]
    return _Found(
        measured=f"{named} of {row['variants']} variants",
        measure=None,
        value=float(row["correlation"]),
        low=float(row["low"]),
        high=float(row["high"]),
        n=int(row["cells"]),
        p_value=float(row["p_variants"]),
        note=str(row["note"]),
        further=_within(mamba),
    )


def _within(correlations: pd.DataFrame) -> str:
    """The correlation within Mamba variants, as a sentence: the other may be all self-attention's doing."""
    known = correlations.dropna(subset=["correlation", "low"])
    if known.empty:
        return ""
    row = known.iloc[0]
    ends = f"{number(row['low'])} to {number(row['high'])}"
    return f"Without self-attention it is {number(row['correlation'])} ({ends}; n = {row['cells']})."


def _side(value: float, low: float, high: float, null: float) -> int:
    """+1 or -1 where an interval lies above or below `null`, else 0; 0 where there is none."""
    return int(low > null) - int(high < null)


def _verdict(claim: Claim, found: _Found, p_holm: float, family: int) -> Verdict:
    side = _side(found.value, found.low, found.high, claim.null)
    against = [b.base for b in found.bases if side and _side(b.value, b.low, b.high, claim.null) == -side]
    if np.isnan(found.low):
        verdict, reason = UNTOLD, f"There is nothing to judge by: {found.note or 'no interval'}."
        if found.left_out and np.isnan(found.value):
            reason = "There is nothing to judge by: no base in which the models compared left chance."
    elif not side:
        reach = found.said((found.high - found.low) / 2).lstrip("+")
        verdict = UNTOLD
        reason = (
            f"The interval holds {claim.null:g}, no effect; an effect of less than about {reach} could not "
        )
        reason += "have been told."
    elif not p_holm < LEVEL:
        verdict = UNTOLD
        reason = (
            f"The interval excludes no effect, but of {family} claims one may do so by chance: Holm's p is "
        )
        reason += f"{said_p(p_holm)}."
    elif against:
        verdict, reason = UNTOLD, f"The bases disagree: {', '.join(against)} taken alone says the opposite."
    else:
        verdict = HOLDS if side == claim.sign else FAILS
        reason = f"Holm's p over {family} claims is {said_p(p_holm)}."
    return Verdict(
        claim=claim,
        measured=found.measured,
        unit=found.measure.unit if found.measure else "",
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        p_value=found.p_value,
        p_holm=p_holm,
        family=family,
        verdict=verdict,
        shown=found.shown,
        sentence=" ".join(
            filter(None, (_measurement(claim, found), found.further, reason, _start(claim, found, side)))
        ),
        bases=found.bases,
        left_out=found.left_out,
    )


def _measurement(claim: Claim, found: _Found) -> str:
    what = "pairs of models" if claim.reference else "models"
    bases = f" in {len(found.bases)} base{'s' * (len(found.bases) != 1)}" if found.bases else ""
    out = f" Left out: {'; '.join(found.left_out)}." if found.left_out else ""
    if np.isnan(found.value):
        return f"{found.measured[0].upper()}{found.measured[1:]}: not measured.{out}"
    return (
        f"{found.measured[0].upper()}{found.measured[1:]}: {found.shown}; n = {found.n} {what}{bases}.{out}"
    )


def _start(claim: Claim, found: _Found, side: int) -> str:
    """What the same models say of the claim before training: whether it is learned or of the structure."""
    if found.before is None or not side or np.isnan(found.before[1]):
        return ""
    value, low, high = map(found.said, found.before)
    said = f"Before training it is {value} ({low} to {high})"
    start = _side(*found.before, claim.null)
    if start == side:
        return f"{said}: it is there in the same direction, and need not be learned."
    if start == -side:
        return f"{said}: the other way round, so it is learned."
    return f"{said}, an interval that holds no effect: it comes with training."
