"""Grids by name, and grids read from a file: base cells, one-field changes to each, and seeds.

How `quick` was chosen. Its cells should each train in some 11 seconds of one core, so that 63 of them with their probes
take less than ten minutes on two. Within that limit, difficulty (frames, classes, pixels, patches, marks), learning
rate and steps were tried on `videomamba` and `attention` alone, in some 60 runs with seeds (90, 91, 92) that the preset
does not use. The criterion was whether both left chance. No other variant was run, and which of the two did better was
no criterion. The settings are not neutral. With one to three runs for each setting, we found:

- Recall: both leave chance within 100 steps if a digit is one token. If it is four tokens of 16 x 16 pixels, they do
  so too, after a plateau.
- Direction: both leave chance.
- Relation: the loss stays at ln 2 until it falls, and when it falls is a matter of luck. `videomamba` told two digits
  of two classes, of one token each, apart among five frames in three of three runs, from step 300 to 600 on; among
  six frames in one of two runs; among eight in none of one, even with 4000 steps; with three classes in one of three;
  and with digits of five pixels instead of six in none of four. `attention` took 200 steps. With four tokens for each
  frame, neither left chance.

Read-outs. Recall has the class token first, as the models of the paper have it: only what crosses the frames between
cue and token counts, so that distance matters. Mean pooling would hand the cue's own token to the head, and nothing
would have to be remembered. Forward-only Mamba is at chance there by construction, as its class token sees nothing.
Relation and direction have mean pooling: what they ask for is between frames in any case, and no model is shut out.

`full` and `gpu` are not tuned beyond what `quick` taught.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.cell import CELL_VARIANTS, CellConfig
from experiments.data.tasks import CONTROLLED
from experiments.statistics.bases import REFERENCE
from experiments.training.config import explain


@final
class Ablation(BaseModel):
    """A base cell, whose seed is not used, and its changes: for each field, the values that it takes in turn."""

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

        Raises:
            ValueError: if a change changes nothing or more than one field, or a cell cannot have the field or value.
        """
        cells = [self.base]
        for field, values in self.changes.items():
            for value in values:
                try:
                    changed = CellConfig.model_validate({**self.base.model_dump(), field: value})
                except ValidationError as error:
                    raise ValueError(explain(error, CellConfig.model_fields)) from error
                before, after = self.base.model_dump(), changed.model_dump()
                differing = [name for name in before if before[name] != after[name]]
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

    blocks: tuple[Ablation, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)

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
        """The grid of a JSON file.

        Raises:
            ValueError: if the file cannot be read or is no grid.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path}: not a grid: {explain(error, CellConfig.model_fields)}") from error
        except OSError as error:
            raise ValueError(f"{path}: the grid cannot be read: {error.strerror}") from error


def choose_preset(name: str | None, path: pathlib.Path | None) -> tuple[str, Preset]:
    """The name and the grid of the preset `name` ("quick" if None), or of the file at `path`.

    Raises:
        ValueError: if both are given, there is no such preset, and as `Preset.read`.
    """
    if path is not None:
        if name is not None:
            raise ValueError(f"preset {name} and config {path} were both given; one of them is the grid")
        return "custom", Preset.read(path)
    if (name := name or "quick") not in PRESETS:
        raise ValueError(f"preset {name!r}: it must be one of {', '.join(PRESETS)}")
    return name, PRESETS[name]()


_SMALL: Mapping[str, Any] = {
    "task": "recall",
    "frames": 16,
    "image_size": 8,
    "patch_size": 8,
    "tubelet_size": 1,
    "d_model": 32,
    "depth": 2,
    "d_state": 16,
    "variant": REFERENCE,
    "class_token": "first",
    "steps": 500,
    "batch_size": 32,
    "learning_rate": 4e-3,
    "warmup_steps": 30,
    "weight_decay": 0.05,
    "train_clips": 8000,
    "test_clips": 480,
    "probe_clips": 8,
}
_RELATION: Mapping[str, Any] = {
    "task": "relation",
    "class_token": "none",
    "frames": 5,
    "steps": 1000,
    "learning_rate": 5e-3,
}
# A motion is a matter of several patches.
_DIRECTION: Mapping[str, Any] = {
    "task": "direction",
    "class_token": "none",
    "frames": 8,
    "image_size": 16,
    "steps": 450,
    "learning_rate": 3e-3,
}
_LONG: Mapping[str, Any] = {
    **_SMALL,
    "steps": 4000,
    "train_clips": 40000,
    "test_clips": 960,
    "warmup_steps": 100,
    "probe_clips": 16,
}
# The size of videomambapro_tiny.
_LARGE: Mapping[str, Any] = {
    "task": "recall",
    "frames": 8,
    "image_size": 224,
    "patch_size": 16,
    "tubelet_size": 1,
    "d_model": 192,
    "depth": 24,
    "d_state": 16,
    "variant": REFERENCE,
    "class_token": "first",
    "steps": 20000,
    "batch_size": 64,
    "learning_rate": 5e-4,
    "warmup_steps": 1000,
    "weight_decay": 0.05,
    "train_clips": 50000,
    "test_clips": 2000,
    "probe_clips": 8,
}
_VARIANTS = {"variant": tuple(variant for variant in CELL_VARIANTS if variant != REFERENCE)}
_SIZES = {"d_state": (4, 64), "depth": (1, 4)}
_READ_OUTS = ("first", "none")
_LENGTHS = {"recall": (8, 16, 32), "relation": (5, 6, 8), "direction": (8, 16, 32)}


def _block(
    base: Mapping[str, Any], changes: Mapping[str, tuple[Any, ...]] = _VARIANTS, **fields: Any
) -> Ablation:
    """A base with other fields, and its changes: by default every other variant."""
    return Ablation(base=CellConfig.model_validate({**base, **fields}), changes=dict(changes))


def _quick() -> Preset:
    blocks = (_block(_SMALL), _block(_SMALL, **_RELATION), _block(_SMALL, **_DIRECTION))
    return Preset(blocks=blocks, seeds=(0, 1, 2))


def _full() -> Preset:
    blocks = tuple(
        # The states and the depth of the reference are changed at one length.
        _block(
            _LONG,
            _VARIANTS | _SIZES if frames == _LENGTHS[task][0] else _VARIANTS,
            task=task,
            class_token=read_out,
            frames=frames,
            # Frames of one token, but where what moves is to be seen.
            image_size=16 if task == "direction" else 8,
        )
        for task in CONTROLLED
        for read_out in _READ_OUTS
        for frames in _LENGTHS[task]
    )
    return Preset(blocks=blocks, seeds=(0, 1, 2, 3, 4))


def _gpu() -> Preset:
    blocks = tuple(
        _block(_LARGE, task=task, class_token=read_out) for task in CONTROLLED for read_out in _READ_OUTS
    )
    return Preset(blocks=blocks, seeds=(0, 1, 2))


PRESETS: Mapping[str, Callable[[], Preset]] = {"quick": _quick, "full": _full, "gpu": _gpu}
"""What `--preset` takes: minutes on two cores (63 cells), a day on sixteen (750), and days on GPUs (126). Each is made
when it is asked for, as that takes seconds."""
