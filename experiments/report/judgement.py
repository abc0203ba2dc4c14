"""Each statement judged on a grid's tables: the measurement, its interval, and what they allow to say.

The rule is the same for every statement and was fixed before any result was seen. The number is the mean over bases of
the mean over seeds, with an interval in which the seed is the unit (`statistics.intervals.seed_interval`). The
statement

    holds                 if that interval excludes the value of no effect on the statement's side, and so does the
                          p-value after Holm's correction for all statements that could be measured (0.05);
    does not hold         if both say the opposite;
    cannot be told here   otherwise: the interval includes no effect, Holm's correction leaves it in doubt, a base
                          taken alone says the opposite, or there are no models that could be compared.

A base in which one of the models compared did not leave chance is left out, because it may be short of training rather
than of ability. A base with one seed is left out if others have more. For a correlation, the interval is over models,
and the p-value is the one that permutes whole variants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.tables import number
from experiments.report.effects import EFFECTS, Effect, Tables
from experiments.report.statements import STATEMENTS, Statement
from experiments.report.words import base_labels, by_base, plural, variant_label
from experiments.report.words import p_value as said_p
from experiments.statistics.accuracy import left_chance
from experiments.statistics.association import GROUPS
from experiments.statistics.bases import base_fields, paired_values, strata
from experiments.statistics.intervals import holm, seed_interval

LEVEL = 0.05
Numbers = Mapping[tuple[str, bool], pd.Series]
"""The values of an effect by cell, after training (True) and before it."""

HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot be told here"

_NAN = float("nan")
_COLUMNS = (
    *("measured", "unit", "value", "low", "high", "n", "p_value", "p_holm", "family", "verdict", "shown"),
    "sentence",
)


@dataclass(frozen=True)
class Evidence:
    """The number in one base."""

    base: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Judgement:
    """What a grid says of a statement.

    Attributes:
        statement: the statement.
        measured: the number, in words.
        effect: what the number is of; None for a correlation.
        value, low, high: the number and its 95 % interval; NaN where there is none.
        n: how many pairs of models, or models, it is of.
        p_value: its p-value before Holm's correction.
        note: why a number is not there.
        bases: the number in each base.
        left_out: the bases that were left out, each with the reason.
        before: the number and its interval before training, for an effect that is `probed`.
        further: a sentence to add.
        p_holm: the p-value after Holm's correction over the `family` statements that could be measured.
        family: how many those are.
        verdict: HOLDS, FAILS or UNTOLD.
        sentence: the measurement and the verdict's reason, in words.
    """

    statement: Statement
    measured: str
    effect: Effect | None = None
    value: float = _NAN
    low: float = _NAN
    high: float = _NAN
    n: int = 0
    p_value: float = _NAN
    note: str = ""
    bases: tuple[Evidence, ...] = ()
    left_out: tuple[str, ...] = ()
    before: tuple[float, float, float] | None = None
    further: str = ""
    p_holm: float = _NAN
    family: int = 0
    verdict: str = UNTOLD
    sentence: str = ""

    @property
    def unit(self) -> str:
        return self.effect.unit if self.effect else ""

    def said(self, value: float) -> str:
        return number(value) if self.effect is None else self.effect.shown(value)

    @property
    def shown(self) -> str:
        """The number and its interval, as text."""
        if np.isnan(self.value):
            return "not measured"
        value = f"{self.said(self.value)} {self.unit}".rstrip()
        if np.isnan(self.low):
            return f"{value}, no interval"
        return f"{value} ({self.said(self.low)} to {self.said(self.high)})"


def judge(
    tables: Tables, correlations: pd.DataFrame, statements: Sequence[Statement] = STATEMENTS
) -> tuple[Judgement, ...]:
    """Judge each statement.

    Args:
        tables: a grid's tables, of which cells, predictions and probes are used.
        correlations: what `statistics.association.rank_correlations` makes of them.
        statements: what is judged.
    """
    left = left_chance(tables["cells"])
    numbers = {
        (name, trained): EFFECTS[name].by_cell(tables, trained)
        for name in {statement.effect for statement in statements} - {""}
        for trained in (True, False)
    }
    found = [
        _association(statement, correlations)
        if statement.association
        else _measured(statement, tables["cells"], numbers, left)
        for statement in statements
    ]
    p_values = pd.Series([one.p_value for one in found])
    family = int(p_values.notna().sum())
    corrected = (
        replace(one, p_holm=float(p), family=family) for one, p in zip(found, holm(p_values), strict=True)
    )
    return tuple(map(_decided, corrected))


def judgement_table(judgements: Sequence[Judgement]) -> pd.DataFrame:
    """One row for each statement: id, says, source, and the fields of its judgement that are numbers or text."""
    return pd.DataFrame(
        {
            **{name: getattr(one.statement, name) for name in ("id", "says", "source")},
            **{name: getattr(one, name) for name in _COLUMNS},
            "left_out": "; ".join(one.left_out),
        }
        for one in judgements
    )


def _measured(statement: Statement, cells: pd.DataFrame, numbers: Numbers, left: pd.DataFrame) -> Judgement:
    effect, fields = EFFECTS[statement.effect], base_fields(cells)
    trained = _rows(statement, cells, numbers[statement.effect, True])
    rows, left_out = _without_chance(trained, statement, cells, left)
    alone = rows.groupby(fields, dropna=False)["value"].transform("size") == 1
    if alone.any() and not alone.all():
        left_out += tuple(f"{name} (one seed)" for name in by_base(rows[alone], fields, cells))
        rows = rows[~alone]
    estimate = seed_interval(rows["value"].to_numpy(dtype=float) - statement.null, strata(rows, fields))
    before = None
    if effect.probed and len(rows):
        keys = [*fields, "seed"]
        kept = _rows(statement, cells, numbers[statement.effect, False]).merge(rows[keys], on=keys)
        start = seed_interval(kept["value"].to_numpy(dtype=float) - statement.null, strata(kept, fields))
        before = (start.value + statement.null, start.low + statement.null, start.high + statement.null)
    less = f" less {variant_label(statement.reference)}" if statement.reference else ""
    by_label = {
        label: seed_interval(base["value"].to_numpy(dtype=float))
        for label, base in by_base(rows, fields, cells).items()
    }
    return Judgement(
        statement,
        f"{effect.label}, {variant_label(statement.variant)}{less}",
        effect,
        estimate.value + statement.null,
        estimate.low + statement.null,
        estimate.high + statement.null,
        estimate.n,
        estimate.p_value,
        estimate.note,
        bases=tuple(Evidence(label, one.value, one.low, one.high, one.n) for label, one in by_label.items()),
        left_out=left_out,
        before=before,
    )


def _rows(statement: Statement, cells: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """The statement's number in every base and seed: columns of the base, seed, value."""
    if statement.reference:
        pairs = paired_values(cells, values, statement.variant, statement.reference)
        return pairs.rename(columns={"difference": "value"})
    chosen = cells[cells["variant"] == statement.variant]
    rows = chosen[[*base_fields(cells), "seed"]].assign(value=chosen["cell"].map(values))
    return rows.dropna(subset="value").sort_values("seed", ignore_index=True)


