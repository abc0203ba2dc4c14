"""A comparison as tables for a terminal of 100 columns."""

from collections.abc import Iterator

from rich import box
from rich.table import Table

from analysis.compare.faithful import MEASURES, RANDOM
from analysis.compare.result import CompareResult, ModelResult
from analysis.contradiction.measure import QUANTITIES as CONTRADICTION_QUANTITIES
from analysis.decay.measure import QUANTITIES as DECAY_QUANTITIES
from analysis.results import Measurement
from analysis.tables import gaps, number, thousandths, with_interval

CAPTION = (
    "m–n: 95 % interval over clips. Index: 0 uniform, 1 self only. Context: effective, in tokens. Med.: mediator "
    "sensitivity, 0.001 nats. Residual: of transitivity; of a masked "
    "direction, that of the same scan without its mask. Rank: effective, of the matrix below or above the "
    "middle. Mass: 1 blind to similarity, above 1 contradictory. Self-attention looks both ways: whole rows, "
    "and each side alone; contradiction is of whole rows. -: a gap, see below."
)
FAITHFUL = (
    "Area under the probability of the model's own class as parts are removed, highest score first; lower is more "
    "faithful. In brackets, less random orders of the same clips; *: its 95 % interval over clips leaves out 0. The "
    "intervals are not corrected for their number."
)

DECAY = ("half_life_tokens", "half_life_frames", "decay_index_tokens", "effective_context_tokens")
CONTRADICTION = ("mediator_sensitivity", "transitivity_unmasked", "block_rank", "contradictory_mass")
"""The residual before the mask: with it a masked direction's is 1 by structure, which says nothing beside another's."""


def tables(result: CompareResult) -> Iterator[Table]:
    """Decay and contradiction of every model, layer and direction; then faithfulness by measure."""
    table = _table("Decay and contradiction, scope contribution", CAPTION)
    for name in ("layer", "model", "direction"):
        table.add_column(
            name, justify="right" if name == "layer" else "left", no_wrap=name == "direction", overflow="fold"
        )
    for name in (
        *("half-life\ntokens", "\nframes", "decay\nindex", "con-\ntext"),
        *("med.\nsens.", "trans.\nresid.", "block\nrank", "contr.\nmass"),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in sorted({layer for model in result.models for layer in model.decay.layers}):
        for model in result.models:
            if layer in model.decay.layers:
                for direction in model.decay.directions:
                    table.add_row(str(layer), model.name, direction, *_cells(model, layer, direction))
        table.add_section()
    yield table
    yield from _faithful(result)


def _table(title: str, caption: str | None) -> Table:
    return Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0),
    )


def _cells(model: ModelResult, layer: int, direction: str) -> Iterator[str]:
    beyond = {"half_life_tokens": model.decay.layout.length, "half_life_frames": model.decay.layout.frames}
    for quantity in DECAY:
        found = model.decay.measurement(layer, direction, "contribution", quantity)
        yield (
            with_interval(found, beyond.get(quantity))
            if "index" in quantity
            else number(found.value, beyond.get(quantity))
        )
    for quantity in CONTRADICTION:
        if direction not in model.contradiction.probed.directions:
            yield "-"
            continue
        found = model.contradiction.probed.measurement(layer, direction, "contribution", quantity)
        if quantity == "contradictory_mass":
            yield with_interval(found)
        else:
            yield number((thousandths(found) if quantity == "mediator_sensitivity" else found).value)


def _faithful(result: CompareResult) -> Iterator[Table]:
    parts = dict.fromkeys(curves.part for model in result.models for curves in model.faithfulness.curves)
    for part in parts:
        table = _table(f"Deletion of {part}s", FAITHFUL if part == next(reversed(parts)) else None)
        table.add_column("ranked by")
        for model in result.models:
            table.add_column(model.name, justify="right", overflow="fold")
        for measure in MEASURES:
            table.add_row(measure, *(_area(model, part, measure) for model in result.models))
        yield table


def _area(model: ModelResult, part: str, measure: str) -> str:
    found = {
        m.quantity: m for m in model.faithfulness.measurements if (m.direction, m.scope) == (part, measure)
    }
    if not found:
        return "-"
    shown = number(found["deletion_area"].value)
    if measure == RANDOM:
        return shown
    less: Measurement = found["deletion_area_less_random"]
    if less.value is None:
        return f"{shown} (-)"
    sure = less.low is not None and less.high is not None and (less.low > 0 or less.high < 0)
    return f"{shown} ({'+' if less.value > 0 else ''}{number(less.value)}{'*' if sure else ''})"


def gap_lines(result: CompareResult) -> list[str]:
    """Why numbers of the tables are missing, model by model."""
    said: dict[str, list[str]] = {}
    for model in result.models:
        decay = gaps(model.decay.measurements, DECAY, DECAY_QUANTITIES)
        contradiction = gaps(model.contradiction.probed.measurements, CONTRADICTION, CONTRADICTION_QUANTITIES)
        deletion = [f"Gap: {model.faithfulness.note}"] if model.faithfulness.note else []
        for line in (*decay, *contradiction, *deletion):
            said.setdefault(line.removeprefix("Gap: "), []).append(model.name)
    return [f"Gap: {', '.join(names)}: {line}" for line, names in said.items()]
