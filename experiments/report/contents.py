"""What stands in each section of the page: headings, sentences, tables and figures, all from what was computed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.tables import number
from experiments.cell import ROWS
from experiments.report.figures import (
    accuracy_illustrations,
    correlation_illustrations,
    probe_illustrations,
)
from experiments.report.findings import Findings
from experiments.report.judgement import FAILS, HOLDS, UNTOLD, Judgement
from experiments.report.parts import PagePart, Section, StatementCard, Table
from experiments.report.probed import PAGE_QUANTITIES, SCOPE, missing_quantities, probe_label, summary_tables
from experiments.report.saved import SavedGrid
from experiments.report.statements import ARXIV, disagreement
from experiments.report.untested import UNTESTED
from experiments.report.viewer import DECADES, Packed
from experiments.report.words import (
    base_setting,
    by_base,
    interval,
    p_value,
    percent,
    plural,
    signed_points,
    variant_label,
)
from experiments.statistics.association import CORRELATED
from experiments.statistics.bases import REFERENCE, base_fields

KINDS = {HOLDS: "holds", FAILS: "fails", UNTOLD: "untold"}


def contents(findings: Findings, packed: Packed, command: str) -> tuple[Section, ...]:
    """The page's sections, in their order."""
    return (
        Section("verdicts", "Verdicts", tuple(_verdicts(findings))),
        Section("ablation", "Ablation", tuple(_ablation(findings))),
        Section("probes", "Decay and contradiction", tuple(_probes(findings))),
        Section("correlations", "Probes against accuracy", tuple(_correlations(findings))),
        Section("viewer", "Viewer", (_viewer(packed),)),
        Section("provenance", "Provenance", tuple(_origins(findings.grid, command))),
    )


def opening(findings: Findings) -> str:
    """What the page is about, in numbers."""
    cells = findings.grid.cells
    return (
        "Models that differ in one field are trained on the same clips in the same order, judged on held-out clips, "
        f"and probed before and after. Preset {findings.grid.preset}: {len(cells)} models, "
        f"{cells['variant'].nunique()} variants, {plural(cells['seed'].nunique(), 'seed')}, {_range(cells['n_test'])} "
        f"test clips each, {_range(cells['parameters'])} parameters. Every number here comes from the tables beside "
        "this page; intervals are 95 %."
    )


def incompleteness(grid: SavedGrid) -> str:
    """What a reader of an incomplete grid has to know; empty for a complete one."""
    missing = grid.unfinished
    if not missing:
        return ""
    done = len(grid.cells)
    said = ", ".join(f"{cell.task} {cell.variant} seed {cell.seed}" for cell in missing[:6])
    more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
    return (
        f"Incomplete: {done} of {done + len(missing)} models are finished. Missing: {said}{more}. The numbers on this "
        "page are those of the finished models, and will change when the same grid goes on."
    )


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _verdicts(findings: Findings) -> Iterator[PagePart]:
    judgements = findings.judgements
    counts = {kind: sum(one.verdict == kind for one in judgements) for kind in KINDS}
    yield PagePart(
        text=(
            f"This section puts to these models what arXiv {ARXIV} says, or what follows from it: {len(judgements)} "
            f"statements, of which {counts[HOLDS]} hold, {counts[FAILS]} do not, and {counts[UNTOLD]} cannot be told "
            "here. The models are small and so are their tasks; nothing here says what published models do.",
            "One rule was fixed before any result was seen. A statement holds where the 95 % interval, in which the "
            "seed is the unit, excludes no effect on the statement's side, Holm's correction over all statements "
            "agrees, and no base taken alone says the opposite. It does not hold where all this says the opposite. "
            "Bases in which a model compared did not leave chance are left out.",
        ),
        tables=(_overview(judgements),),
        judged=[_card(judgement) for judgement in judgements],
    )
    least, most = disagreement()
    yield PagePart(
        heading="Untested here",
        text=(
            "These statements need data or hardware that are not here; the commands would test them. The gains that "
            f"the two abstracts state over VideoMamba differ by a factor of {least:.1f} to {most:.1f}.",
        ),
        untested=UNTESTED,
    )