def _without_chance(
    rows: pd.DataFrame, statement: Statement, cells: pd.DataFrame, left: pd.DataFrame
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of bases in which all models compared left chance; and the other bases, with those that did not."""
    fields = base_fields(cells)
    at_chance = left[~left["left"] & left["variant"].isin([statement.variant, statement.reference])]
    guessing: dict[tuple[object, ...], list[str]] = {}
    for key, variant in zip(strata(at_chance, fields), at_chance["variant"], strict=True):
        guessing.setdefault(key, []).append(variant_label(variant))
    keys = strata(rows, fields)
    labels = base_labels(rows, fields, cells)
    named = {label: guessing[key] for label, key in zip(labels, keys, strict=True) if key in guessing}
    said = tuple(f"{label} ({' and '.join(names)} at chance)" for label, names in named.items())
    return rows[~np.array([key in guessing for key in keys], dtype=bool)], said


def _association(statement: Statement, correlations: pd.DataFrame) -> Judgement:
    assert statement.association is not None
    task, quantity = statement.association
    asked = {"task": task, "quantity": quantity, "direction": "mean"}
    chosen = correlations[(correlations[list(asked)] == pd.Series(asked)).all(axis=1)]
    mamba, every = (chosen[chosen["group"] == group] for group in GROUPS)
    named = f"rank correlation of {quantity.replace('_', ' ')} with accuracy of {task}, over trained models"
    if every.empty:
        return Judgement(statement, named, note=f"no models of {task} with this probe")
    row = every.iloc[0]
    return Judgement(
        statement,
        measured=f"{named} of {row['variants']} variants",
        value=float(row["correlation"]),
        low=float(row["low"]),
        high=float(row["high"]),
        n=int(row["cells"]),
        p_value=float(row["p_variants"]),
        note=str(row["note"]),
        further=_within(mamba),
    )


def _within(correlations: pd.DataFrame) -> str:
    """The correlation within Mamba variants, as a sentence: that of all may be due to self-attention alone."""
    known = correlations.dropna(subset=["correlation", "low"])
    if known.empty:
        return ""
    row = known.iloc[0]
    ends = f"{number(row['low'])} to {number(row['high'])}"
    return f"Without self-attention it is {number(row['correlation'])} ({ends}; n = {row['cells']})."


def _side(value: float, low: float, high: float, null: float) -> int:
    """+1 or -1 if the interval lies above or below `null`; 0 if it includes `null` or there is no interval."""
    return int(low > null) - int(high < null)


def _decided(found: Judgement) -> Judgement:
    statement = found.statement
    side = _side(found.value, found.low, found.high, statement.null)
    against = [b.base for b in found.bases if side and _side(b.value, b.low, b.high, statement.null) == -side]
    verdict = UNTOLD
    if np.isnan(found.low):
        reason = f"There is nothing to judge by: {found.note or 'no interval'}."
        if found.left_out and np.isnan(found.value):
            reason = (
                "There is nothing to judge by: there is no base in which the models compared left chance."
            )
    elif not side:
        reach = found.said((found.high - found.low) / 2).lstrip("+")
        reason = (
            f"The interval includes {statement.null:g}, which is no effect; an effect of less than about {reach} "
            "could not have been told."
        )
    elif not found.p_holm < LEVEL:
        reason = (
            f"The interval excludes no effect, but one of {found.family} statements may do so by chance: Holm's p is "
            f"{said_p(found.p_holm)}."
        )
    elif against:
        reason = f"The bases disagree: {', '.join(against)} taken alone says the opposite."
    else:
        verdict = HOLDS if side == statement.sign else FAILS
        reason = f"Holm's p over {found.family} statements is {said_p(found.p_holm)}."
    parts = (_measurement(found), found.further, reason, _start(found, side))
    return replace(found, verdict=verdict, sentence=" ".join(filter(None, parts)))


def _measurement(found: Judgement) -> str:
    said = f"{found.measured[0].upper()}{found.measured[1:]}: {found.shown}"
    if not np.isnan(found.value):
        what = "pairs of models" if found.statement.reference else "models"
        bases = f" in {plural(len(found.bases), 'base')}" if found.bases else ""
        said += f"; n = {found.n} {what}{bases}"
    return f"{said}." + f" Left out: {'; '.join(found.left_out)}." * bool(found.left_out)


def _start(found: Judgement, side: int) -> str:
    """What the same models say before training: whether an effect is learned or due to the structure."""
    if found.before is None or not side or np.isnan(found.before[1]):
        return ""
    value, low, high = map(found.said, found.before)
    said = f"Before training it is {value} ({low} to {high})"
    start = _side(*found.before, found.statement.null)
    if start == side:
        return f"{said}: it is there in the same direction, and need not be learned."
    if start == -side:
        return f"{said}: the effect is the other way round, so it is learned."
    return f"{said}, an interval that includes no effect: the effect comes with training."
