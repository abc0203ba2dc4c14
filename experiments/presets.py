"""Grids by name, and grids read from a file: base cells, one-field changes to each, and seeds."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, Self, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.cell import REFERENCE, VARIANTS, CellConfig


@final
class Block(BaseModel):
    """A base cell (its seed is not used), and what is changed of it: for a field, the values it takes in turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: CellConfig
    changes: dict[str, tuple[Any, ...]] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ = self._cells
        return self

    @functools.cached_property
    def _cells(self) -> tuple[CellConfig, ...]:
        """The base and its changed cells, each of which differs from it in one field.

        Raises ValueError for a change that is none, and for a field or value that a cell cannot have.
        """
        cells = [self.base]
        for field, values in self.changes.items():
            for value in values:
                try:
                    changed = CellConfig.model_validate({**self.base.model_dump(), field: value})
                except ValidationError as error:
                    raise ValueError(explain(error)) from error
                differing = [
                    name
                    for name in CellConfig.model_fields
                    if getattr(changed, name) != getattr(self.base, name)
                ]
                if differing != [field] or field == "seed":
                    raise ValueError(
                        f"{field} = {value!r} is no change of one field of the base; seeds are the grid's own"
                    )
                cells.append(changed)
        return tuple(cells)

    def cells(self, seed: int) -> tuple[CellConfig, ...]:
        """The base, and each change of it, at one seed."""
        return tuple(cell.model_copy(update={"seed": seed}) for cell in self._cells)


@final
class Preset(BaseModel):
    """A grid: the cells of every block at every seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: tuple[Block, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        cells = self.cells()
        if len({cell.id for cell in cells}) < len(cells):
            raise ValueError(
                "the same cell comes twice: blocks, changes and seeds must differ from each other"
            )
        return self

    def cells(self) -> tuple[CellConfig, ...]:
        """Every cell: block by block, seed by seed, the base first."""
        return tuple(cell for block in self.blocks for seed in self.seeds for cell in block.cells(seed))

    @classmethod
    def read(cls, path: pathlib.Path) -> Self:
        """The grid of a JSON file. Raises ValueError, in one line, for what cannot be read or is no grid."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path}: not a grid: {explain(error)}") from error
        except OSError as error:
            raise ValueError(f"{path}: the grid cannot be read: {error.strerror}") from error


def explain(error: ValidationError) -> str:
    """What is wrong with a configuration, in one line: each field's place and its problem."""
    said = []
    for problem in error.errors():
        place = ".".join(map(str, problem["loc"]))
        text = "there is no such field" if problem["type"] == "extra_forbidden" else problem["msg"]
        said.append(": ".join(filter(None, (place, text.removeprefix("Value error, ")))))
    return "; ".join(said)


def choose_preset(name: str | None, path: pathlib.Path | None) -> tuple[str, Preset]:
    """The name and the grid of the preset `name` ("quick" where None), or of the file at `path`.

    Raises ValueError where both are given, for an unknown name, and as `Preset.read`.
    """
    if path is not None:
        if name is not None:
            raise ValueError(f"preset {name} and config {path} were both given; one of them is the grid")
        return "custom", Preset.read(path)
    if (name := name or "quick") not in PRESETS:
        raise ValueError(f"preset {name!r}: it must be one of {', '.join(PRESETS)}")
    return name, PRESETS[name]


_SMALL = CellConfig(
    task="recall",
    frames=8,
    image_size=32,
    patch_size=16,
    tubelet_size=1,
    d_model=32,
    depth=2,
    d_state=8,
    variant=REFERENCE,
    class_token="first",
    steps=200,
    batch_size=32,
    learning_rate=3e-3,
    warmup_steps=20,
    weight_decay=0.05,
    train_clips=2000,
    test_clips=200,
    probe_clips=8,
)
_LONG = _SMALL.model_copy(update={"steps": 2000, "train_clips": 20000, "test_clips": 1000})
# The size of videomambapro_tiny.
_LARGE = CellConfig(
    task="recall",
    frames=8,
    image_size=224,
    patch_size=16,
    tubelet_size=1,
    d_model=192,
    depth=24,
    d_state=16,
    variant=REFERENCE,
    class_token="first",
    steps=20000,
    batch_size=64,
    learning_rate=5e-4,
    warmup_steps=1000,
    weight_decay=0.05,
    train_clips=50000,
    test_clips=2000,
    probe_clips=8,
)
_VARIANTS = {"variant": tuple(variant for variant in VARIANTS if variant != REFERENCE)}
_TASKS = ("recall", "relation", "direction")


_READ_OUTS = ("first", "none")


def _block(base: CellConfig, **fields: Any) -> Block:
    """Every variant of a base with other fields."""
    return Block(base=CellConfig.model_validate({**base.model_dump(), **fields}), changes=_VARIANTS)


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(blocks=tuple(_block(_SMALL, task=task) for task in _TASKS), seeds=(0, 1, 2)),
    "full": Preset(
        blocks=tuple(
            _block(_LONG, task=task, class_token=read_out, frames=frames)
            for task in _TASKS
            for read_out in _READ_OUTS
            for frames in (8, 16, 32)
        ),
        seeds=(0, 1, 2, 3, 4),
    ),
    "gpu": Preset(
        blocks=tuple(
            _block(_LARGE, task=task, class_token=read_out) for task in _TASKS for read_out in _READ_OUTS
        ),
        seeds=(0, 1, 2),
    ),
}
"""What `--preset` takes: in minutes on two cores, in hours on many, and in days on GPUs."""
