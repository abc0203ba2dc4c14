"""A contradiction result as tables for a terminal of 100 columns."""

from collections.abc import Iterator

from rich import box
from rich.table import Table

from analysis.contradiction.measure import QUANTITIES
from analysis.contradiction.result import ContradictionResult, Side
from analysis.results import Measurement
from analysis.tables import gaps, number, thousandths, with_interval

CAPTION = (
    "m–n: 95 % interval over clips. Mediator: sensitivity of a relation to a token between; ratio: that of two "
    "relations of one row to each other, without what is common to the row; both, and logits, in 0.001 nats. "
    "Residual: of transitivity; unmasked: of the same scan without its mask. Rank: effective, beside its bound. "
    "Logits: before the softmax, where there is one. Mass: 1 blind to similarity, above 1 contradictory. "
    "-: a gap, see below."
)

SHOWN = (
    *("mediator_sensitivity", "mediator_relative", "mediator_logits", "transitivity_residual"),
    *("transitivity_unmasked", "block_rank", "block_rank_bound", "block_rank_logits", "contradictory_mass"),
)
"""The quantities of the table's columns."""

COLUMNS = (
    "mediator\n10⁻³ nats",
    "\nratio",
    "\nlogits",
    "resid-\nual",
    "residual\nunmasked",
    "block\nrank",
    "\nbound",
    "\nlogits",
    "contrad.\nmass",
)


def tables(result: ContradictionResult) -> Iterator[Table]:
    """One table a scope and model: a row for each layer and direction."""
    for scope in result.scopes:
        for side in result.sides:
            table = Table(
                title=f"Element contradiction of {side.label}, scope {scope}",
                title_justify="left",
                caption=CAPTION if side is result.sides[-1] else None,
                caption_justify="left",
                box=box.SIMPLE_HEAD,
                pad_edge=False,
                padding=(0, 0),
                collapse_padding=True,
            )
            table.add_column("layer", justify="right")
            table.add_column("direction")
            for name in COLUMNS:
                table.add_column(name, justify="right")
            for layer in result.layers:
                for direction in side.directions:
                    table.add_row(str(layer), direction, *_cells(side, layer, direction, scope))
            yield table


def _cells(side: Side, layer: int, direction: str, scope: str) -> Iterator[str]:
    def find(quantity: str) -> Measurement:
        return side.measurement(layer, direction, scope, quantity)

    yield with_interval(thousandths(find("mediator_sensitivity")))
    yield number(thousandths(find("mediator_relative")).value)
    yield number(thousandths(find("mediator_logits")).value)
    yield number(find("transitivity_residual").value)
    yield with_interval(find("transitivity_unmasked"))
    yield with_interval(find("block_rank"))
    yield number(find("block_rank_bound").value)
    yield number(find("block_rank_logits").value)
    yield with_interval(find("contradictory_mass"))


def gap_lines(result: ContradictionResult) -> list[str]:
    """Why numbers of the tables are missing."""
    return gaps((m for side in result.sides for m in side.measurements), SHOWN, QUANTITIES)
