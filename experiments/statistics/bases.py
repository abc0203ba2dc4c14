"""What the columns of a grid's tables mean to its statistics: bases, orders, and values paired by seed."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from experiments.data.relation import MEDIATORS
from experiments.data.tasks import CONTROLLED
from vmp.config import VARIANTS, variant_switches

REFERENCE = "videomamba"
"""The variant that others are compared with."""

ALWAYS = ("task", "frames", "class_token")
_OUTCOMES = frozenset(
    {"cell", "variant", "seed", "parameters", "chance", "blind", "n_test", "accuracy", "weights_sha256"}
)
_ORDERS = {
    "task": tuple(CONTROLLED),
    "variant": tuple(VARIANTS),
    "level": MEDIATORS,
    "reference": tuple(VARIANTS),
}


def base_fields(cells: pd.DataFrame) -> list[str]:
    """The columns that name a base, whose cells differ in variant and seed alone.

    They are task, frames, class token, and every other field of a cell's configuration that takes more than one value.
    """
    changed = [
        name
        for name in cells.columns
        if name not in _OUTCOMES and name not in ALWAYS and cells[name].nunique(dropna=False) > 1
    ]
    return [*ALWAYS, *changed]


def groups(table: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The values of the key columns, by name, and the rows that have them; NaN is a value like others."""
    for key, group in table.groupby(list(keys), dropna=False):
        yield dict(zip(keys, key, strict=True)), group


def ordered(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows sorted by these columns; tasks, variants and kinds of mediators are in the order of docs/math.md."""

    def rank(column: pd.Series) -> pd.Series:
        known = _ORDERS.get(str(column.name))
        if known is None:
            return column
        names = [*known, *sorted(set(column.dropna()) - set(known))]
        return column.map({name: place for place, name in enumerate(names)})

    return table.sort_values(list(columns), key=rank, kind="stable", ignore_index=True)


def sees_frames(variant: str, class_token: str) -> bool:
    """Whether a model's read-out can see any frame.

    A class token that stands first in a model that only reads forward cannot (docs/math.md, class-first), and its
    accuracy is chance by construction.
    """
    return not (class_token == "first" and variant_switches(variant)["directions"] == "forward")


def can_read(cells: pd.DataFrame) -> pd.Series:
    """`sees_frames` of each cell."""
    pairs = zip(cells["variant"], cells["class_token"], strict=True)
    return pd.Series([sees_frames(*pair) for pair in pairs], index=cells.index, dtype=bool)


def paired_values(
    cells: pd.DataFrame, values: pd.Series, variant: str, reference: str = REFERENCE
) -> pd.DataFrame:
    """The number of each cell of `variant` less that of `reference` in the same base and of the same seed.

    Args:
        cells: the grid's cells.
        values: the numbers by cell.
        variant, reference: the two variants.

    Returns:
        Columns: those of `base_fields`, seed, difference. Pairs of which one is absent or NaN are left out.
    """
    keys = [*base_fields(cells), "seed"]
    numbers = cells[[*keys, "variant"]].assign(value=cells["cell"].map(values))
    one, other = (
        numbers[numbers["variant"] == name].drop(columns="variant") for name in (variant, reference)
    )
    both = one.merge(other, on=keys, suffixes=("", "_reference"), validate="one_to_one")
    both["difference"] = both["value"] - both["value_reference"]
    return ordered(both.dropna(subset="difference")[[*keys, "difference"]], keys)


def strata(table: pd.DataFrame, fields: Iterable[str]) -> list[tuple[object, ...]]:
    """The base of each row."""
    return list(table[list(fields)].itertuples(index=False, name=None))
