"""Decay and contradiction of every model of a grid, trained and as it was before its first step: tables."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.contradiction.measure import QUANTITIES as CONTRADICTION
from analysis.decay.measure import QUANTITIES as DECAY
from analysis.quantities import Quantity
from analysis.tables import number
from experiments.report.illustration import Table
from experiments.report.names import variant_label
from experiments.report.saved import SavedGrid
from experiments.statistics import base_fields, cell_probes, ordered, seed_interval
from experiments.statistics.association import DIRECTIONS

SCOPE = "contribution"
"""The scope in which scans and self-attention are compared (docs/math.md, section 2)."""

SHOWN: Mapping[str, Sequence[str]] = {
    "decay": ("decay_index_frames", "decay_index_tokens", "half_life_frames", "effective_context_tokens"),
    "contradiction": (
        *("mediator_sensitivity", "transitivity_unmasked", "block_rank", "contradictory_mass"),
    ),
}
"""Quantities of each probe that the page shows; the tables beside it have all. A mask makes the plain transitivity
residual 1 whatever the model does."""

CURVES = ("frame_lag_profile", "class_row")
"""Curves that the page shows."""

_LABELS: Mapping[str, Quantity] = {**DECAY, **CONTRADICTION}


def probe_summary(grid: SavedGrid) -> pd.DataFrame:
    """Mean over seeds of each probe's number, which is a mean over layers, with Student's 95 % interval over seeds.

    Columns: those of the base, variant, trained, probe, scope, quantity, unit, direction, mean, low, high, n, note.
    """
    fields = base_fields(grid.cells)
    keys = [*fields, "variant", "trained", "probe", "scope", "quantity", "unit", "direction"]
    numbers = pd.concat(
        cell_probes(grid.tables["probes"], trained).assign(trained=trained) for trained in (True, False)
    )
    merged = numbers.merge(grid.cells[["cell", *fields, "variant"]], on="cell")
    rows = [
        {**dict(zip(keys, key, strict=True)), **_over_seeds(group["value"].to_numpy(dtype=float))}
        for key, group in merged.groupby(keys, dropna=False)
    ]
    return ordered(pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n", "note"]), keys)


def _over_seeds(values: np.ndarray) -> dict[str, object]:
    beyond = int(np.isinf(values).sum())
    if beyond:
        note = f"beyond the sequence in {beyond} of {len(values)} seeds"
        return {"mean": np.inf, "low": np.nan, "high": np.nan, "n": len(values), "note": note}
    found = seed_interval(values)
    return {"mean": found.value, "low": found.low, "high": found.high, "n": found.n, "note": found.note}


def probe_profiles(grid: SavedGrid) -> pd.DataFrame:
    """Mean over seeds of `CURVES` in the last layer, scope `SCOPE`; a profile by lag is taken relative to its
    first lag: 0, or 1 where a mask leaves no pair of lag 0.

    Columns: those of the base, variant, trained, layer, quantity, direction, at, mean, n.
    """
    fields = base_fields(grid.cells)
    curves = grid.tables["profiles"]
    curves = curves[curves["quantity"].isin(CURVES) & (curves["scope"] == SCOPE)]
    curves = curves[curves["layer"] == curves.groupby("cell")["layer"].transform("max")]
    curves = curves.assign(at=curves["index"].astype(int), direction=curves["direction"].replace(DIRECTIONS))
    curves = curves.sort_values("at", kind="stable")
    first = curves.groupby(["cell", "trained", "quantity", "direction"])["value"].transform("first")
    by_lag = curves["quantity"] == "frame_lag_profile"
    curves = curves.assign(value=curves["value"].mask(by_lag, curves["value"] / first))
    merged = curves.merge(grid.cells[["cell", *fields, "variant"]], on="cell")
    keys = [*fields, "variant", "trained", "layer", "quantity", "direction", "at"]
    means = merged.groupby(keys, dropna=False)["value"].agg(mean="mean", n="count").reset_index()
    return ordered(means, keys)


def probe_label(quantity: str) -> str:
    """A probe's quantity in words, with its unit."""
    known = _LABELS.get(quantity)
    if known is None:
        return quantity.replace("_", " ")
    return known.label if known.unit == "none" else f"{known.label} ({known.unit})"


def shown(rows: pd.DataFrame, probe: str, directions: Sequence[str]) -> pd.DataFrame:
    """The rows of a summary that the page shows of a probe, by `SHOWN` and in these directions.

    Self-attention has some numbers for whole rows alone, direction "both", and these stand in for its sides.
    """
    chosen = rows[(rows["scope"] == SCOPE) & rows["quantity"].isin(SHOWN[probe])]
    keys = ["variant", "quantity", "trained"]
    asked = chosen["direction"].isin(directions)
    there = asked.groupby([chosen[key] for key in keys]).transform("any")
    return chosen[asked | ((chosen["direction"] == "both") & ~there)]


def quantities(rows: pd.DataFrame, probe: str) -> list[str]:
    """Those of `SHOWN` that these rows have."""
    return [quantity for quantity in SHOWN[probe] if quantity in set(rows["quantity"])]


def gaps(probes: pd.DataFrame, scopes: Mapping[str, str]) -> tuple[str, ...]:
    """Which quantities no model has a number of, and why, as a sentence.

    Args:
        probes: rows of a grid's table.
        scopes: the quantities that should be there, and the scope of each.
    """
    chosen = probes[probes["scope"] == probes["quantity"].map(scopes)]
    missing = chosen[chosen["value"].isna().groupby(chosen["quantity"]).transform("all")]
    said = [
        f"{probe_label(str(quantity))}, {' or '.join(dict.fromkeys(rows['note']))}"
        for quantity, rows in missing.groupby("quantity", sort=False)
    ]
    return (f"Not measured: {'; '.join(said)}.",) if said else ()


def probe_tables(rows: pd.DataFrame) -> Iterator[Table]:
    """A table a probe of one base, a line a variant: trained with its interval, and before."""
    for probe in SHOWN:
        chosen = shown(rows, probe, ("mean",))
        there = quantities(chosen, probe)
        said = {
            (row["variant"], row["quantity"], row["trained"]): (row["mean"], row["low"], row["high"])
            for row in chosen.to_dict("records")
        }
        lines = [
            [
                variant_label(variant),
                *(
                    f"{_number(said.get((variant, name, True)), True)}\n"
                    f"before {_number(said.get((variant, name, False)), False)}"
                    for name in there
                ),
            ]
            for variant in dict.fromkeys(chosen["variant"])
        ]
        yield Table(probe.capitalize(), ["model", *(probe_label(name) for name in there)], lines)


def _number(found: tuple[float, float, float] | None, interval: bool) -> str:
    if found is None or np.isnan(found[0]):
        return "-"
    value, low, high = found
    ends = f" ({number(low)} to {number(high)})" if interval and not np.isnan(low) else ""
    return number(value) + ends
