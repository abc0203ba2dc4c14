"""Numbers of a result as tables: for a terminal, and for a notebook."""

from __future__ import annotations

import html as escaping
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pandas import NA
from rich import box
from rich.table import Table

from analysis.intervals import Number
from analysis.measure import Column, Measure
from vmp.layout import TokenLayout

if TYPE_CHECKING:
    import pandas as pd

    from analysis.result import Result


PLACES = ("quantity", "model", "layer", "direction", "scope", "at", "unit")
"""Columns of a tidy table that say which number a row is."""


def number(value: float | None, beyond: int | None = None) -> str:
    """A number in three digits; "-" for a gap; ">L", or an infinity where L is not given, for one beyond."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        infinite = "∞" if value > 0 else "-∞"
        return infinite if beyond is None else f">{beyond}"
    if value != 0 and abs(value) < 0.001:
        return f"{value:.0e}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def with_interval(m: Number, beyond: int | None = None) -> str:
    """The number, and its interval on a line below."""
    value = number(m.value, beyond)
    if math.isnan(m.low) or math.isnan(m.high):
        return value
    between = " to " if m.low < 0 else "–"
    return f"{value}\n{number(m.low, beyond)}{between}{number(m.high, beyond)}"


def cell(found: Number, column: Column, layout: TokenLayout) -> str:
    """What a table shows of a number under a column."""
    if column.shows is not None:
        return "-" if math.isnan(found.value) else column.shows(found.value)
    beyond = getattr(layout, column.beyond) if column.beyond else None
    scale = column.scale
    scaled = replace(found, value=scale * found.value, low=scale * found.low, high=scale * found.high)
    return with_interval(scaled, beyond) if column.interval else number(scaled.value, beyond)


def plain_table(title: str, caption: str | None = None, *, padding: tuple[int, int] = (0, 0)) -> Table:
    """An empty table in this toolkit's looks."""
    return Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=padding,
        collapse_padding=True,
    )


def measure_tables(measure: Measure, result: Result) -> Iterator[Table]:
    """A row for each layer and direction, or model, and a column for each `Column`; listed quantities stand below."""
    if columns_of(measure):
        yield from [_of_models(measure, result)] if measure.level == "model" else _by_place(measure, result)
    if listed := _listed(measure):
        yield listing(f"{measure.title}, entry by entry", result.summary(listed), measure.caption)


def _by_place(measure: Measure, result: Result) -> Iterator[Table]:
    """One table a scope and model."""
    last = (result.scopes[-1], result.models[-1])
    for scope in result.scopes:
        for model in result.models:
            of = f" of {model}" if len(result.models) > 1 else ""
            caption = measure.caption if (scope, model) == last or len(result.models) == 1 else None
            table, columns = plain_table(f"{measure.title}{of}, scope {scope}", caption), columns_of(measure)
            table.add_column("layer", justify="right")
            table.add_column("direction")
            for column in columns:
                table.add_column(column.heading, justify="right")
            layout = result.layout(model)
            for layer in result.layers_of(model):
                for direction in result.directions(measure.name, model, layer):
                    found = (result.number(c.quantity, layer, direction, scope, model) for c in columns)
                    row = (cell(one, c, layout) for one, c in zip(found, columns, strict=True))
                    table.add_row(str(layer), direction, *row)
            yield table


def _listed(measure: Measure) -> list[str]:
    return [name for name, quantity in measure.quantities.items() if quantity.listed and quantity.dims]


def listing(title: str, summary: pd.DataFrame, caption: str = "") -> Table:
    """A row for each number of a tidy table, for what no measure lays out."""
    table = plain_table(title, caption)
    # One model is named by what stands above the table.
    columns = [name for name in PLACES if len(set(summary[name].dropna()) - {""}) > (name == "model")]
    for name in (*columns, "value"):
        table.add_column("entry" if name == "at" else name, justify="right" if name == "value" else "left")
    for row in summary.itertuples():
        found = Number(row.value, row.low, row.high, row.unit)  # type: ignore[arg-type]
        places = ("-" if value is NA else str(value) for value in (getattr(row, name) for name in columns))
        table.add_row(*places, with_interval(found))
    return table


def _of_models(measure: Measure, result: Result) -> Table:
    """A row for each model, for a measure of whole models."""
    table, columns = plain_table(measure.title, measure.caption), columns_of(measure)
    table.add_column("model")
    for column in columns:
        table.add_column(column.heading, justify="right")
    for model in result.models:
        cells = (cell(result.number(c.quantity, model=model), c, result.layout(model)) for c in columns)
        table.add_row(model, *cells)
    return table


def columns_of(measure: Measure) -> Sequence[Column]:
    """The columns of a measure's table; one for each of its numbers where it names none."""
    if measure.table:
        return measure.table
    numbers = [name for name, quantity in measure.quantities.items() if not quantity.dims]
    return [Column(name, measure.quantities[name].axis_label, interval=True) for name in numbers]


