"""Grids by name, and grids read from a file: base cells, one-field changes to each, and seeds."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, Self, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.cell import VARIANTS, CellConfig


@final
class Block(BaseModel):
    """A base cell (its seed is not used), and what is changed of it: for a field, the values it takes in turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: CellConfig
    changes: dict[str, tuple[Any, ...]] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.cells(0)
        return self

    def cells(self, seed: int) -> tuple[CellConfig, ...]:
        """The base and its changed cells, each of which differs from it in one field, at one seed.

        Raises ValueError for a change that is none, and for a field or value that a cell cannot have.
        """
        base = self.base.model_copy(update={"seed": seed})
        cells = [base]
        for field, values in self.changes.items():
            for value in values:
                changed = CellConfig(**{**base.model_dump(), field: value})
                differing = [
                    name for name in CellConfig.model_fields if getattr(changed, name) != getattr(base, name)
                ]
                if differing != [field] or field == "seed":
                    raise ValueError(
                        f"changes: {field} = {value!r} is no change of one field of the base, its seed apart"
                    )
                cells.append(changed)
        return tuple(cells)


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
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ValueError(f"{path}: not a grid: " + "; ".join(problems)) from error
        except OSError as error:
            raise ValueError(f"{path}: the grid cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path}: not a grid in JSON: {error}") from error


_QUICK = CellConfig(
    task="digits-direction",
    frames=8,
    image_size=32,
    patch_size=8,
    tubelet_size=2,
    d_model=32,
    depth=2,
    d_state=8,
    variant="videomamba",
    class_token="first",
    steps=200,
    batch_size=32,
    learning_rate=2e-3,
    warmup_steps=20,
    weight_decay=0.05,
    train_clips=2000,
    test_clips=200,
    probe_clips=6,
    seed=0,
)
_OTHERS = {"variant": tuple(variant for variant in VARIANTS if variant != _QUICK.variant)}

PRESETS: Mapping[str, Preset] = {
    "quick": Preset(blocks=(Block(base=_QUICK, changes=_OTHERS),), seeds=(0, 1, 2)),
}
