"""What a comparison has beside the probe of several models: names, one joint table, figures and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from analysis.measure import Column
from analysis.request import name_of
from analysis.result import Result
from analysis.tables import together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCOPE = "contribution"
"""The scope in which scans and self-attention are comparable: both are norms in the units of the layer's output."""

DECAY = (
    Column("half_life_tokens", "half-life\ntokens", beyond="length"),
    Column("half_life_frames", "\nframes", beyond="frames"),
    Column("decay_index_tokens", "decay\nindex", interval=True),
    Column("effective_context_tokens", "con-\ntext"),
)
CONTRADICTION = (
    Column("mediator_sensitivity", "med.\nsens.", scale=1000.0),
    Column("transitivity_unmasked", "trans.\nresid."),
    Column("block_rank", "block\nrank"),
    Column("contradictory_mass", "contr.\nmass", interval=True),
)
"""The residual is that before the mask: with the mask a masked direction's is 1 by structure, which says nothing beside
another's."""

CAPTION = (
    "Below a number stands its 95 % interval over clips. The decay index is 0 for a uniform row and 1 for a token that "
    "sees itself alone. The context is the effective one, in tokens. Mediator sensitivity is in 0.001 nats. The "
    "residual is that of transitivity; for a masked direction it is that of the same scan without its mask. The rank "
    "is the effective rank of the matrix below or above the middle. A contradictory mass of 1 is blind to similarity, "
    "and one above 1 is contradictory. Self-attention looks both ways: its decay is that of whole rows and of each "
    "side alone, its contradiction that of whole rows. A dash is a gap, which is explained below."
)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Names to tell checkpoints by: those of their files without the words that all begin with.

    Names that are equal after that are numbered.
    """
    words = [name_of(path).split("_") for path in paths]
    while len({split[0] for split in words}) == 1 and min(map(len, words)) > 1:
        words = [split[1:] for split in words]
    stems = ["_".join(split) for split in words]
    repeated = {stem for stem, times in Counter(stems).items() if times > 1}
    return [f"{stem} ({index})" if stem in repeated else stem for index, stem in enumerate(stems, 1)]


def joint_columns(result: Result) -> list[Column]:
    """The columns of the joint table whose quantities a result has."""
    return [column for column in (*DECAY, *CONTRADICTION) if column.quantity in result.data]


def tables(result: Result) -> Iterator[Table]:
    """One table of all models, layers and directions; then, for each kind of part, how faithful each ranking is."""
    yield together(result, joint_columns(result), f"Decay and contradiction, scope {SCOPE}", CAPTION)
    if "relevance" in result.measures:
        yield from result.measures["relevance"].tables(result) or ()


def figures(result: Result) -> dict[str, Callable[[], Figure]]:
    """What there is to draw of all models together, by file name."""
    from analysis.draw import side_figure
    from analysis.relevance.plots import figures as relevance_figures

    makers = {c.quantity: partial(side_figure, result, c.quantity) for c in joint_columns(result)}
    return {**makers, **relevance_figures(result, result.models)}


def notes(result: Result) -> Iterator[str]:
    """What to know where models differ in the shape of their clips or in their tokens."""
    models = result.provenance.models
    if len({(model.frames, model.size) for model in models.values()}) > 1:
        shapes = ", ".join(f"{name} {m.frames} frames of {m.size} pixels" for name, m in models.items())
        yield f"Each model saw the same clips sampled to its own shape: {shapes}."
    grids = {name: (model.layout.frames, model.layout.patches) for name, model in models.items()}
    if len(set(grids.values())) > 1:
        counts = ", ".join(
            f"{name} {patches} in each of {frames}" for name, (frames, patches) in grids.items()
        )
        yield (
            f"Tokens a frame, and frames as the model sees them, differ: {counts}. Lags, half-lives and contexts in "
            "tokens, and deletion areas of parts so different in size, compare within a model, not between these."
        )
