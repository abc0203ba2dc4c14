"""What stands in each section of the page: headings, sentences, tables and figures, all from what was measured."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.tables import number
from experiments.report.illustration import Illustration, Table
from experiments.report.measured import Measured
from experiments.report.names import base_labels, variant_label
from experiments.report.probe_figures import probe_illustrations
from experiments.report.probed import SCOPE, SHOWN, probe_label, probe_tables
from experiments.report.viewer import DECADES, Packed
from experiments.statistics import REFERENCE, base_fields


@dataclass(frozen=True)
class Block:
    """A part of a section."""

    heading: str = ""
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Illustration] = ()


@dataclass(frozen=True)
class Section:
    """A section of the page; ``id`` is what links to it."""

    id: str
    title: str
    blocks: Sequence[Block]


def contents(measured: Measured, packed: Packed, command: str) -> tuple[Section, ...]:
    """The page's sections, in their order."""
    return (
        Section("accuracy", "Ablation", tuple(_accuracy(measured))),
        Section("probes", "Decay and contradiction", tuple(_probes(measured))),
        Section("correlations", "Probes against accuracy", tuple(_correlations(measured))),
        Section("viewer", "Viewer", (_viewer(packed),)),
        Section("provenance", "Provenance", tuple(_provenance(measured, command))),
    )


def opening(measured: Measured) -> str:
    """What the page is about, in numbers."""
    cells = measured.grid.cells
    seeds = cells["seed"].nunique()
    clips = cells["n_test"]
    return (
        "Models that differ in one field are trained on the same clips in the same order, judged on held-out clips, "
        f"and probed before and after. Preset {measured.grid.preset}: {len(cells)} models, "
        f"{cells['variant'].nunique()} variants, {seeds} seed{'s' * (seeds > 1)}, {_range(clips)} test clips each, "
        f"{_range(cells['parameters'])} parameters. Every number here comes from the tables beside "
        "this page; intervals are 95 %."
    )


def unfinished(measured: Measured) -> str:
    """What a reader of an incomplete grid has to know, or nothing."""
    missing = measured.grid.unfinished
    if not missing:
        return ""
    done = len(measured.grid.cells)
    said = ", ".join(f"{cell.task} {cell.variant} seed {cell.seed}" for cell in missing[:6])
    more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
    return (
        f"Incomplete: {done} of {done + len(missing)} models are finished. Missing: {said}{more}. Numbers here are of "
        "those that are there, and will change when the same grid goes on."
    )


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


def points(difference: float) -> str:
    return "-" if np.isnan(difference) else f"{100 * difference:+.1f}"


def p_value(p: float) -> str:
    return "-" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _interval(low: float, high: float, said: Any) -> str:
    return "-" if np.isnan(low) or np.isnan(high) else f"{said(low)} to {said(high)}"


def _accuracy(measured: Measured) -> Iterator[Block]:
    fields = base_fields(measured.grid.cells)
    keys = [*fields, "variant"]
    parameters = measured.grid.cells.groupby(keys, dropna=False)["parameters"].max().reset_index()
    rows = measured.accuracy.merge(parameters, on=keys).merge(
        measured.differences, on=keys, how="left", suffixes=("", "_difference")
    )
    for base, chosen in _by_base(rows, measured):
        lines = [_accuracy_line(row) for _, row in chosen.iterrows()]
        clear = (chosen["seed_low"] > 0) | (chosen["seed_high"] < 0)
        head = (
            *("model", "parameters", "accuracy", "interval over seeds", "seeds"),
            *(f"less {variant_label(REFERENCE)}, points", "bootstrap interval", "interval over seeds"),
            *("McNemar p", "p, Holm"),
        )
        caption = f"{base}; chance is {percent(chosen['chance'].iloc[0])}"
        marked = frozenset(np.flatnonzero(clear).tolist())
        yield Block(tables=(Table(caption, head, lines, marked),))


def _accuracy_line(row: pd.Series) -> list[str]:
    return [
        variant_label(row["variant"]),
        f"{row['parameters']:,}",
        percent(row["mean"]),
        _interval(row["low"], row["high"], percent),
        str(row["n"]),
        points(row["difference"]),
        _interval(row["low_difference"], row["high_difference"], points),
        _interval(row["seed_low"], row["seed_high"], points),
        p_value(row["p_value"]),
        p_value(row["p_holm"]),
    ]


def _probes(measured: Measured) -> Iterator[Block]:
    curves = dict(_by_base(measured.probe_profiles, measured))
    for base, rows in _by_base(measured.probe_summary, measured):
        figures = probe_illustrations(base, rows, curves[base])
        yield Block(heading=base, tables=tuple(probe_tables(rows)), figures=tuple(figures))


