"""Element contradiction of one matrix: mediators, transitivity, rank and unlike keys (docs/math.md, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from jaxtyping import Float

from analysis.contradiction.layer import measure_layer
from analysis.contradiction.metrics import BINS, QUANTILES, QUARTER
from analysis.intervals import mean_over_clips
from analysis.measure import Column, Measure, Place, Quantity, View

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

    from analysis.result import Result

NO_TRIPLE = "every triple was 0 / 0, or no triple of tokens that the layer relates, in a clip"
"""Note used where a transitivity residual is undefined."""

BY_STRUCTURE = "1 by structure, as the mask makes alpha_jj 0"
"""Beginning of the note used where the backward mask alone decides the transitivity residual."""

OF_SOFTMAX = frozenset({"mediator_logits", "block_rank_logits", "block_rank_logits_bound"})
"""Quantities that only self-attention has."""


@final
@dataclass(frozen=True)
class Contradiction(Measure):
    """Element contradiction of every layer, direction and scope.

    Args:
        mediators: How many tokens are replaced, one at a time, in each layer and clip.
    """

    mediators: int = 16

    name = "contradiction"
    title = "Element contradiction"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "mediator_sensitivity": Quantity("nats", "mediator sensitivity"),
        "mediator_relative": Quantity("nats", "mediator sensitivity of a ratio in a row"),
        "mediator_logits": Quantity("nats", "mediator sensitivity of logits"),
        "mediator_left_out": Quantity("fraction", "relations of 0, left out of the sensitivity"),
        "mediator_underflow": Quantity("fraction", "relations that the model's dtype holds as 0"),
        "transitivity_residual": Quantity("none", "transitivity residual"),
        "transitivity_unmasked": Quantity("none", "transitivity residual, unmasked"),
        "transitivity_left_out": Quantity("fraction", "triples of 0 / 0, left out of the residual"),
        "block_rank": Quantity("none", "effective block rank"),
        "block_rank_bound": Quantity("none", "bound on the block's rank"),
        "block_rank_logits": Quantity("none", "effective block rank of the logits"),
        "block_rank_logits_bound": Quantity("none", "bound on the logits' block rank"),
        "contradictory_mass": Quantity("none", "contradictory mass"),
        "contradictory_share": Quantity("fraction", "share of P on the least similar quarter of keys"),
        "mediator_quantiles": Quantity(
            "nats", "quantiles of the mediator sensitivity over channels and triples", dims=("quantile",)
        ),
        "mediator_by_lag": Quantity(
            "nats", "mediator sensitivity by octave of the lag i - k", dims=("octave",)
        ),
        "transitivity_quantiles": Quantity(
            "none", "quantiles of the unmasked residual over channels and triples", dims=("quantile",)
        ),
        "transitivity_histogram": Quantity(
            "fraction", "share of channels and triples by unmasked residual", dims=("residual_bin",)
        ),
        "block_rank_quantiles": Quantity(
            "none", "quantiles of the effective block rank over channels", dims=("quantile",)
        ),
        "contradictory_quantiles": Quantity(
            "none", "quantiles of the contradictory mass over rows", dims=("quantile",)
        ),
    }
    kept: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "contradictory_observed": (),
        "contradictory_expected": (),
    }
    # A bin of residuals is named by its lower end; octave o holds the lags from 2^o to 2^(o+1) - 1.
    coordinates: ClassVar[Mapping[str, Sequence[Any]]] = {
        "quantile": QUANTILES,
        "residual_bin": tuple(b / BINS for b in range(BINS)),
    }
    table = (
        Column("mediator_sensitivity", "mediator\n10⁻³ nats", interval=True, scale=1000.0),
        Column("mediator_relative", "\nratio", scale=1000.0),
        Column("mediator_logits", "\nlogits", scale=1000.0),
        Column("transitivity_residual", "resid-\nual"),
        Column("transitivity_unmasked", "residual\nunmasked", interval=True),
        Column("block_rank", "block\nrank", interval=True),
        Column("block_rank_bound", "\nbound"),
        Column("block_rank_logits", "\nlogits"),
        Column("contradictory_mass", "contrad.\nmass", interval=True),
    )
    caption = (
        "m–n: 95 % interval over clips. Mediator: sensitivity of a relation to a token between; ratio: that of two "
        "relations of one row to each other, without what is common to the row; both, and logits, in 0.001 nats. "
        "Residual: of transitivity; unmasked: of the same scan without its mask. Rank: effective, beside its bound. "
        "Logits: before the softmax, where there is one. Mass: 1 blind to similarity, above 1 contradictory. "
        "-: a gap, see below."
    )

    @property
    def plots(self) -> Mapping[str, Callable[..., Any]]:
        from analysis.contradiction.plots import PLOTS

        return PLOTS

    def figures(self, result: Result, model: str) -> Mapping[str, Callable[[], Figure]]:
        from analysis.contradiction.plots import figures

        return figures(result, model)

    def per_clip(self, view: View, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return one direction and scope of the layer, all of which are measured together for the first of them."""
        found = view.once(self, lambda: measure_layer(view.site, self.mediators, rng))
        return found[view.direction, view.scope]

    def summarise(
        self, clips: xarray.Dataset, weights: Float[np.ndarray, "R n"] | None
    ) -> Mapping[str, np.ndarray]:
        """Average the clips' numbers; contradictory mass is the ratio of the clips' mean shares."""
        n = clips.sizes["clip"]
        rows = np.full((1, n), 1 / n) if weights is None else weights
        observed, expected = (
            rows @ clips[f"contradictory_{part}"].values for part in ("observed", "expected")
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            mass = np.where(expected > 0, observed / expected, np.nan)
        found = {"contradictory_mass": mass, "contradictory_share": observed}
        for name, quantity in self.quantities.items():
            if name not in found:
                values = clips[name].values
                found[name] = rows @ values if quantity.is_number else mean_over_clips(values, weights)
        return found

    def gap(self, quantity: str, clips: xarray.Dataset) -> str:
        place: Place = clips.attrs["place"]
        length, taken = place.layout.length, 2 * place.reach + 1
        tokens = f"{length} token{'' if length == 1 else 's'}"
        if quantity.startswith("mediator") and length < taken:
            kept = "" if place.reach == 1 else ", as a mediator's convolution is to reach neither token"
            return f"{tokens}: a triple takes {taken}{kept}"
        if quantity.startswith("transitivity"):
            return f"{tokens}: a triple takes 3" if length < 3 else NO_TRIPLE
        if quantity.startswith("block_rank") and length < 2:
            return f"{tokens}: no block"
        if quantity in OF_SOFTMAX and place.is_scan:
            return "a scan has no softmax, and so no logits"
        if quantity.startswith("mediator"):
            return "every relation was 0 in a clip"
        if quantity == "block_rank_bound":
            return (
                "contributions are norms, whose matrix has no such bound"
                if place.scope == "contribution"
                else "the softmax leaves no bound on the rank but the block's size"
            )
        if quantity.startswith("block_rank"):
            return "the block is 0 in a clip"
        return f"no row with {QUARTER} keys or more and a sum above 0"

    def remark(self, quantity: str, value: float, clips: xarray.Dataset) -> str:
        said = []
        if quantity in ("mediator_sensitivity", "transitivity_residual"):
            left_out = 100 * float(clips[f"{quantity.partition('_')[0]}_left_out"].values.mean())
            if left_out > 0:
                said.append(f"{left_out:.3g} % of channels and triples are 0 and left out")
        if quantity == "transitivity_residual" and _masked(clips):
            said.append(f"{BY_STRUCTURE}; see transitivity_unmasked")
        if np.isinf(value):
            said.append("infinite")
        return "; ".join(said)

    def notes(self, result: Result) -> Iterator[str]:
        if result.summary("transitivity_residual")["note"].str.contains(BY_STRUCTURE, regex=False).any():
            yield (
                "The backward mask makes alpha_jj 0, so its transitivity residual is 1 by structure; figures and the "
                "column before the mask show that of the same scan without it."
            )


def _masked(clips: xarray.Dataset) -> bool:
    """Say whether every residual is 1 where that before the mask is not."""
    as_it_is, before = (clips[f"transitivity_{name}"].values for name in ("residual", "unmasked"))
    return bool(np.allclose(as_it_is, 1, rtol=0, atol=1e-9) and not np.array_equal(as_it_is, before))
