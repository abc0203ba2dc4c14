"""Two consequences of the claims that the paper does not draw, in numbers: rank under residuals, and the class row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis._theory.case import Case
from analysis._theory.relations import in_steps
from analysis.bootstrap import percentile_interval, resample_weights
from analysis.capture import Capture
from analysis.decay.measure import WEIGHT_UNITS
from analysis.matrix.reduce import LagProfile, reduce
from analysis.matrix.scopes import scoped
from analysis.results import Curve

RESIDUALS = ("none", "initial", "elemental")
HEADS, HEAD_WIDTH, TOKEN_WIDTH = 32, 8, 64
"""Of the random attention beside the scans: heads, the width of each, and the width of its tokens."""


def spectra(case: Case, layer: int) -> Iterator[Curve]:
    """Singular values of alpha[m+1:, :m], m = L/2, and the lag profile, of one scan under each residual.

    Only the residual differs; the scan is not masked. Values are over the largest of their channel: median over
    channels, and the 5th to 95th percentile. ``attention`` is a softmax of random heads on normal tokens, of the same
    length.
    """
    case = replace(case.to(torch.float64), mask_diagonal=False, h0=None)
    for residual in RESIDUALS:
        form = replace(case, residual=residual)
        yield _spectrum(in_steps(form)[0], residual, layer)
        profile = reduce(form.operator(), [LagProfile()])["LagProfile"].mean
        yield _curve(layer, residual, "residual_profile", profile[0].cpu().numpy())
    yield _spectrum(_random_attention(case.length), "attention", layer)


def _spectrum(alpha: Float[Tensor, "D L L"], name: str, layer: int) -> Curve:
    m = alpha.shape[-1] // 2
    values = torch.linalg.svdvals(alpha[:, m:, :m])
    relative = (values / values[:, :1]).cpu().numpy()
    low, high = np.quantile(relative, [0.05, 0.95], axis=0)
    curve = _curve(layer, name, "spectrum", np.median(relative, axis=0), low, high)
    return replace(curve, note="median, 5th and 95th percentile over channels; no interval over clips")


def _random_attention(length: int) -> Float[Tensor, "H L L"]:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(length, TOKEN_WIDTH, generator=g, dtype=torch.float64)
    query, key = (
        tokens
        @ torch.randn(HEADS, TOKEN_WIDTH, HEAD_WIDTH, generator=g, dtype=torch.float64)
        / TOKEN_WIDTH**0.5
        for _ in range(2)
    )
    return (query @ key.transpose(-1, -2) / HEAD_WIDTH**0.5).softmax(-1)


@dataclass
class ClassRows:
    """What the first class token takes from itself and from the others, clip by clip, scope ``contribution``."""

    taken: defaultdict[tuple[int, str], list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def take(self, capture: Capture) -> None:
        if not capture.layout.class_positions:
            return
        at = capture.layout.class_positions[0]
        row, _ = scoped(capture, "contribution").weigh(slice(at, at + 1), slice(0, capture.layout.length))
        own = row[0, 0, at].item()
        self.taken[capture.layer, capture.direction].append((own, row.sum().item() - own))

    def curves(self, resamples: int, seed: int) -> Iterator[Curve]:
        """Percent of both directions' row, mean over clips, with a bootstrap interval where there are two clips."""
        for layer in dict.fromkeys(layer for layer, _ in self.taken):
            rows = {d: np.array(pairs) for (at, d), pairs in self.taken.items() if at == layer}
            total = sum(pairs.sum(1) for pairs in rows.values())
            for direction, pairs in rows.items():
                share = 100 * pairs / np.asarray(total)[:, None]
                low = high = None
                if len(share) > 1:
                    low, high, _ = percentile_interval(resample_weights(len(share), resamples, seed) @ share)
                curve = _curve(layer, direction, "class_row", share.mean(0), low, high)
                note = "" if low is not None else "one clip: no interval"
                yield replace(curve, scope="contribution", n_clips=len(share), note=note)


MEANT = {
    "spectrum": ("fraction of the largest", "singular value, from 0"),
    "residual_profile": (WEIGHT_UNITS["ssm"], "lag in tokens"),
    "class_row": ("percent of both directions", "0 itself, 1 other tokens"),
}
"""Unit and axis of each curve."""


def _curve(
    layer: int,
    direction: str,
    quantity: str,
    value: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
) -> Curve:
    unit, axis = MEANT[quantity]
    return Curve(
        layer=layer, direction=direction, scope="ssm", quantity=quantity, unit=unit, axes=(axis,), value=value,
        low=low, high=high, n_clips=1,
    )  # fmt: skip
