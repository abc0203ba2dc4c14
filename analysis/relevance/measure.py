"""Relevance of a whole model: rankings of a clip's parts, tested by deletion (docs/math.md, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.intervals import mean_over_clips
from analysis.measure import Measure, ModelView, Quantity, layout_gap
from analysis.relevance.deletion import PARTS, area, deletion_curve, order_of, part_count, part_scores
from analysis.relevance.rankings import NO_HEAD, RANDOM, RANKINGS, NoPrediction, parts_of, relevance
from vmp.layout import TokenLayout

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure
    from rich.table import Table

    from analysis.result import Result

NOT_FINITE = "the model's output is not finite"
REFERENCE = "random orders are what the other rankings are compared with"

CAPTION = (
    "Each number is the area under the probability of the model's own class as parts of the clip are removed, the "
    "part that is ranked highest first. The lower the area, the more faithful the ranking. In brackets stands the "
    "area less that of random orders of the same clips; * marks a difference whose 95 % interval over clips excludes "
    "zero. The intervals are not corrected for their number."
)


@final
@dataclass(frozen=True)
class Relevance(Measure):
    """Which parts of a clip a model's prediction rests on, by several rankings, and how faithful each of them is.

    Args:
        random_orders: Orders drawn at random for each clip and kind of part.

    Raises:
        ValueError: There is not even one random order.
    """

    random_orders: int = 10

    name = "relevance"
    title = "Relevance"
    level = "model"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "deletion_area": Quantity(
            "probability", "deletion area", "patches", ("part", "ranking"), listed=True
        ),
        "deletion_area_less_random": Quantity(
            "probability", "deletion area less random orders", "patches", ("part", "ranking"), listed=True
        ),
        **{
            f"deletion_curve_{part}": Quantity(
                "probability",
                f"probability of the model's own class by {part}s removed",
                "patches",
                ("ranking", f"{part}s_removed"),
            )
            for part in PARTS
        },
        "relevance_by_frame": Quantity(
            "fraction", "share of relevance by frame", "patches", ("ranking", "key_frame")
        ),
    }
    kept: ClassVar[Mapping[str, tuple[str, ...]]] = {"predicted_class": (), "predicted_probability": ()}
    coordinates: ClassVar[Mapping[str, Sequence[Any]]] = {"part": PARTS, "ranking": tuple(RANKINGS)}

    def __post_init__(self) -> None:
        if self.random_orders < 1:
            raise ValueError(f"random_orders is {self.random_orders}; at least one is needed to compare with")

    @property
    def plots(self) -> Mapping[str, Callable[..., Any]]:
        from analysis.relevance.plots import PLOTS

        return PLOTS

    def figures(self, result: Result, model: str) -> Mapping[str, Callable[[], Figure]]:
        from analysis.relevance.plots import figures

        return figures(result, [model])

    def per_clip(self, view: ModelView, rng: np.random.Generator) -> Mapping[str, Any]:
        """Curves and areas of one clip; nothing where there is no prediction, which `gap` explains."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if view.sample.tokens.ndim != 4:
            return {}
        try:
            tokens, layout, target, probability = relevance(
                view.model, view.clip, family=view.family, layout=view.layout
            )
        except NoPrediction:
            return {}
        found: dict[str, Any] = {
            "predicted_class": target,
            "predicted_probability": probability,
            "relevance_by_frame": _by_frame(tokens, layout),
        }
        areas = np.full((len(PARTS), len(RANKINGS)), np.nan)
        for place, part in enumerate(PARTS):
            if part_count(part, layout) == 1:  # The whole clip is one part: there is no order.
                continue
            ordered = [order_of(part_scores(values, part, layout), generator) for values in tokens.values()]
            drawn = [torch.randperm(len(ordered[0]), generator=generator) for _ in range(self.random_orders)]
            orders = torch.stack(ordered + drawn)
            curves = deletion_curve(view.model, view.clip, orders, part, layout, target, family=view.family)
            named = dict(zip(tokens, curves, strict=False)) | {RANDOM: curves[len(tokens) :].mean(0)}
            curves = torch.stack([named[name] for name in RANKINGS])
            found[f"deletion_curve_{part}"] = curves
            areas[place] = area(curves).numpy()
        less = areas - areas[:, -1:]
        less[:, -1] = np.nan
        return {**found, "deletion_area": areas, "deletion_area_less_random": less}

    def summarise(
        self, clips: xarray.Dataset, weights: Float[np.ndarray, "R n"] | None
    ) -> Mapping[str, np.ndarray]:
        """Means over clips. Differences to random orders are paired: resamples draw clips, not orders."""
        draws = 1 if weights is None else len(weights)
        found = {}
        for name, quantity in self.quantities.items():
            if name not in clips:
                if quantity.listed:
                    found[name] = np.full((draws, len(PARTS), len(RANKINGS)), np.nan)
            elif quantity.listed:
                found[name] = _each(clips[name].values, weights)
            else:
                found[name] = mean_over_clips(clips[name].values, weights)
        return found

    def gap(self, quantity: str, clips: xarray.Dataset) -> str:
        if "predicted_class" in clips:
            return NOT_FINITE
        return layout_gap(self.quantities[quantity], clips.attrs["place"].layout) or NO_HEAD

    def entry_gap(self, quantity: str, clips: xarray.Dataset, **own: Any) -> str:
        if "predicted_class" in clips:
            if f"deletion_curve_{own['part']}" not in clips:
                return f"deletion of {own['part']}s: one of them is the whole clip"
            if quantity == "deletion_area_less_random" and own["ranking"] == RANDOM:
                return REFERENCE
        return self.gap(quantity, clips)

    def notes(self, result: Result) -> Iterator[str]:
        said: dict[str, dict[str, None]] = {}
        for model in result.models:
            for part in PARTS:
                found = result.number("deletion_area", model=model, part=part, ranking=RANDOM)
                if np.isnan(found.value):
                    said.setdefault(found.note, {})[model] = None
        for why, models in said.items():
            of = f" of {', '.join(models)}" if len(result.models) > 1 else ""
            yield f"Relevance{of} has gaps: {why}."

    def tables(self, result: Result) -> Iterator[Table]:
        """A table for each kind of part: a row for each ranking, a column for each model."""
        from analysis.tables import plain_table

        parts = parts_of(result)
        for part in parts:
            table = plain_table(f"Deletion of {part}s", CAPTION if part == parts[-1] else None)
            table.add_column("ranked by")
            for model in result.models:
                table.add_column(model, justify="right", overflow="fold")
            for ranking in RANKINGS:
                table.add_row(ranking, *(_cell(result, model, part, ranking) for model in result.models))
            yield table


