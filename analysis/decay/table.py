"""A decay result as tables for a terminal of 100 columns."""

from collections.abc import Iterator

from rich import box
from rich.table import Table

from analysis.decay.measure import QUANTITIES
from analysis.decay.result import DecayResult
from analysis.results import Measurement
from analysis.tables import gaps, number, with_interval

CAPTION = (
    "m–n: 95 % interval over clips. Predicted: ln 2 / (|A| mean delta), median over channels and states. "
    "Index: 0 uniform, 1 self only. Law: exponential or power law, whichever has the lower AIC. "
    "-: a gap, see below."
)

SHOWN = (
    *("half_life_tokens", "half_life_frames", "predicted_half_life_tokens", "decay_rate_tokens"),
    *(
        "decay_fit_r2_tokens",
        "decay_fit_aic_difference_tokens",
        "decay_index_tokens",
        "effective_context_tokens",
    ),
)
"""The quantities of the table's columns."""


def tables(result: DecayResult) -> Iterator[Table]:
    """One table a scope: a row for each layer and direction."""
    for scope in result.scopes:
        table = Table(
            title=f"Historical decay, scope {scope}",
            title_justify="left",
            caption=CAPTION,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 0),
        )
        table.add_column("layer", justify="right")
        table.add_column("direction")
        for name in (
            "half-life\ntokens",
            "\nframes",
            "predicted\ntokens",
            "rate\n1/token",
            "\nR2",
            "\nlaw",
            "decay\nindex",
            "context\ntokens",
        ):
            table.add_column(name, justify="right")
        for layer in result.layers:
            for direction in result.directions:
                table.add_row(str(layer), direction, *_cells(result, layer, direction, scope))
        yield table


def _cells(result: DecayResult, layer: int, direction: str, scope: str) -> Iterator[str]:
    def find(quantity: str) -> Measurement:
        return result.measurement(layer, direction, scope, quantity)

    yield with_interval(find("half_life_tokens"), beyond=result.layout.length)
    yield number(find("half_life_frames").value, beyond=result.layout.frames)
    yield number(find("predicted_half_life_tokens").value)
    yield number(find("decay_rate_tokens").value)
    yield number(find("decay_fit_r2_tokens").value)
    aic = find("decay_fit_aic_difference_tokens").value
    yield "-" if aic is None else "power" if aic > 0 else "exp"
    yield with_interval(find("decay_index_tokens"))
    yield number(find("effective_context_tokens").value)


def gap_lines(result: DecayResult) -> list[str]:
    """Why numbers of the table are missing."""
    return gaps(result.measurements, SHOWN, QUANTITIES)
