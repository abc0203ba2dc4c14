"""The report's figures, each with a caption and a text for those who do not see it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from analysis import plots
from analysis.decay.figures import attention_figure, figure_makers, frame_matrix_figure
from analysis.decay.heatmaps import Heatmap
from analysis.decay.result import DecayResult
from analysis.inputs import clips
from analysis.results import Measurement
from analysis.tables import number
from experiments.data import denormalise

COMPARED = ("half_life_tokens", "decay_index_tokens")
CLIPS_SHOWN = 3
DETAILED = ("ssm", "contribution")
"""Scopes whose figures are drawn for each model; every scope has the comparison and the tables."""


@dataclass(frozen=True)
class Illustration:
    """One figure of the report.

    Attributes:
        group: the section it belongs to; model: whose it is, or "" where it shows both.
        caption: one sentence for all; alt: what it shows, in words and numbers.
    """

    group: str
    scope: str
    model: str
    caption: str
    alt: str
    draw: Callable[[], Figure]


def illustrations(
    results: Mapping[str, DecayResult],
    heatmaps: Mapping[str, Sequence[Heatmap]],
    differences: Sequence[Measurement],
) -> dict[str, Illustration]:
    """Every figure of the report by file name, in the order of the page."""
    figures = {"clips": _clips(next(iter(results.values())))}
    for scope in next(iter(results.values())).scopes:
        figures |= _comparisons(results, differences, scope)
        if scope in DETAILED:
            for name, result in results.items():
                figures |= _details(name, result, heatmaps[name], scope)
    return figures


def _clips(result: DecayResult) -> Illustration:
    shown = result.provenance.input
    labels = [label or "no label" for label in shown.labels[:CLIPS_SHOWN]]
    return Illustration(
        "clips",
        "",
        "",
        f"The first {len(labels)} of {shown.count} clips, every frame.",
        f"Frames of {len(labels)} clips, a row each: {', '.join(labels)}.",
        partial(_clips_figure, result),
    )


def _clips_figure(result: DecayResult) -> Figure:
    shown = result.provenance.input
    assert shown.frames is not None
    assert shown.size is not None
    samples = list(
        clips(
            shown.source,
            num_frames=shown.frames,
            image_size=shown.size,
            count=min(CLIPS_SHOWN, shown.count),
            seed=shown.seed,
        )
    )
    figure = Figure(figsize=(7.6, 1.1 * len(samples)))
    axes = figure.subplots(len(samples), shown.frames, squeeze=False)
    for row, sample in zip(axes, samples, strict=True):
        for ax, frame in zip(row, denormalise(sample.tokens), strict=True):
            ax.imshow(frame)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.grid(False)
        row[0].set_title(f"{sample.name}: {sample.label}", fontsize=8)
    return figure


def _comparisons(
    results: Mapping[str, DecayResult], differences: Sequence[Measurement], scope: str
) -> dict[str, Illustration]:
    one, other = results
    chosen = {
        quantity: [d for d in differences if (d.quantity, d.scope) == (quantity, scope)]
        for quantity in COMPARED
    }
    return {
        f"compare_{scope}": Illustration(
            "compare",
            scope,
            "",
            f"Half-life and decay index by layer, {one} and {other}, with 95 % intervals over clips. Arrows and "
            "hollow triangles go beyond the sequence.",
            " ".join(
                series(name, result, direction, scope, "half_life_tokens")
                for name, result in results.items()
                for direction in result.directions
            ),
            partial(_compare_figure, results, scope),
        ),
        f"differences_{scope}": Illustration(
            "compare",
            scope,
            "",
            f"{one} less {other}, by layer, with 95 % intervals over paired clips. Arrows and hollow triangles: "
            "beyond the sequence in one of the two.",
            " ".join(_difference_text(rows) for rows in chosen.values()),
            partial(_difference_figure, chosen),
        ),
    }


def _details(
    name: str, result: DecayResult, heatmaps: Sequence[Heatmap], scope: str
) -> dict[str, Illustration]:
    makers = figure_makers(result, ())
    ends = sorted({result.layers[0], result.layers[-1]})
    profiles = " ".join(
        series(name, result, direction, scope, "decay_rate_tokens") for direction in result.directions
    )
    frames = " ".join(
        series(name, result, direction, scope, "half_life_frames") for direction in result.directions
    )
    lives = " ".join(
        series(name, result, direction, scope, quantity)
        for direction in result.directions
        for quantity in ("half_life_tokens", "predicted_half_life_tokens")
    )
    kept = " ".join(series(name, result, direction, scope, "class_self") for direction in result.directions)
    figures: dict[str, tuple[str, str, str, Callable[[], Figure]]] = {
        f"lag_profile_{scope}_{name}": (
            "lag profiles",
            "Mean weight by token lag, 95 % band over clips, and the exponential fit.",
            f"Lag profiles of {name}, log scale. {profiles}",
            makers[f"lag_profile_{scope}"],
        ),
        f"frame_lag_profile_{scope}_{name}": (
            "frame-lag profiles",
            "Mean weight between patch tokens by frame lag, 95 % band over clips, and the exponential fit.",
            f"Frame-lag profiles of {name}, log scale. {frames}",
            makers[f"frame_lag_profile_{scope}"],
        ),
        f"half_life_{scope}_{name}": (
            "predicted and measured",
            "Measured half-life against the one that A and the mean step predict; a point a layer and direction.",
            f"Half-lives of {name}. {lives}",
            makers[f"half_life_{scope}"],
        ),
        f"frame_matrix_{scope}_{name}": (
            "frame matrix",
            "Share of weight that tokens of one frame give to each frame, first and last layer.",
            _frame_text(name, result, scope, ends),
            partial(frame_matrix_figure, result, scope, ends),
        ),
        f"class_row_{scope}_{name}": (
            "class row",
            "Share of the class token's row that goes to each frame, by direction.",
            f"Class row of {name}. {kept}",
            makers[f"class_row_{scope}"],
        ),
    }
    for layer in ends:
        pair = [h for h in heatmaps if (h.layer, h.scope) == (layer, scope)]
        figures[f"attention_{scope}_layer{layer:02d}_{name}"] = (
            f"implicit attention, layer {layer}",
            f"Mean weight W of layer {layer}, on a log scale of its own; lines mark frames.",
            f"Heatmaps of {name}, layer {layer}: rows are queries, columns keys, forward below the diagonal, "
            "backward above it.",
            partial(attention_figure, result, pair),
        )
    return {
        file: Illustration(group, scope, name, caption, alt, draw)
        for file, (group, caption, alt, draw) in figures.items()
    }


def series(name: str, result: DecayResult, direction: str, scope: str, quantity: str) -> str:
    """A quantity by layer, in words."""
    values = [
        number(result.measurement(layer, direction, scope, quantity).value, result.layout.length)
        for layer in result.layers
    ]
    label = plots.quantity_label(quantity)
    return f"{name}, {direction}, {label} by layer {_span(result.layers)}: {', '.join(values)}."


def _difference_text(rows: Sequence[Measurement]) -> str:
    parts = [
        f"layer {d.layer} {d.direction} {number(d.value)} ({number(d.low)} to {number(d.high)})" for d in rows
    ]
    return f"Difference in {plots.quantity_label(rows[0].quantity)}: {', '.join(parts)}."


def _frame_text(name: str, result: DecayResult, scope: str, layers: Iterable[int]) -> str:
    parts = []
    for layer in layers:
        for direction in result.directions:
            curve = result.curve(layer, direction, scope, "frame_matrix")
            if curve is not None:
                own = ", ".join(f"{share:.2f}" for share in curve.value.diagonal())
                parts.append(f"layer {layer} {direction}, share kept in the own frame: {own}")
    return f"Frame matrices of {name}: {'; '.join(parts)}."


def _span(layers: Sequence[int]) -> str:
    return f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else str(layers[0])


def _compare_figure(results: Mapping[str, DecayResult], scope: str) -> Figure:
    figure = Figure(figsize=(7.6, 5.4))
    axes = figure.subplots(2, 2)
    for row, quantity in zip(axes, COMPARED, strict=True):
        for ax, direction in zip(row, ("forward", "backward"), strict=True):
            plots.plot_models(results, quantity, scope, direction, ax)
    return figure


def _difference_figure(chosen: Mapping[str, Sequence[Measurement]]) -> Figure:
    figure = Figure(figsize=(7.6, 3.0))
    for ax, rows in zip(figure.subplots(1, 2), chosen.values(), strict=True):
        plots.plot_differences(rows, ax)
    return figure
