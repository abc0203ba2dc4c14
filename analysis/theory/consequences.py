"""Two consequences of the claims that the paper does not draw, in numbers: rank under residuals, and the class row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from analysis.capture import Capture
from analysis.intervals import percentile_interval, resample_weights
from analysis.matrix.reduce import LagProfile, reduce
from analysis.matrix.scopes import scoped
from analysis.theory.case import Case
from analysis.theory.relations import HEAD_WIDTH

RESIDUALS = ("none", "initial", "elemental")
HEADS, TOKEN_WIDTH = 32, 64
"""The number of random attention heads that scans are compared with, and the width of the tokens they read."""

MEANT = {
    "spectrum": ("fraction of the largest", "singular value, from 0"),
    "residual_profile": ("scan output per unit of scan input", "lag in tokens"),
    "class_row": ("percent of both directions", "0 itself, 1 other tokens"),
}
"""The unit and the axis of each quantity that a `TheoryCurve` holds."""

RECORD = ConfigDict(extra="forbid", ser_json_inf_nan="strings")
"""How the records of a result of this package are read and written; JSON keeps every digit."""


@dataclass(frozen=True, config=RECORD)
class TheoryCurve:
    """One array of numbers over one axis, with an interval.

    Attributes:
        layer: The layer whose scans were read.
        direction: Their direction; for the quantities of one scan under several residuals, the name of the residual.
        scope: The scope of the matrix, as in `analysis.matrix.scopes`.
        quantity: A key of `MEANT`; `unit` and `axes` are its unit and the name of its axis.
        value: The numbers; `low` and `high` are the ends of their intervals, or None where there are none.
        n_clips: The number of clips that the numbers are means of.
        note: What the interval is over, or why there is none.
    """

    layer: int
    direction: str
    scope: str
    quantity: str
    unit: str
    axes: tuple[str, ...]
    value: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    n_clips: int
    note: str = ""


def spectra(case: Case, layer: int) -> Iterator[TheoryCurve]:
    """Yield the singular values of alpha[m+1:, :m], m = L/2, and the lag profile of one scan under each residual.

    The residual alone differs, and the scan is not masked. Values are relative to the largest of their channel: the
    median over channels, with the 5th and the 95th percentile. The direction "attention" stands for softmax matrices
    of the same length, of random heads on normal tokens.
    """
    case = replace(case.to(torch.float64), mask_diagonal=False, h0=None)
    for residual in RESIDUALS:
        form = replace(case, residual=residual)
        yield _spectrum(form.in_steps()[0], residual, layer)
        profile = reduce(form.operator(), [LagProfile()])["LagProfile"].mean[0].cpu().numpy()
        yield _curve("residual_profile", layer, residual, [profile])
    yield _spectrum(_random_attention(case.length), "attention", layer)


def _spectrum(alpha: Float[Tensor, "D L L"], name: str, layer: int) -> TheoryCurve:
    m = alpha.shape[-1] // 2
    values = torch.linalg.svdvals(alpha[:, m:, :m])
    relative = (values / values[:, :1]).cpu().numpy()
    numbers = [np.median(relative, axis=0), *np.quantile(relative, [0.05, 0.95], axis=0)]
    note = "median, 5th and 95th percentile over channels; no interval over clips"
    return _curve("spectrum", layer, name, numbers, note=note)


def _random_attention(length: int) -> Float[Tensor, "H L L"]:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    tokens = normal(length, TOKEN_WIDTH)
    query, key = (tokens @ normal(HEADS, TOKEN_WIDTH, HEAD_WIDTH) / TOKEN_WIDTH**0.5 for _ in range(2))
    return (query @ key.transpose(-1, -2) / HEAD_WIDTH**0.5).softmax(-1)


def class_row(capture: Capture) -> tuple[float, float]:
    """Return what the first class token takes from itself and from all others, in the scope `contribution`."""
    at = capture.layout.class_positions[0]
    row, _ = scoped(capture, "contribution").weigh(slice(at, at + 1), slice(0, capture.layout.length))
    own = row[0, 0, at].item()
    return own, row.sum().item() - own


def class_rows(
    taken: Mapping[tuple[int, str], Sequence[tuple[float, float]]], resamples: int, seed: int
) -> Iterator[TheoryCurve]:
    """Yield the shares of the class token's row, in percent of both directions together.

    Args:
        taken: What `class_row` returned, clip by clip, by layer and direction.
        resamples, seed: Those of the bootstrap over clips, which takes two clips at least.
    """
    for layer in dict.fromkeys(layer for layer, _ in taken):
        rows = {d: np.array(pairs) for (at, d), pairs in taken.items() if at == layer}
        total = np.asarray(sum(pairs.sum(1) for pairs in rows.values()))
        for direction, pairs in rows.items():
            share = 100 * pairs / total[:, None]
            numbers, note = [share.mean(0)], "one clip: no interval"
            if len(share) > 1:
                low, high, _ = percentile_interval(resample_weights(len(share), resamples, seed) @ share)
                numbers, note = [*numbers, low, high], ""
            yield _curve("class_row", layer, direction, numbers, "contribution", len(share), note)


def _curve(
    quantity: str,
    layer: int,
    direction: str,
    numbers: Sequence[np.ndarray],
    scope: str = "ssm",
    n_clips: int = 1,
    note: str = "",
) -> TheoryCurve:
    """Make a curve of its values alone, or of values, low ends and high ends."""
    unit, axis = MEANT[quantity]
    value, *ends = (tuple(x.tolist()) for x in numbers)
    low, high = ends or (None, None)
    return TheoryCurve(layer, direction, scope, quantity, unit, (axis,), value, low, high, n_clips, note)
