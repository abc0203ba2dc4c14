"""Historical decay of one matrix: profiles by lag, distances, contexts and frames (docs/math.md, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import Float

from analysis.capture import Capture
from analysis.decay.metrics import (
    MIN_PAIRS,
    QUANTILES,
    block_mean,
    decay_index,
    fit_decay,
    half_life,
    layers_to_draw,
    predicted_half_life,
)
from analysis.intervals import mean_over_clips
from analysis.matrix.reduce import AbsoluteMean, Distances, EffectiveContext, FrameMatrix, LagProfile, reduce
from analysis.measure import Column, Measure, Quantity, View, layout_gap, numpy_of

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

    from analysis.result import Result
    from vmp.layout import TokenLayout

NO_SCAN = "self-attention has no step to predict a half-life from"
"""Note of a number that only a scan has."""

NONFINITE = "weights are not finite"
"""Note used where rows of W contain NaN or infinity."""

UNITS = ("tokens", "frames", "patches")


@final
@dataclass(frozen=True)
class Decay(Measure):
    """Historical decay of every layer, direction and scope.

    Args:
        draw: layers whose mean matrix W is kept for drawing; a few of those probed where None, none where empty.
    """

    draw: tuple[int, ...] | None = None

    name = "decay"
    title = "Historical decay"
    sides = True
    quantities = {
        "half_life_tokens": Quantity("tokens", "half-life"),
        "half_life_frames": Quantity("frames", "half-life", "frames"),
        "predicted_half_life_tokens": Quantity("tokens", "predicted half-life, median"),
        "predicted_half_life_p10_tokens": Quantity("tokens", "predicted half-life, 10th percentile"),
        "predicted_half_life_p90_tokens": Quantity("tokens", "predicted half-life, 90th percentile"),
        "predicted_half_life_frames": Quantity("frames", "predicted half-life, median", "frames"),
        "decay_rate_tokens": Quantity("1/token", "decay rate"),
        "decay_fit_log_scale_tokens": Quantity("log of the unit of W", "log of the fit at lag 0"),
        "decay_fit_r2_tokens": Quantity("none", "R2 of the exponential fit"),
        "decay_fit_aic_difference_tokens": Quantity("none", "AIC, exponential less power law"),
        "decay_rate_frames": Quantity("1/frame", "decay rate", "frames"),
        "decay_fit_log_scale_frames": Quantity(
            "log of the unit of W", "log of the fit at frame lag 0", "frames"
        ),
        "decay_fit_r2_frames": Quantity("none", "R2 of the exponential fit over frames", "frames"),
        "decay_fit_aic_difference_frames": Quantity(
            "none", "AIC over frames, exponential less power law", "frames"
        ),
        "mean_distance_tokens": Quantity("tokens", "mean distance"),
        "mean_distance_frames": Quantity("frames", "mean distance", "frames"),
        "mean_distance_patches": Quantity("patches", "mean distance in the frame", "patches"),
        "decay_index_tokens": Quantity("none", "decay index"),
        "decay_index_frames": Quantity("none", "decay index over frames", "frames"),
        "decay_index_patches": Quantity("none", "decay index over places in the frame", "patches"),
        "effective_context_tokens": Quantity("tokens", "effective context"),
        "class_self": Quantity("fraction", "what the class token keeps", "class"),
        "empty_rows": Quantity("rows", "rows of sum 0, left out"),
        "lag_profile": Quantity("W", "mean weight by lag", dims=("lag",)),
        "frame_lag_profile": Quantity("W", "mean weight by frame lag", "frames", dims=("frame_lag",)),
        "frame_matrix": Quantity(
            "fraction", "share of a frame's weight by frame", "frames", dims=("query_frame", "key_frame")
        ),
        "class_row": Quantity("fraction", "the class token's row by frame", "class", dims=("key_frame",)),
        "weight_matrix": Quantity(
            "W", "mean weight by query and key, over square blocks of tokens where there are many",
            dims=("query_cell", "key_cell"), interval=False, layer_dim="drawn_layer",
        ),
    }  # fmt: skip
    kept = {
        "lag_pairs": ("lag",),
        "frame_profile": ("frame_lag",),
        "frame_pairs": ("frame_lag",),
        "distance": ("distance_unit",),
        "uniform": ("distance_unit",),
        "effective_context": (),
        "predicted": ("prediction_quantile",),
    }
    summed = frozenset({"weight_matrix"})
    coordinates = {"distance_unit": UNITS, "prediction_quantile": QUANTILES}
    table = (
        Column("half_life_tokens", "half-life\ntokens", interval=True, beyond="length"),
        Column("half_life_frames", "\nframes", beyond="frames"),
        Column("predicted_half_life_tokens", "predicted\ntokens"),
        Column("decay_rate_tokens", "rate\n1/token"),
        Column("decay_fit_r2_tokens", "\nR2"),
        Column("decay_fit_aic_difference_tokens", "\nlaw", shows=lambda aic: "power" if aic > 0 else "exp"),
        Column("decay_index_tokens", "decay\nindex", interval=True),
        Column("effective_context_tokens", "context\ntokens"),
    )
    caption = (
        "m–n: 95 % interval over clips. Predicted: ln 2 / (|A| mean delta), median over channels and states. "
        "Index: 0 uniform, 1 self only. Law: exponential or power law, whichever has the lower AIC. "
        "-: a gap, see below."
    )

    def __post_init__(self) -> None:
        if self.draw is not None and any(layer < 0 for layer in self.draw):
            raise ValueError(f"draw: {self.draw}; name layers by their index from 0")

    @property
    def plots(self) -> Mapping[str, Callable[..., Any]]:
        from analysis.decay.plots import PLOTS

        return PLOTS

    def figures(self, result: Result, model: str) -> Mapping[str, Callable[[], Figure]]:
        from analysis.decay.plots import figures

        return figures(result, model)

    def per_clip(self, view: View, rng: np.random.Generator) -> Mapping[str, Any]:
        layout = view.layout
        wanted = layers_to_draw(view.site.layers) if self.draw is None else self.draw
        # One side of a matrix is half of a picture that the whole has.
        drawn = view.layer in wanted and view.side is None
        reducers = [LagProfile(), Distances(), EffectiveContext(), FrameMatrix()]
        found = reduce(view.matrix, [*reducers, *([AbsoluteMean()] if drawn else [])], layout=layout)
        profile, distance, frames = found["LagProfile"], found["Distances"], found["FrameMatrix"]
        with_class = frames is not None and bool(layout.class_positions)
        context = found["EffectiveContext"]
        return {
            "lag_profile": profile.mean[0],
            "lag_pairs": profile.counts,
            "frame_profile": None if profile.frame_mean is None else profile.frame_mean[0],
            "frame_pairs": profile.frame_counts,
            "distance": [float(getattr(distance, unit)[0]) for unit in ("token", "frame", "patch")],
            "uniform": [
                float(getattr(distance, f"uniform_{unit}")[0]) for unit in ("token", "frame", "patch")
            ],
            "effective_context": context.tokens[0],
            "empty_rows": context.empty_rows[0],
            "predicted": _predicted(view),
            "frame_matrix": None if frames is None else frames.frames[0],
            "class_row": frames.class_row[0] if frames is not None and with_class else None,
            "class_self": frames.class_self[0] if frames is not None and with_class else None,
            "weight_matrix": block_mean(numpy_of(found["AbsoluteMean"])[0]) if drawn else None,
        }

    def summarise(
        self, clips: xarray.Dataset, weights: Float[np.ndarray, "R n"] | None
    ) -> Mapping[str, np.ndarray]:
        """Profiles, distances and quantiles are averaged over clips first, and a number is taken of the average."""
        layout = clips.attrs["place"].layout
        n = clips.sizes["clip"]
        rows = np.full((1, n), 1 / n) if weights is None else weights
        numbers = self._numbers(clips, layout, rows)
        nothing = np.full(len(rows), np.nan)
        found = {
            name: nothing if self._layout_gap(name, layout) else numbers.get(name, nothing)
            for name, quantity in self.quantities.items()
            if quantity.is_number
        }
        curves = {"lag_profile": "lag_profile"}
        if layout.frames > 1:
            curves |= {
                "frame_lag_profile": "frame_profile",
                "frame_matrix": "frame_matrix",
                "class_row": "class_row",
            }
        found |= {name: mean_over_clips(clips[k].values, weights) for name, k in curves.items() if k in clips}
        if "weight_matrix" in clips:
            found["weight_matrix"] = clips["weight_matrix"].values[None]
        return found

    def _numbers(
        self, clips: xarray.Dataset, layout: TokenLayout, rows: Float[np.ndarray, "R n"]
    ) -> dict[str, Any]:
        distance, uniform = rows @ clips["distance"].values, rows @ clips["uniform"].values
        found = {
            "effective_context_tokens": rows @ clips["effective_context"].values,
            "empty_rows": rows @ clips["empty_rows"].values,
        }
        if "predicted" in clips:
            found |= _predictions(clips["predicted"].values, rows, layout)
        for axis, unit in enumerate(UNITS):
            found[f"mean_distance_{unit}"] = distance[:, axis]
            found[f"decay_index_{unit}"] = decay_index(distance[:, axis], uniform[:, axis])
        found |= _of_profile(rows @ clips["lag_profile"].values, clips["lag_pairs"].values[0], "tokens")
        if "frame_profile" in clips:
            found |= _of_profile(
                rows @ clips["frame_profile"].values, clips["frame_pairs"].values[0], "frames"
            )
        if "class_self" in clips:
            found["class_self"] = rows @ clips["class_self"].values
        return found

    def gap(self, quantity: str, clips: xarray.Dataset) -> str:
        place = clips.attrs["place"]
        if said := self._layout_gap(quantity, place.layout):
            return said
        if not place.is_scan and quantity.startswith("predicted"):
            return NO_SCAN
        return NONFINITE if _nonfinite(clips) else _why_undefined(quantity)

    def _layout_gap(self, quantity: str, layout: TokenLayout) -> str:
        """Why a sequence of this layout has no such quantity, or "" where it may have."""
        if said := layout_gap(self.quantities[quantity], layout):
            return said
        if quantity.startswith("half_life"):
            unit = quantity.rpartition("_")[2]
            steps = layout.frames if unit == "frames" else layout.length
            if steps < 3:
                counted = f"{steps} {unit if steps > 1 else unit[:-1]}"
                return f"{counted}: at least three are needed to measure a fall"
        return ""

    def remark(self, quantity: str, value: float, clips: xarray.Dataset) -> str:
        said = []
        if _nonfinite(clips) and not quantity.startswith("predicted"):
            counted = ": rows that hold them are counted here" if quantity == "empty_rows" else ""
            said.append(f"{NONFINITE}{counted}")
        if np.isinf(value):
            said.append(_beyond(quantity, clips.attrs["place"].layout))
        return "; ".join(said)

    def notes(self, result: Result) -> Iterator[str]:
        models = result.provenance.models
        attention = [name for name, origin in models.items() if origin.backend.startswith("none")]
        if attention:
            named = "" if len(attention) == len(models) else f"{', '.join(attention)}: "
            yield (
                f"{named}Self-attention has no scan: predicted half-lives are gaps. Where it looks both ways, its "
                "whole rows stand first, then each side alone (j<=i, j>=i), whose rows are divided by their sums over "
                "that side."
            )
        missed = sorted({layer for layer in self.draw or () if layer not in result.layers})
        if missed:
            yield f"Not probed, and so not drawn: layer {', '.join(map(str, missed))} of Decay(draw=...)."
        if "drawn_layer" in result.data and len(result.data["drawn_layer"]) < len(result.layers):
            drawn = ", ".join(map(str, result.data["drawn_layer"].values))
            yield f"Heatmaps were drawn for layers {drawn} alone; --layers, or Decay(draw=...), chooses others."


def _predicted(view: View) -> np.ndarray | None:
    """Quantiles of the predicted half-life, the same in every scope; None for self-attention."""
    if not isinstance(view.capture, Capture):
        return None
    terms = view.capture.terms
    return predicted_half_life(numpy_of(terms.A), numpy_of(terms.delta)[0])


def _nonfinite(clips: xarray.Dataset) -> bool:
    pairs = clips["lag_pairs"].values[0] > 0
    return not np.isfinite(clips["lag_profile"].values[:, pairs]).all()


def _predictions(
    quantiles: Float[np.ndarray, "n Q"], rows: Float[np.ndarray, "R n"], layout: TokenLayout
) -> dict[str, np.ndarray]:
    # Infinity, of a step of 0, counts where its clip was drawn: 0 times infinity has no value.
    endless = np.isinf(quantiles)
    predicted = rows @ np.where(endless, 0, quantiles)
    predicted = np.where(rows @ endless > 0, np.inf, predicted)
    median, p10, p90 = (predicted[:, QUANTILES.index(q)] for q in (0.5, 0.1, 0.9))
    return {
        "predicted_half_life_tokens": median,
        "predicted_half_life_p10_tokens": p10,
        "predicted_half_life_p90_tokens": p90,
        "predicted_half_life_frames": median / max(layout.patches, 1),
    }


def _of_profile(
    profile: Float[np.ndarray, "R K"], pairs: Float[np.ndarray, "K"], unit: str
) -> dict[str, np.ndarray]:
    fit = fit_decay(profile, pairs)
    return {
        f"half_life_{unit}": half_life(profile, pairs),
        f"decay_rate_{unit}": fit.rate,
        f"decay_fit_log_scale_{unit}": fit.log_scale,
        f"decay_fit_r2_{unit}": fit.r2,
        f"decay_fit_aic_difference_{unit}": fit.aic_difference,
    }


def _why_undefined(quantity: str) -> str:
    if quantity.startswith("half_life"):
        return "no weight at lag 1"
    if "_r2_" in quantity:
        return "the profile is flat, or too few lags for a fit"
    if quantity.startswith("decay_rate") or "_fit_" in quantity:
        return f"fewer than 3 lags with {MIN_PAIRS} pairs and m(k) > 1e-6 m(1)"
    if quantity.startswith("decay_index"):
        return "the uniform matrix has no distance either"
    return "no row with a sum above 0"


def _beyond(quantity: str, layout: TokenLayout) -> str:
    if quantity == "half_life_tokens":
        return f"beyond L = {layout.length} tokens"
    if quantity == "half_life_frames":
        return f"beyond T = {layout.frames} frames"
    return "infinite: a step of 0"