def _by_frame(tokens: Mapping[str, Tensor], layout: TokenLayout) -> Float[np.ndarray, "rankings frames"]:
    """Absolute sums over each frame's tokens divided by their total; NaN where it is 0, and for random orders."""
    shares = np.full((len(RANKINGS), layout.frames), np.nan)
    for place, name in enumerate(RANKINGS):
        if name in tokens:
            frames = part_scores(tokens[name], "frame", layout).abs()
            shares[place] = (frames / frames.sum()).numpy()
    return shares


def _each(
    values: Float[np.ndarray, "n *S"], weights: Float[np.ndarray, "R n"] | None
) -> Float[np.ndarray, "R *S"]:
    """Means over clips, entry by entry, so that no bit of one depends on how many others there are."""
    entries = np.moveaxis(values, 0, -1).reshape(-1, len(values))
    found = [np.array([entry.mean()]) if weights is None else weights @ entry for entry in entries]
    return np.stack(found, 1).reshape(-1, *values.shape[1:])


def _cell(result: Result, model: str, part: str, ranking: str) -> str:
    from analysis.tables import number

    area, less = (
        result.number(name, model=model, part=part, ranking=ranking)
        for name in ("deletion_area", "deletion_area_less_random")
    )
    if np.isnan(less.value):
        return number(area.value)
    sure = less.low > 0 or less.high < 0
    return f"{number(area.value)} ({'+' if less.value > 0 else ''}{number(less.value)}{'*' if sure else ''})"
