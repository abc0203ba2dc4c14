"""What stands in each section of the page: headings, sentences, tables and figures, all from what was measured."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.tables import number
from experiments.cell import ROWS
from experiments.report.accuracy_figures import accuracy_illustrations
from experiments.report.correlation_figures import correlation_illustrations
from experiments.report.illustration import Block, Judged, Section, Table
from experiments.report.measured import Measured
from experiments.report.measures import MEASURES
from experiments.report.names import base_labels, base_setting, variant_label
from experiments.report.numbers import interval, p_value, percent, points
from experiments.report.probe_figures import probe_illustrations
from experiments.report.probed import SCOPE, SHOWN, gaps, probe_label, probe_tables
from experiments.report.provenance import provenance
from experiments.report.saved import SavedGrid
from experiments.report.sources import ARXIV, disagreement
from experiments.report.untested import UNTESTED
from experiments.report.verdicts import FAILS, HOLDS, UNTOLD, Verdict
from experiments.report.viewer import DECADES, Packed
from experiments.statistics import REFERENCE, base_fields
from experiments.statistics.association import QUANTITIES


def contents(measured: Measured, packed: Packed, command: str) -> tuple[Section, ...]:
    """The page's sections, in their order."""
    return (
        Section("verdicts", "Verdicts", tuple(_verdicts(measured))),
        Section("ablation", "Ablation", tuple(_ablation(measured))),
        Section("probes", "Decay and contradiction", tuple(_probes(measured))),
        Section("correlations", "Probes against accuracy", tuple(_correlations(measured))),
        Section("viewer", "Viewer", (_viewer(packed),)),
        Section("provenance", "Provenance", tuple(provenance(measured.grid, command))),
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


def unfinished(grid: SavedGrid) -> str:
    """What a reader of an incomplete grid has to know, or nothing."""
    missing = grid.unfinished
    if not missing:
        return ""
    done = len(grid.cells)
    said = ", ".join(f"{cell.task} {cell.variant} seed {cell.seed}" for cell in missing[:6])
    more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
    return (
        f"Incomplete: {done} of {done + len(missing)} models are finished. Missing: {said}{more}. Numbers here are of "
        "those that are there, and will change when the same grid goes on."
    )


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


KINDS = {HOLDS: "holds", FAILS: "fails", UNTOLD: "untold"}


def _verdicts(measured: Measured) -> Iterator[Block]:
    verdicts = measured.verdicts
    counts = {kind: sum(one.verdict == kind for one in verdicts) for kind in KINDS}
    yield Block(
        text=(
            f"What arXiv {ARXIV} says, or what follows from it, put to these models: {len(verdicts)} claims, of which "
            f"{counts[HOLDS]} hold, {counts[FAILS]} do not, and {counts[UNTOLD]} cannot be told here. The models are "
            "small and so are their tasks; nothing here says what published models do.",
            "One rule, fixed before any result was seen: a claim holds where the 95 % interval, in which the seed is "
            "the unit, excludes no effect on the claim's side, Holm's correction over all claims agrees, and no base "
            "taken alone says the opposite; it does not hold where all this says the opposite. Bases in which a model "
            "compared did not leave chance are left out.",
        ),
        tables=(_overview(verdicts),),
        judged=[_judged(verdict) for verdict in verdicts],
    )
    least, most = disagreement()
    yield Block(
        heading="Untested here",
        text=(
            "These need data or hardware that are not here; the commands would test them. The gains that the two "
            f"abstracts state over VideoMamba differ by a factor of {least:.1f} to {most:.1f}.",
        ),
        untested=UNTESTED,
    )


def _overview(verdicts: Sequence[Verdict]) -> Table:
    rows = [
        [one.claim.id.replace("-", " "), one.verdict, one.shown, str(one.n), p_value(one.p_holm)]
        for one in verdicts
    ]
    marked = frozenset(k for k, one in enumerate(verdicts) if one.verdict != UNTOLD)
    return Table(
        "In short, in the order below", ("claim", "verdict", "measured", "n", "p, Holm"), rows, marked
    )


def _judged(verdict: Verdict) -> Judged:
    measure = MEASURES.get(verdict.claim.measure)
    said = number if measure is None else measure.shown
    bases = [
        f"{one.base}: {said(one.value)} ({interval(one.low, one.high, said)}), n = {one.n}"
        for one in verdict.bases
    ]
    return Judged(
        kind=KINDS[verdict.verdict],
        verdict=verdict.verdict,
        says=verdict.claim.says,
        sentence=verdict.sentence,
        source=verdict.claim.source,
        bases=bases if len(bases) > 1 else [],
    )


def _ablation(measured: Measured) -> Iterator[Block]:
    cells = measured.grid.cells
    yield Block(
        text=(
            f"Accuracy on held-out clips, and its difference to {variant_label(REFERENCE)} of the same base and seed. "
            "In brackets, Student's interval over seeds; the bootstrap draws seeds and, within, clips, and of three "
            "seeds is too narrow. McNemar's test is on the clips of all seeds pooled, and speaks of these trained "
            f"models; Holm corrects for all {len(measured.differences)} of its p-values. Marked: the interval over "
            "seeds excludes 0.",
            f"A plus sign is that change of {variant_label('videomamba')} alone; {variant_label('paper')} is the mask "
            "with the elemental residual. That the paper's elemental residual connection is given to every token is "
            "this toolkit's reading; initial, as released, gives it to the first.",
        )
    )
    conditions = dict(_by_base(measured.accuracy_by_condition, measured))
    differences = dict(_by_base(measured.differences, measured))
    of_base = dict(_by_base(cells, measured))
    for base, rows in _by_base(measured.accuracy, measured):
        less = differences.get(base, measured.differences[:0])
        by = conditions.get(base, measured.accuracy_by_condition[:0])
        figures = accuracy_illustrations(base, of_base[base], rows, less, by)
        yield Block(
            heading=base,
            tables=(_accuracy_table(of_base[base], rows, less),),
            figures=tuple(figures),
        )


def _accuracy_table(cells: pd.DataFrame, accuracy: pd.DataFrame, differences: pd.DataFrame) -> Table:
    parameters = cells.groupby("variant")["parameters"].max()
    less = {row["variant"]: row for row in differences.to_dict("records")}
    lines, marked = [], set()
    for k, row in enumerate(accuracy.to_dict("records")):
        line = [
            variant_label(row["variant"]),
            f"{parameters[row['variant']]:,}",
            f"{percent(row['mean'])}\n({interval(row['low'], row['high'], percent)})",
            str(row["n"]),
        ]
        other = less.get(row["variant"])
        if other is None:
            lines.append([*line, "-", "-", "-", "-"])
            continue
        if other["seed_low"] > 0 or other["seed_high"] < 0:
            marked.add(k)
        lines.append(
            [
                *line,
                f"{points(other['difference'])}\n({interval(other['seed_low'], other['seed_high'], points)})",
                interval(other["low"], other["high"], points),
                p_value(other["p_value"]),
                p_value(other["p_holm"]),
            ]
        )
    head = (
        *("model", "parameters", "accuracy", "seeds", f"less {variant_label(REFERENCE)}, points"),
        *("bootstrap", "McNemar p", "Holm"),
    )
    chance = f"Chance is {percent(accuracy['chance'].iloc[0])}"
    if (cells["blind"] > cells["chance"]).any():
        chance += f", and the best guess that is blind to what is asked is right in {percent(cells['blind'].iloc[0])}"
    caption = f"{chance}. {base_setting(cells)}."
    return Table(caption, head, lines, frozenset(marked))


def _probes(measured: Measured) -> Iterator[Block]:
    curves = dict(_by_base(measured.probe_profiles, measured))
    cells = measured.grid.cells
    probes = measured.grid.tables["probes"].merge(cells[["cell", *base_fields(cells)]], on="cell")
    of_base = dict(_by_base(probes, measured))
    for base, rows in _by_base(measured.probe_summary, measured):
        figures = probe_illustrations(base, rows, curves[base])
        missing = gaps(of_base[base], {name: SCOPE for names in SHOWN.values() for name in names})
        yield Block(heading=base, text=missing, tables=tuple(probe_tables(rows)), figures=tuple(figures))


def _by_base(table: pd.DataFrame, measured: Measured) -> Iterator[tuple[str, pd.DataFrame]]:
    """The label of each base, and its rows of a table."""
    cells = measured.grid.cells
    labels = base_labels(table, base_fields(cells), cells)
    for label in dict.fromkeys(labels):
        yield label, table[labels == label]


def _correlations(measured: Measured) -> Iterator[Block]:
    table = measured.correlations
    table = table[table["direction"] == "mean"]
    family = int(measured.correlations["family"].iloc[0]) if len(measured.correlations) else 0
    yield Block(
        text=(
            "Does a probe's number, mean over layers and directions, go with accuracy? Spearman's rank correlation "
            "over models, ranked within each base and seed, with its bootstrap interval. The first p-value permutes "
            "models of a seed; the second permutes whole variants, and is the one that speaks of variants. Both are "
            f"corrected by Holm for all {family} correlations, those of each direction among them, which stand in "
            "tables/correlations.csv. An association over few variants does not say why.",
        )
    )
    probes = measured.grid.tables["probes"].merge(measured.grid.cells[["cell", "task"]], on="cell")
    drawn = list(correlation_illustrations(measured.grid.cells, measured.grid.tables["probes"]))
    for task in dict.fromkeys(table["task"]):
        rows = [
            [
                probe_label(quantity),
                row["scope"],
                row["group"],
                number(row["correlation"]) if np.isfinite(row["correlation"]) else f"none: {row['note']}",
                interval(row["low"], row["high"], number),
                str(row["cells"]),
                *(p_value(row[name]) for name in ("p_value", "p_holm", "p_variants", "p_variants_holm")),
            ]
            for quantity in QUANTITIES
            for _, row in table[(table["task"] == task) & (table["quantity"] == quantity)].iterrows()
        ]
        head = (
            *("probe", "scope", "models", "correlation", "interval", "n"),
            *("p", "Holm", "p, variants", "Holm"),
        )
        figures = tuple(figure for at, figure in drawn if at == task)
        yield Block(
            heading=task,
            text=gaps(probes[probes["task"] == task], QUANTITIES),
            tables=(Table(f"Correlation with accuracy, {task}", head, rows),),
            figures=figures,
        )


def _viewer(packed: Packed) -> Block:
    part = (
        f"Of {packed.saved} matrices, one a model, clip and layer, this page holds {packed.shown}, as many as fit"
        if packed.shown < packed.saved
        else f"{packed.saved} matrices, one a model, clip and layer"
    )
    return Block(
        text=(
            "Where does a token's output come from? Choose an anchor token, in the list, by a tap on it, or with the "
            "arrow keys. Above, the clip's frames, the anchor framed; below each, how much of the anchor's row every "
            "patch is given, and the frame's sum. Scope contribution; frames, rows and columns count from 0.",
            f"Models of seed {packed.seed}. {part}; all are in the grid's folder, cells/CELL/{ROWS}. Sums are as "
            f"saved; colours are to within {100 * _step():.0f} % of a weight.",
        )
    )


def _step() -> float:
    """The largest relative error of a packed weight: half a step of its logarithm."""
    return 10 ** (DECADES / 254 / 2) - 1