def _overview(judgements: Sequence[Judgement]) -> Table:
    rows = [
        [one.statement.id.replace("-", " "), one.verdict, one.shown, str(one.n), p_value(one.p_holm)]
        for one in judgements
    ]
    marked = frozenset(k for k, one in enumerate(judgements) if one.verdict != UNTOLD)
    head = ("statement", "verdict", "measured", "n", "p, Holm")
    return Table("In short, in the order below", head, rows, marked)


def _card(judgement: Judgement) -> StatementCard:
    said = judgement.said
    bases = [
        f"{one.base}: {said(one.value)} ({interval(one.low, one.high, said)}), n = {one.n}"
        for one in judgement.bases
    ]
    return StatementCard(
        kind=KINDS[judgement.verdict],
        verdict=judgement.verdict,
        says=judgement.statement.says,
        sentence=judgement.sentence,
        source=judgement.statement.source,
        bases=bases if len(bases) > 1 else [],
    )


def _ablation(findings: Findings) -> Iterator[PagePart]:
    yield PagePart(
        text=(
            f"These tables give the accuracy on held-out clips, and its difference to {variant_label(REFERENCE)} of "
            "the same base and seed. In brackets is Student's interval over seeds. The bootstrap draws seeds and, "
            "within them, clips; with three seeds it is too narrow. McNemar's test is on the clips of all seeds "
            "pooled, and speaks of these trained models; Holm's correction is for all "
            f"{len(findings.differences)} of its p-values. A row is marked where the interval over seeds excludes 0.",
            f"A plus sign is that change of {variant_label('videomamba')} alone; {variant_label('paper')} is the mask "
            "with the elemental residual. That the paper's elemental residual connection is given to every token is "
            "this toolkit's reading; initial, as released, gives it to the first.",
        )
    )
    conditions = _by_base(findings.accuracy_by_condition, findings)
    differences = _by_base(findings.differences, findings)
    cells = _by_base(findings.grid.cells, findings)
    for base, rows in _by_base(findings.accuracy, findings).items():
        less = differences.get(base, findings.differences[:0])
        by = conditions.get(base, findings.accuracy_by_condition[:0])
        figures = accuracy_illustrations(base, cells[base], rows, less, by)
        yield PagePart(base, tables=(_accuracy_table(cells[base], rows, less),), figures=tuple(figures))


def _accuracy_table(cells: pd.DataFrame, accuracy: pd.DataFrame, differences: pd.DataFrame) -> Table:
    parameters = cells.groupby("variant")["parameters"].max()
    less = {row["variant"]: row for row in differences.to_dict("records")}
    lines, marked = [], set()
    for k, row in enumerate(accuracy.to_dict("records")):
        compared = ["-"] * 4
        if other := less.get(row["variant"]):
            ends = (other["seed_low"], other["seed_high"])
            if ends[0] > 0 or ends[1] < 0:
                marked.add(k)
            compared = [
                f"{signed_points(other['difference'])}\n({interval(*ends, signed_points)})",
                interval(other["low"], other["high"], signed_points),
                p_value(other["p_value"]),
                p_value(other["p_holm"]),
            ]
        mean = f"{percent(row['mean'])}\n({interval(row['low'], row['high'], percent)})"
        label, count = variant_label(row["variant"]), f"{parameters[row['variant']]:,}"
        lines.append([label, count, mean, str(row["n"]), *compared])
    head = (
        *("model", "parameters", "accuracy", "seeds", f"less {variant_label(REFERENCE)}, points"),
        *("bootstrap", "McNemar p", "Holm"),
    )
    chance = f"Chance is {percent(accuracy['chance'].iloc[0])}"
    if (cells["blind"] > cells["chance"]).any():
        chance += f", and the best guess that is blind to what is asked is right in {percent(cells['blind'].iloc[0])}"
    return Table(f"{chance}. {base_setting(cells)}.", head, lines, frozenset(marked))


def _probes(findings: Findings) -> Iterator[PagePart]:
    cells = findings.grid.cells
    probes = findings.grid.tables["probes"].merge(cells[["cell", *base_fields(cells)]], on="cell")
    curves, of_base = _by_base(findings.probe_profiles, findings), _by_base(probes, findings)
    expected = {name: SCOPE for names in PAGE_QUANTITIES.values() for name in names}
    for base, rows in _by_base(findings.probe_summary, findings).items():
        figures = probe_illustrations(base, rows, curves[base])
        missing = missing_quantities(of_base[base], expected)
        yield PagePart(base, text=missing, tables=tuple(summary_tables(rows)), figures=tuple(figures))