def _by_base(table: pd.DataFrame, measured: Measured) -> Iterator[tuple[str, pd.DataFrame]]:
    """The label of each base, and its rows of a table."""
    cells = measured.grid.cells
    labels = base_labels(table, base_fields(cells), cells)
    for label in dict.fromkeys(labels):
        yield label, table[labels == label]


def _correlations(measured: Measured) -> Iterator[Block]:
    table = measured.correlations
    table = table[(table["scope"] == SCOPE) & (table["direction"] == "mean")]
    family = int(measured.correlations["family"].iloc[0]) if len(measured.correlations) else 0
    yield Block(
        text=(
            "Does a probe's number, mean over layers and directions, go with accuracy? Spearman's rank correlation "
            "over models, ranked within each base and seed, with its bootstrap interval. The first p-value permutes "
            "models of a seed; the second permutes whole variants, and is the one that speaks of variants. Both are corrected "
            f"by Holm for the {family} correlations of all probes, scopes and directions, which stand in "
            "tables/correlations.csv. An association over few variants does not say why.",
        )
    )
    for task in dict.fromkeys(table["task"]):
        rows = [
            [
                probe_label(row["quantity"]),
                row["group"],
                number(row["correlation"]) if np.isfinite(row["correlation"]) else f"none: {row['note']}",
                _interval(row["low"], row["high"], number),
                str(row["cells"]),
                *(p_value(row[name]) for name in ("p_value", "p_holm", "p_variants", "p_variants_holm")),
            ]
            for quantity in (name for names in SHOWN.values() for name in names)
            for _, row in table[(table["task"] == task) & (table["quantity"] == quantity)].iterrows()
        ]
        head = ("probe", "models", "correlation", "interval", "n", "p", "Holm", "p, variants", "Holm")
        yield Block(tables=(Table(f"Probes against accuracy, {task}", head, rows),))


def _viewer(packed: Packed) -> Block:
    part = (
        f"{packed.shown} of {packed.saved}, as many as fit in this page"
        if packed.shown < packed.saved
        else f"all {packed.saved}"
    )
    return Block(
        text=(
            "Where does a token's output come from? Choose an anchor token, in the list, by a tap on it, or with the "
            "arrow keys. Above, the clip's frames, the anchor framed; below each, how much of the anchor's row every "
            "patch is given, and the frame's sum. Scope contribution; frames, rows and columns count from 0.",
            f"Models of seed {packed.seed}; {part} matrices, one a model, clip and layer; all are in the grid's "
            f"folder, cells/CELL/rows.npz. Sums are as saved; colours are to within {100 * _step():.0f} % of a weight.",
        )
    )


def _step() -> float:
    """The largest relative error of a packed weight: half a step of its logarithm."""
    return 10 ** (DECADES / 254 / 2) - 1


def _provenance(measured: Measured, command: str) -> Iterator[Block]:
    grid = measured.grid
    sessions = dict(grid.provenance["sessions"])
    rows = [["this page", command], ["seeds", ", ".join(map(str, sorted(set(grid.cells["seed"]))))]]
    caption = "Commands, versions and machine"
    if sessions:
        *_, last = sessions.values()
        rows += [[name, text] for name, text in _flat(last)]
    if len(sessions) > 1:
        caption += f", of the last of the {len(sessions)} times that the grid was started or went on"
    yield Block(tables=(Table(caption, ("what", "value"), rows),))
    times = grid.tables["times"].groupby("stage", sort=False)["seconds"].agg(["sum", "mean", "max"])
    lines = [
        [stage, *(number(value) for value in row)]
        for stage, row in zip(times.index, times.values, strict=True)
    ]
    yield Block(tables=(Table("Seconds by stage", ("stage", "all cells", "mean a cell", "longest"), lines),))
    fields = [*base_fields(grid.cells), "variant", "seed"]
    hashes = [
        [row["cell"], *(str(row[field]) for field in fields), percent(row["accuracy"]), row["weights_sha256"]]
        for _, row in grid.cells.iterrows()
    ]
    head = ("cell", *(field.replace("_", " ") for field in fields), "accuracy", "SHA-256 of the weights")
    yield Block(tables=(Table("Every model", head, hashes),))


def _flat(fields: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested fields, each as text."""
    for name, value in fields.items():
        said = f"{before}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{said}, ")
        else:
            yield said, value if isinstance(value, str) else json.dumps(value)
