"""One relation in frames: two tokens that are unlike and strongly related, and what the tokens between do to it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from analysis.capture import Captured, Family, family_of, layer_inputs
from analysis.contradiction.entries import Entries, entries
from analysis.contradiction.layer import direction_mass, replacements, substitute
from analysis.contradiction.metrics import cosine, log_change
from analysis.draw import styled
from analysis.inputs import Sample, denormalise
from analysis.matrix.scopes import SCOPES, Scope
from analysis.measure import SiteRun
from analysis.precision import full_precision
from analysis.result import Result

MOST_BETWEEN = 256
"""At most so many tokens between are replaced; where there are more, they are evenly spaced."""

RULE = (
    "of all pairs of patch tokens a frame or more apart, whose key is among the row's least similar quarter, the one "
    "with the largest P; in the first clip, in the layer and direction of the largest contradictory mass"
)
"""How the pair is chosen. In a model of one frame the pair lies in it, with a token between out of reach of both."""

ACROSS = 5
"""Number of frames in a row of the figure."""

LARGE = 6
"""A patch has room for a letter where a frame is at most so many patches high."""


@final
@dataclass(frozen=True, eq=False)
class Example:
    """A relation (i, k) of one layer and direction, on the clip's own frames.

    Attributes:
        clip: The clip's name.
        layer: Index of the layer, from 0.
        direction: Of the layer.
        scope: Which matrix the relation is an entry of.
        frames: RGB, one frame for each temporal position of the model.
        grid: Patches down and across.
        places: Frame, patch row and patch column of every token; -1 for class tokens.
        row: Position of i in the sequence.
        column: Position of k in the sequence.
        similarity: Cosine of the layer's input at i and k.
        share: P_ik.
        blind: What lag alone would make of P_ik.
        between: Positions of the tokens between, at least the convolution's width from both.
        sensitivity: Mean over channels of abs(ln abs M'_ik - ln abs M_ik), in nats, with that token replaced by another
            of the clip.
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
    result: Result,
    model: nn.Module,
    sample: Sample,
    *,
    seed: int,
    model_name: str | None = None,
    family: Family | str | None = None,
) -> Example | None:
    """Find the pair that `RULE` chooses and replace the tokens between, one at a time.

    Args:
        result: A result with contradictory masses of the model. The scope is `contribution` where the result has it,
            and its first otherwise.
        model: The model itself, in evaluation mode.
        sample: The first clip of the result.
        seed: Seed of the replacements.
        model_name: What the result calls the model; its first one where None.
        family: The model's family, or its name; found out where None.

    Returns:
        The example, or None for a text, or where no pair meets the rule.
    """
    name = model_name or result.model
    layout = result.layout(name)
    chosen = _largest_mass(result, name)
    if layout.frames == 0 or chosen is None:
        return None
    layer, direction, scope = chosen
    known = family_of(model, family)
    with torch.inference_mode():
        inputs = layer_inputs(model, sample.tokens[None], [layer], family=known)[layer]
        hidden, given = next(found for found in inputs if found[1] in (None, direction))
        site = SiteRun(model, sample, layer, hidden, given, (scope,), (layer,), known, layout)
        capture = _of(direction, site.captures)
        similarity = cosine(hidden[0])
        _, mass = direction_mass(capture, scope, similarity)
        pair = _pair(mass.share * (mass.least == 1), capture)
        if pair is None:
            return None
        i, k = pair
        between = np.arange(min(i, k) + capture.reach, max(i, k) - capture.reach + 1)
        if len(between) > MOST_BETWEEN:
            between = between[np.linspace(0, len(between) - 1, MOST_BETWEEN).round().astype(int)]
        others = replacements(capture, between, np.random.default_rng(seed))
        before = _relation(capture, scope, i, k)
        changes = []
        for place, other in zip(between.tolist(), others.tolist(), strict=True):
            changed = _of(direction, site.run(substitute(hidden, place, other)))
            changes.append(float(log_change(before, _relation(changed, scope, i, k)).abs().nanmean()))
    return Example(
        clip=sample.name,
        layer=layer,
        direction=direction,
        scope=scope,
        frames=denormalise(sample.tokens)[:: sample.tokens.shape[1] // layout.frames],
        grid=layout.grid,
        places=torch.stack([layout.frame_index, layout.row_index, layout.col_index], 1).numpy(),
        row=i,
        column=k,
        similarity=float(similarity[i, k]),
        share=float(mass.share[i, k]),
        blind=float(mass.blind[i, k]),
        between=between,
        sensitivity=np.array(changes),
    )


def _largest_mass(result: Result, model: str) -> tuple[int, str, Scope] | None:
    """Return the layer, direction and scope of the largest contradictory mass; None where there is none."""
    scope = "contribution" if "contribution" in result.scopes else result.scopes[0]
    places = [(n, d) for n in result.layers_of(model) for d in result.directions("contradiction", model)]
    masses = [result.number("contradictory_mass", *place, scope, model).value for place in places]
    if np.isnan(masses).all():
        return None
    layer, direction = places[int(np.nanargmax(masses))]
    return layer, direction, next(known for known in SCOPES if known == scope)


def _of(direction: str, captures: list[Captured]) -> Captured:
    return next(capture for capture in captures if capture.direction == direction)


def _relation(capture: Captured, scope: Scope, i: int, k: int) -> Entries:
    if capture.reversed:
        i, k = (capture.hidden.shape[1] - 1 - position for position in (i, k))
    return entries(capture, [scope], torch.tensor([i]), torch.tensor([k]))[scope]


def _pair(share: Float[np.ndarray, "L L"], capture: Captured) -> tuple[int, int] | None:
    """Return row and column of the largest entry among patch tokens far enough apart; None where all are 0."""
    layout = capture.layout
    patch = (layout.frame_index >= 0).numpy()
    position = np.arange(len(share))
    apart = np.abs(np.subtract.outer(position, position))
    least = max(2 * capture.reach, layout.patches if layout.frames > 1 else 0)
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


def example_figure(example: Example) -> Figure:
    """Draw the frames that the relation spans, with i and k outlined and the tokens between shaded."""
    frames = example_frames(example)
    columns = min(ACROSS, len(frames))
    rows = -(-len(frames) // columns)
    figure = Figure(figsize=(1.2 + 1.9 * max(columns, 3), 1.5 + 2.1 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    top = float(example.sensitivity.max()) if example.sensitivity.size else 0.0
    norm = Normalize(0, top or 1.0)
    for ax, frame in zip(axes.flat, frames, strict=False):
        plot_example_frame(example, frame, ax, norm)
    for ax in list(axes.flat)[len(frames) :]:
        ax.remove()
    label = "change of the relation (nats)\nwith this token replaced"
    figure.colorbar(ScalarMappable(norm, "inferno"), ax=axes, label=label, shrink=0.9)
    strength = f"{example.share / example.blind:.1f} times" if example.blind > 0 else "more than"
    said = (
        f"Tokens i and k of clip {example.clip}: cosine {example.similarity:.2f}, P = {example.share:.3g}, {strength} "
        f"what their lag alone makes of it; layer {example.layer}, {example.direction}, scope {example.scope}."
    )
    figure.suptitle(textwrap.fill(said, 30 * max(columns, 3)), fontsize="small")
    figure.supxlabel(textwrap.fill(f"Chosen by rule: {RULE}.", 34 * max(columns, 3)), fontsize="x-small")
    return figure


def example_frames(example: Example) -> list[int]:
    """Return the frames that a relation spans."""
    frames = example.places[[example.row, example.column], 0]
    return list(range(int(frames.min()), int(frames.max()) + 1))


@styled
def plot_example_frame(example: Example, frame: int, ax: Axes, norm: Normalize) -> Axes:
    """Draw one frame with the tokens i and k outlined and those between shaded by how much they change the relation."""
    down, across = example.grid
    height, width = example.frames.shape[1:3]
    side_y, side_x = height / down, width / across
    ax.imshow(example.frames[frame])
    colours = matplotlib.colormaps["inferno"]

    def box(position: int, **look: Any) -> tuple[float, float]:
        _, r, c = example.places[position]
        corner = (c * side_x - 0.5, r * side_y - 0.5)
        ax.add_patch(Rectangle(corner, side_x, side_y, **look))
        return corner[0] + side_x / 2, corner[1] + side_y / 2

    for position, value in zip(example.between.tolist(), example.sensitivity, strict=True):
        if example.places[position, 0] == frame:
            red, green, blue, _ = colours(norm(value))
            box(position, facecolor=(red, green, blue, 0.6), edgecolor="white", linewidth=0.3)
    # A letter would hide a small patch, so it stands beside it.
    beside = (0, 0) if down <= LARGE else (0, 13)
    for position, name, colour in ((example.column, "k", "#D55E00"), (example.row, "i", "#0072B2")):
        if example.places[position, 0] == frame:
            box(position, facecolor="none", edgecolor="white", linewidth=3.6)
            centre = box(position, facecolor="none", edgecolor=colour, linewidth=2)
            ax.annotate(
                name, centre, beside, textcoords="offset points", ha="center", va="center", fontsize=8,
                fontweight="bold", color="white",
                bbox={"boxstyle": "circle,pad=0.15", "facecolor": colour, "edgecolor": "white"},
            )  # fmt: skip
    ax.set_axis_off()
    ax.set_title(f"frame {frame}", fontsize=8)
    return ax