def _by_base(table: pd.DataFrame, findings: Findings) -> dict[str, pd.DataFrame]:
    cells = findings.grid.cells
    return by_base(table, base_fields(cells), cells)


def _correlations(findings: Findings) -> Iterator[PagePart]:
    table = findings.correlations
    table = table[table["direction"] == "mean"]
    family = int(findings.correlations["family"].iloc[0]) if len(findings.correlations) else 0
    yield PagePart(
        text=(
            "Does a probe's number, the mean over layers and directions, go with accuracy? The tables give Spearman's "
            "rank correlation over models, ranked within each base and seed, with its bootstrap interval. The first "
            "p-value permutes models of a seed; the second permutes whole variants, and is the one that speaks of "
            f"variants. Both are corrected by Holm for all {family} correlations, including those of each direction, "
            "which are in tables/correlations.csv. An association over few variants does not say why.",
        )
    )
    cells, probes = findings.grid.cells, findings.grid.tables["probes"]
    of_task = probes.merge(cells[["cell", "task"]], on="cell")
    drawn = list(correlation_illustrations(cells, probes))
    head = (
        *("probe", "scope", "models", "correlation", "interval", "n"),
        *("p", "Holm", "p, variants", "Holm"),
    )
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
            for quantity in CORRELATED
            for _, row in table[(table["task"] == task) & (table["quantity"] == quantity)].iterrows()
        ]
        yield PagePart(
            heading=task,
            text=missing_quantities(of_task[of_task["task"] == task], CORRELATED),
            tables=(Table(f"Correlation with accuracy, {task}", head, rows),),
            figures=tuple(figure for at, figure in drawn if at == task),
        )


def _viewer(packed: Packed) -> PagePart:
    each = f"{packed.saved} matrices, one for each model, clip and layer"
    fits = packed.shown == packed.saved
    held = f"This page holds {each}" if fits else f"Of {each}, this page holds {packed.shown}, as many as fit"
    error = 10 ** (DECADES / 254 / 2) - 1  # half a step of a packed weight's logarithm
    return PagePart(
        text=(
            "Where does a token's output come from? Choose an anchor token in the list, by a tap on it, or with the "
            "arrow keys. Above, the clip's frames are shown with the anchor framed; below each is how much of the "
            "anchor's row every patch is given, and the frame's sum. The scope is contribution; frames, rows and "
            "columns count from 0.",
            f"The models are those of seed {packed.seed}. {held}; all are in the grid's folder, cells/CELL/{ROWS}. "
            f"Sums are as saved; colours are to within {100 * error:.0f} % of a weight.",
        )
    )


def _origins(grid: SavedGrid, command: str) -> Iterator[PagePart]:
    """Commands, versions and machine; times; and every model with the hash of its weights."""
    sessions = list(grid.provenance["sessions"].values())
    rows = [["this page", command], ["seeds", ", ".join(map(str, sorted(set(grid.cells["seed"]))))]]
    rows += [[name, text] for name, text in _flat(sessions[-1] if sessions else {})]
    caption = "Commands, versions and machine"
    if len(sessions) > 1:
        caption += f", of the last of the {len(sessions)} times that the grid was started or went on"
    yield PagePart(tables=(Table(caption, ("what", "value"), rows),))
    times = grid.tables["times"].groupby("stage", sort=False)["seconds"].agg(["sum", "mean", "max"])
    lines = [[str(stage), *map(number, row)] for stage, row in zip(times.index, times.values, strict=True)]
    yield PagePart(
        tables=(Table("Seconds by stage", ("stage", "all cells", "mean of a cell", "longest cell"), lines),)
    )
    fields = [*base_fields(grid.cells), "variant", "seed"]
    hashes = [
        [
            row["cell"],
            *(str(row[field]) for field in fields),
            percent(row["accuracy"]),
            row["weights_sha256"][:16],
        ]
        for _, row in grid.cells.iterrows()
    ]
    named = (field.replace("_", " ") for field in fields)
    head = ("cell", *named, "accuracy", "SHA-256 of the weights, first 16 digits")
    yield PagePart(tables=(Table("Every model", head, hashes),))


def _flat(fields: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested fields, each as text."""
    for name, value in fields.items():
        said = f"{before}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{said}, ")
        else:
            yield said, "none" if value is None else value if isinstance(value, str) else json.dumps(value)
