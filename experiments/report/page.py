"""The report's one HTML page, made from results and the figures drawn from them."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import plots
from analysis.decay.measure import QUANTITIES, WEIGHT_UNITS
from analysis.results import Measurement
from analysis.tables import number
from experiments.report import findings, sources
from experiments.report.comparison import Comparison
from experiments.report.illustrate import Illustration

TABULATED = tuple(findings.SLOWER)
"""Quantities that the page gives by layer and direction; decay.csv holds all."""

STATED = ("half_life_tokens", "decay_index_tokens")
"""Quantities whose findings are said in sentences."""

SCOPE_MEANINGS = {
    "ssm": "the matrix that the scan alone applies to its input",
    "mixer": "the scan with the convolution before it, the skip and the gate",
    "contribution": "the size of what each token hands to each other one, in units of the mixer's output",
}


@dataclass(frozen=True)
class Row:
    """One line of a table: cells as text, and whether the difference excludes 0."""

    cells: tuple[str, ...]
    clear: bool


def render(comparison: Comparison, figures: Mapping[str, Illustration], folder: Path) -> str:
    """The page, with every figure in it.

    Args:
        folder: where the figures were drawn as SVG.
    """
    environment = Environment(
        loader=PackageLoader("experiments.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["zip"] = zip
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    images = {
        name: "data:image/svg+xml;base64,"
        + base64.b64encode((folder / f"{name}.svg").read_bytes()).decode("ascii")
        for name in figures
    }
    first = next(iter(comparison.results.values()))
    return environment.get_template("template.html").render(
        names=list(comparison.results),
        results=comparison.results,
        cards=comparison.cards,
        input=first.provenance.input,
        provenance=first.provenance,
        layout=first.layout,
        resamples=first.resamples,
        notes=list(dict.fromkeys(note for result in comparison.results.values() for note in result.notes)),
        scopes={scope: (SCOPE_MEANINGS[scope], WEIGHT_UNITS[scope]) for scope in first.scopes},
        tallies=_tallies(comparison, comparison.differences),
        untrained=_tallies(comparison, comparison.untrained),
        stated=list(_stated(comparison)),
        chance=findings.chance_note(
            [t for row in _tallies(comparison, comparison.differences).values() for t in row]
        ),
        observations=list(_observations(comparison)),
        tables=_tables(comparison),
        figures=figures,
        images=images,
        groups=_groups(figures),
        gains=sources.GAINS,
        factors=sources.disagreement(),
        arxiv=sources.ARXIV,
        command=comparison.command,
    )


def _label(quantity: str) -> str:
    return plots.quantity_label(quantity)


def _tallies(comparison: Comparison, differences: Sequence[Measurement]) -> dict[str, list[findings.Tally]]:
    """By quantity's label, a tally a scope."""
    scopes = next(iter(comparison.results.values())).scopes
    return {
        _label(quantity): [findings.tally(differences, quantity, scope) for scope in scopes]
        for quantity in TABULATED
    }


def _stated(comparison: Comparison) -> Iterator[str]:
    scopes = next(iter(comparison.results.values())).scopes
    for quantity in STATED:
        for scope in scopes:
            found = findings.tally(comparison.differences, quantity, scope)
            control = findings.tally(comparison.untrained, quantity, scope)
            said = findings.sentence(found, list(comparison.results), QUANTITIES[quantity].label)
            yield f"{said} {findings.control_sentence(found, control)}"


def _observations(comparison: Comparison) -> Iterator[str]:
    for name, result in comparison.results.items():
        yield findings.prediction_sentence(result, name, "ssm")
        yield findings.law_sentence(result, name, "ssm")
        yield findings.class_sentence(result, name, "contribution")


def _tables(comparison: Comparison) -> dict[str, dict[str, list[Row]]]:
    """By scope and quantity's label, a row for each layer and direction: both models and their difference."""
    first = next(iter(comparison.results.values()))
    return {
        scope: {_label(quantity): list(_rows(comparison, scope, quantity)) for quantity in TABULATED}
        for scope in first.scopes
    }


def _rows(comparison: Comparison, scope: str, quantity: str) -> Iterator[Row]:
    for d in comparison.differences:
        if (d.scope, d.quantity) != (scope, quantity):
            continue
        each = [
            result.measurement(d.layer, d.direction, scope, quantity)
            for result in comparison.results.values()
        ]
        layout = next(iter(comparison.results.values())).layout
        beyond = {"half_life_tokens": layout.length, "half_life_frames": layout.frames}.get(quantity)
        cells = (str(d.layer), d.direction, *(with_interval(m, beyond) for m in (*each, d)))
        yield Row(cells, findings.excludes_zero(d) != 0)


def with_interval(m: Measurement, beyond: int | None = None) -> str:
    """A number with its interval, or why there is none."""
    if m.value is None:
        return f"none: {m.note}"
    value = number(m.value, beyond)
    if m.low is None or m.high is None:
        return value
    return f"{value} ({number(m.low, beyond)} to {number(m.high, beyond)})"


def _groups(figures: Mapping[str, Illustration]) -> dict[str, dict[str, list[str]]]:
    """By scope and group, the names of the figures of single models, side by side in the order of models."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name, figure in figures.items():
        if figure.model:
            groups.setdefault(figure.scope, {}).setdefault(figure.group, []).append(name)
    return groups
