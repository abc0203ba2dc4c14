"""Decay and contradiction of every model of a grid, after training and before its first step, as tables."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.contradiction import Contradiction
from analysis.decay import Decay
from analysis.measure import Quantity
from analysis.tables import number
from experiments.report.parts import Table
from experiments.report.saved import SavedGrid
from experiments.report.words import variant_label
from experiments.statistics.association import SCAN_DIRECTIONS, cell_probes
from experiments.statistics.bases import base_fields, groups, ordered
from experiments.statistics.intervals import seed_interval

SCOPE = "contribution"
"""The scope in which scans and self-attention are compared (docs/math.md, section 2)."""

PAGE_QUANTITIES: Mapping[str, Sequence[str]] = {
    "decay": ("decay_index_frames", "decay_index_tokens", "half_life_frames", "effective_context_tokens"),
    "contradiction": (
        *("mediator_sensitivity", "transitivity_unmasked", "block_rank", "contradictory_mass"),
    ),
}
"""The quantities of each probe that the page shows; the tables beside it have all of them. A mask makes the plain
transitivity residual 1 whatever the model does, so the page shows the one before the mask."""

PAGE_CURVES = ("frame_lag_profile", "class_row")
"""The curves that the page shows."""

_LABELS: Mapping[str, Quantity] = {**Decay.quantities, **Contradiction.quantities}


def probe_summary(grid: SavedGrid) -> pd.DataFrame:
    """The mean over seeds of each probe's number, which is a mean over layers, with Student's 95 % interval.

    Returns:
        Columns: those of the base, variant, trained, probe, scope, quantity, unit, direction, mean, low, high, n, note.
    """
    fields = base_fields(grid.cells)
    keys = [*fields, "variant", "trained", "probe", "scope", "quantity", "unit", "direction"]
    numbers = pd.concat(
        cell_probes(grid.tables["probes"], trained).assign(trained=trained) for trained in (True, False)
    )
    merged = numbers.merge(grid.cells[["cell", *fields, "variant"]], on="cell")
    rows = [
        {**key, **_over_seeds(group["value"].to_numpy(dtype=float))} for key, group in groups(merged, keys)
    ]
    return ordered(pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n", "note"]), keys)


def _over_seeds(values: np.ndarray) -> dict[str, object]:
    if beyond := int(np.isinf(values).sum()):
        note = f"beyond the sequence in {beyond} of {len(values)} seeds"
        return {"mean": np.inf, "low": np.nan, "high": np.nan, "n": len(values), "note": note}
    found = seed_interval(values)
    return {"mean": found.value, "low": found.low, "high": found.high, "n": found.n, "note": found.note}


def probe_profiles(grid: SavedGrid) -> pd.DataFrame:
    """The mean over seeds of `PAGE_CURVES` in the last layer, in the scope `SCOPE`.

    A profile by lag is relative to its first lag, which is 0, or 1 where a mask leaves no pair of lag 0.

    Returns:
        Columns: those of the base, variant, trained, layer, quantity, direction, at, mean, n.
    """
    fields = base_fields(grid.cells)
    curves = grid.tables["profiles"]
    curves = curves[curves["quantity"].isin(PAGE_CURVES) & (curves["scope"] == SCOPE)]
    curves = curves[curves["layer"] == curves.groupby("cell")["layer"].transform("max")]
    curves = curves.assign(
        at=curves["index"].astype(int), direction=curves["direction"].replace(SCAN_DIRECTIONS)
    )
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


def page_rows(rows: pd.DataFrame, probe: str, directions: Sequence[str]) -> pd.DataFrame:
    """The rows of a summary that the page shows of a probe in these directions.

    Self-attention has some numbers for whole rows alone (direction "both"); these stand in for its two sides.
    """
    chosen = rows[(rows["scope"] == SCOPE) & rows["quantity"].isin(PAGE_QUANTITIES[probe])]
    asked = chosen["direction"].isin(directions)
    there = asked.groupby([chosen[key] for key in ("variant", "quantity", "trained")]).transform("any")
    return chosen[asked | ((chosen["direction"] == "both") & ~there)]


def quantities(rows: pd.DataFrame, probe: str) -> list[str]:
    """The quantities of `PAGE_QUANTITIES` that these rows have."""
    return [quantity for quantity in PAGE_QUANTITIES[probe] if quantity in set(rows["quantity"])]


def missing_quantities(probes: pd.DataFrame, scopes: Mapping[str, str]) -> tuple[str, ...]:
    """The quantities that no model has a number of, with the reasons, as a sentence; empty if there are none.

    Args:
        probes: rows of a grid's table.
        scopes: the scope of each quantity that is expected.
    """
    chosen = probes[probes["scope"] == probes["quantity"].map(scopes)]
    missing = chosen[chosen["value"].isna().groupby(chosen["quantity"]).transform("all")]
    said = [
        f"{probe_label(str(quantity))}, {' or '.join(dict.fromkeys(rows['note']))}"
        for quantity, rows in missing.groupby("quantity", sort=False)
    ]
    return (f"Not measured: {'; '.join(said)}.",) if said else ()


def summary_tables(rows: pd.DataFrame) -> Iterator[Table]:
    """One table for each probe of a base; each line is one variant, after training with its interval and before it."""
    for probe in PAGE_QUANTITIES:
        chosen = page_rows(rows, probe, ("mean",))
        there = quantities(chosen, probe)
        said = chosen.set_index(["variant", "quantity", "trained"])[["mean", "low", "high"]].T.to_dict("list")
        lines = []
        for variant in dict.fromkeys(chosen["variant"]):
            pairs = [(said.get((variant, name, True)), said.get((variant, name, False))) for name in there]
            cells = [f"{_number(after, True)}\nbefore {_number(before, False)}" for after, before in pairs]
            lines.append([variant_label(variant), *cells])
        yield Table(probe.capitalize(), ["model", *map(probe_label, there)], lines)


def _number(found: Sequence[float] | None, interval: bool) -> str:
    if found is None or np.isnan(found[0]):
        return "-"
    value, low, high = found
    ends = f" ({number(low)} to {number(high)})" if interval and not np.isnan(low) else ""
    return number(value) + ends