def tables(result: Result) -> Iterator[Table]:
    """The tables of every measure of a result; several models stand side by side."""
    for name in result.provenance.measures:
        measure = result.measures.get(name)
        if measure is None:
            yield listing(f"{name}, whose measure is not installed", result.summary(measure=name))
            continue
        own = measure.tables(result)
        yield from measure_tables(measure, result) if own is None else own


def together(result: Result, columns: Sequence[Column], title: str, caption: str) -> Table:
    """Several models in one table: for each layer a row for each model and direction.

    A direction that one of the measures does not have, such as one side of self-attention, shows a gap there.
    """
    table = plain_table(title, caption)
    for name in ("layer", "model", "direction"):
        table.add_column(
            name, justify="right" if name == "layer" else "left", no_wrap=name == "direction", overflow="fold"
        )
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    scope = result.scopes[0]
    for layer in result.layers:
        for model in result.models:
            if layer not in result.layers_of(model):
                continue
            directions = dict.fromkeys(
                d for name in result.measures for d in result.directions(name, model, layer)
            )
            for direction in directions:
                cells = []
                for column in columns:
                    there = result.has(column.quantity, model, layer, direction, scope)
                    found = result.number(column.quantity, layer, direction, scope, model) if there else None
                    cells.append("-" if found is None else cell(found, column, result.layout(model)))
                table.add_row(str(layer), model, direction, *cells)
        table.add_section()
    return table


def heading(result: Result) -> list[str]:
    """The lines above a result's tables: what was probed, with what, and the notes."""
    origin = result.provenance
    several = len(result.models) > 1
    lines = []
    for name, model in origin.models.items():
        called = f"{name}: " if several else f"{model.path or name}: "
        lines.append(f"{called}{model.recognised}")
    shown = origin.clips
    first = origin.models[result.model]
    ran = (
        "the same for all"
        if several
        else f"{first.layout.length} tokens each; {first.dtype} on {first.device}, scan backend {first.backend}"
    )
    count = len(shown.names)
    clips = (
        f"{count} clip{'' if count == 1 else 's'}" if shown.source == "given" else f"{count} x {shown.source}"
    )
    lines.append(f"{clips}, seed {origin.seed}, {ran}; {origin.resamples} bootstrap resamples")
    return [*lines, *(f"Note: {note}" for note in origin.notes)]


def gap_lines(result: Result, columns: Sequence[Column] | None = None) -> list[str]:
    """A line for each reason why a number of the tables, or its interval, is missing, with all that miss it.

    Args:
        columns: those of the tables, where they are not those of the measures.
    """
    said: dict[str, dict[str, None]] = {}
    for model in result.models:
        for line in _gaps(result, model, columns):
            said.setdefault(line, {})[model] = None
    several = len(result.models) > 1
    return [f"Gap: {', '.join(names) + ': ' if several else ''}{line}" for line, names in said.items()]


def _gaps(result: Result, model: str, columns: Sequence[Column] | None) -> Iterable[str]:
    missing: dict[str, dict[str, None]] = {}
    for measure in result.measures.values():
        shown = {c.quantity for c in columns_of(measure)}
        if columns is not None and measure.table:
            shown = {c.quantity for c in columns} & measure.quantities.keys()
        if type(measure).tables is Measure.tables and columns is None:
            shown |= set(_listed(measure))
        table = result.summary(sorted(shown & set(result.quantities)), model=model)
        gone = _without(table, result.n_clips)
        for name, note in zip(gone["quantity"], gone["note"], strict=True):
            quantity = measure.quantities[name]
            unit = "" if quantity.unit == "none" else f" ({quantity.unit})"
            missing.setdefault(note, {})[quantity.label + unit] = None
    return [f"{', '.join(names)}: {why}" for why, names in missing.items()]


def _without(table: pd.DataFrame, clips: int) -> pd.DataFrame:
    return table[table["value"].isna() | (table["low"].isna() & (clips > 1) & (table["note"] != ""))]


def html(result: Result) -> str:
    """A result as a notebook shows it: what was probed, and the measures' tables."""
    parts = [f"<p>{'<br>'.join(map(escaping.escape, heading(result)))}</p>"]
    for table in tables(result):
        head = "".join(f"<th>{_lines(str(column.header))}</th>" for column in table.columns)
        columns = [list(column.cells) for column in table.columns]
        rows = "".join(
            f"<tr>{''.join(f'<td>{_lines(str(c))}</td>' for c in row)}</tr>"
            for row in zip(*columns, strict=True)
        )
        caption = f"<p><small>{_lines(str(table.caption))}</small></p>" if table.caption else ""
        parts.append(
            f"<table><caption>{_lines(str(table.title))}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table>{caption}"
        )
    gaps = "<br>".join(map(escaping.escape, gap_lines(result)))
    return "".join([*parts, f"<p><small>{gaps}</small></p>" if gaps else ""])


def _lines(text: str) -> str:
    return "<br>".join(escaping.escape(line) for line in text.rstrip("\n").split("\n"))
