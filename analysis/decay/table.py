"""A decay result as tables for a terminal of 100 columns."""

import math
from collections.abc import Iterator

from rich import box
from rich.table import Table

from analysis.decay.result import DecayResult
from analysis.results import Measurement

CAPTION = (
    "m–n: 95 % interval over clips. Predicted: ln 2 / (|A| mean delta), median over channels and states. "
    "Index: 0 uniform, 1 self only. Law: exponential or power law, whichever has the lower AIC. "
    "-: a gap, see the notes."
)


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


def number(value: float | None, beyond: int | None = None) -> str:
    """A number in three digits; "-" for a gap; ">L", or an infinity where L is not given, for one beyond."""
    if value is None:
        return "-"
    if math.isinf(value):
        infinite = "∞" if value > 0 else "-∞"
        return infinite if beyond is None else f">{beyond}"
    if value != 0 and abs(value) < 0.001:
        return f"{value:.0e}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def with_interval(m: Measurement, beyond: int | None = None) -> str:
    """The number, and its interval on a line below."""
    value = number(m.value, beyond)
    if m.low is None or m.high is None:
        return value
    return f"{value}\n{number(m.low, beyond)}–{number(m.high, beyond)}"
