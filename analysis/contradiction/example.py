"""One relation in frames: two tokens that are unlike and strongly related, and what the tokens between do to it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import nn

from analysis.capture import family_of
from analysis.contradiction.entries import Entries, entries
from analysis.contradiction.layer import (
    Captured,
    captured,
    direction_mass,
    reach,
    replacements,
    reversed_steps,
    substitute,
)
from analysis.contradiction.metrics import cosine, log_change
from analysis.contradiction.probe import layer_inputs
from analysis.contradiction.result import ContradictionResult
from analysis.inputs import Sample, denormalise
from analysis.matrix.scopes import Scope
from analysis.precision import full_precision

MOST_BETWEEN = 256
"""Tokens between that are replaced; where there are more, evenly spaced ones."""

RULE = (
    "of all pairs of patch tokens a frame or more apart, whose key is among the row's least similar quarter, the one "
    "with the largest P; in the first clip, in the layer and direction of the largest contradictory mass"
)
"""How the pair is chosen. In a model of one frame the pair lies in it, with a token between out of reach of both."""


@dataclass(frozen=True, eq=False)
class Example:
    """A relation (i, k) of one layer and direction, on the clip's own frames.

    Attributes:
        clip: its name; frames: RGB, one for each temporal position of the model; grid: patches down and across.
        row, column: positions of i and k in the sequence; places: frame, patch row and patch column of every token,
            -1 for class tokens.
        similarity: cosine of the layer's input at i and k; share: P_ik; blind: what lag alone would make of it.
        between: positions of the tokens between, at least the convolution's width from both; sensitivity: the mean
            over channels of abs(ln abs M'_ik - ln abs M_ik), in nats, with that token replaced by another of the clip.
    """

    clip: str
    layer: int
    direction: str
    scope: str
    frames: UInt8[np.ndarray, "T H W 3"]
    grid: tuple[int, int]
    places: Int[np.ndarray, "L 3"]
    row: int
    column: int
    similarity: float
    share: float
    blind: float
    between: Int[np.ndarray, " b"]
    sensitivity: Float[np.ndarray, " b"]


@full_precision()
def find_example(
    result: ContradictionResult, model: nn.Module, sample: Sample, tubelet: int, seed: int
) -> Example | None:
    """The pair that `RULE` chooses; None for a text, or where no pair meets it.

    Args:
        result: of ``model``, for its contradictory masses; scope ``contribution`` where it has it, else its first.
        sample: the first clip. tubelet: frames of the clip a temporal position. seed: of the replacements.
    """
    if result.layout.frames == 0:
        return None
    scope = "contribution" if "contribution" in result.scopes else result.scopes[0]
    masses = [
        m
        for m in result.probed.measurements
        if (m.scope, m.quantity) == (scope, "contradictory_mass") and m.value is not None
    ]
    if not masses:
        return None
    chosen = max(masses, key=lambda m: m.value or 0.0)
    family = family_of(model)
    with torch.inference_mode():
        layer, direction = chosen.layer, chosen.direction
        inputs = layer_inputs(model, sample, [layer])[layer]
        hidden = next(hidden for hidden, directions in inputs if direction in directions)
        (capture,) = captured(family, model, layer, hidden, [direction])
        similarity = cosine(hidden[0])
        _, mass = direction_mass(capture, scope, similarity)
        pair = _pair(mass.share * (mass.least == 1), capture)
        if pair is None:
            return None
        i, k = pair
        margin = reach(capture)
        between = np.arange(min(i, k) + margin, max(i, k) - margin + 1)
        if len(between) > MOST_BETWEEN:
            between = between[np.linspace(0, len(between) - 1, MOST_BETWEEN).round().astype(int)]
        rng = np.random.default_rng(seed)
        others = replacements(capture, between, rng)
        before = _relation(capture, scope, i, k)
        changes = []
        for place, other in zip(between.tolist(), others.tolist(), strict=True):
            (changed,) = captured(family, model, layer, substitute(hidden, place, other), [direction])
            after = _relation(changed, scope, i, k)
            changes.append(float(log_change(before, after).abs().nanmean()))
    layout = capture.layout
    places = torch.stack([layout.frame_index, layout.row_index, layout.col_index], 1).numpy()
    return Example(
        clip=sample.name,
        layer=chosen.layer,
        direction=chosen.direction,
        scope=scope,
        frames=denormalise(sample.tokens)[::tubelet],
        grid=layout.grid,
        places=places,
        row=i,
        column=k,
        similarity=float(similarity[i, k]),
        share=float(mass.share[i, k]),
        blind=float(mass.blind[i, k]),
        between=between,
        sensitivity=np.array(changes),
    )


def _relation(capture: Captured, scope: Scope, i: int, k: int) -> Entries:
    if reversed_steps(capture):
        i, k = (capture.hidden.shape[1] - 1 - position for position in (i, k))
    return entries(capture, [scope], torch.tensor([i]), torch.tensor([k]))[scope]


def _pair(share: Float[np.ndarray, "L L"], capture: Captured) -> tuple[int, int] | None:
    """Row and column of the largest entry among patch tokens far enough apart; None where all are 0."""
    layout = capture.layout
    patch = (layout.frame_index >= 0).numpy()
    position = np.arange(len(share))
    apart = np.abs(np.subtract.outer(position, position))
    least = max(2 * reach(capture), layout.patches if layout.frames > 1 else 0)
    possible = np.where(patch[:, None] & patch & (apart >= least), share, 0.0)
    if not possible.any():
        return None
    i, k = np.unravel_index(possible.argmax(), possible.shape)
    return int(i), int(k)


def save_example(example: Example, path: Path) -> None:
    """Write an example as a compressed .npz."""
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{n: np.array(v) for n, v in vars(example).items()})


def load_example(path: Path) -> Example:
    """Read what `save_example` wrote."""
    with np.load(path, allow_pickle=False) as file:
        fields = {name: file[name] if file[name].ndim else file[name].item() for name in file.files}
    down, across = (int(n) for n in fields.pop("grid"))
    return Example(grid=(down, across), **fields)
