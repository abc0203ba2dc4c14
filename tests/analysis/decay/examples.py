"""Results of clips whose lag profiles are exactly exponential, so that every number has a closed form."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis import Decay, Result, probe
from analysis.decay.metrics import QUANTILES
from tests.analysis.models import ids, own
from vmp.layout import TokenLayout

FRAMES, PATCHES = 4, 9
VIDEO = TokenLayout((0,), FRAMES, (3, 3))
TEXT = TokenLayout.sequence(40)
IMAGE = TokenLayout((4,), 1, (3, 3))

Rate = Callable[[int, str, int], float]


@dataclass(frozen=True)
class Known(Decay):
    """Decay whose `per_clip` gives what the tests chose, in the place of what a model does.

    `rate` takes layer, direction and clip; `change` replaces arrays by name.
    """

    rate: Rate = lambda layer, direction, clip: 0.2
    change: Mapping[str, Any] = field(default_factory=dict)

    def per_clip(self, view, rng):
        layout, clip = view.layout, int(view.site.sample.name.removeprefix("clip "))
        rate = self.rate(view.layer, view.direction, clip)
        lags, taus = np.arange(layout.length), np.arange(layout.frames)
        causal = np.tril(np.ones((layout.frames, layout.frames)))
        weights = np.exp(-0.2 * np.abs(np.subtract.outer(lags, lags)))
        found = {
            "lag_profile": np.exp(-rate * lags),
            "lag_pairs": layout.length - lags,
            "distance": [1 / rate, 0.1 / rate, 0.2 / rate],
            "uniform": [20.0, 2.0, 4.0],
            "effective_context": 3 / rate,
            "empty_rows": 1.0,
            "predicted": np.log(2) / rate * (0.5 + np.array(QUANTILES)),
            "weight_matrix": np.tril(weights) if view.direction == "forward" else np.triu(weights, 1),
        }
        if layout.frames:
            found |= {
                "frame_profile": np.exp(-10 * rate * taus),
                "frame_pairs": (layout.frames - taus) * layout.patches**2,
                "frame_matrix": causal / causal.sum(1, keepdims=True),
            }
        if layout.class_positions:
            found |= {"class_row": np.full(layout.frames, 0.2), "class_self": 1 - 0.2 * layout.frames}
        chosen = {n: value(clip) if callable(value) else value for n, value in self.change.items()}
        return {**found, **{name: value for name, value in chosen.items() if name in found}}


def known(
    layout: TokenLayout = VIDEO,
    rates: Sequence[float] | Rate = (0.2,),
    clips: int | None = None,
    *,
    layers: int = 1,
    change: Mapping[str, Any] | None = None,
) -> Result:
    """A result of these rates: one for each clip, or a function of layer, direction and clip."""
    rate = rates if callable(rates) else lambda layer, direction, clip: rates[clip]
    count = len(rates) if clips is None else clips
    measure = Known(rate=rate, change=change or {})
    return probe(own(layers), ids(count, layout.length), [measure], layout=layout, resamples=300)


def result(
    layout: TokenLayout = VIDEO, *, layers: int = 2, change: Mapping[str, Any] | None = None
) -> Result:
    """A result in which forward and backward decay at different rates, and three clips differ a little."""

    def rate(layer: int, direction: str, clip: int) -> float:
        return (0.1 + 0.05 * layer) * (1 + 0.1 * clip) * {"forward": 1.0, "backward": 2.0}[direction]

    return known(layout, rate, 3, layers=layers, change=change)
