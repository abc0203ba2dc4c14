"""What a training run is: every field that fixes its weights."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Beta = Annotated[float, Field(ge=0, lt=1)]


@final
class TrainConfig(BaseModel):
    """All that fixes a run's weights on a given machine.

    task             as `experiments.data.tasks.task_dataset` takes it
    model, variant   as `vmp.create_model` takes them; variant None for the model's own
    fields           further fields of `vmp.ModelConfig`: num_frames, image_size, drop_path, ...
                     (num_classes follows from the task)
    steps            updates of the weights
    batch_size       clips in an update, over all processes
    learning_rate    the highest, reached after `warmup_steps`; then a cosine down to `final_rate` times it
    weight_decay     of AdamW; rates A, skips D, biases, norms, positions and class tokens are exempt
    betas            of AdamW
    clip_norm        the largest norm of a gradient; longer ones are scaled to it
    label_smoothing  of the cross-entropy
    seed             of the initial weights, the clips, their order, and stochastic depth
    train_list, root of the task "video": the list of files, and the folder its paths start from
    save_every       steps between checkpoints, which is what a kill can cost
    log_every        steps between lines of metrics
    workers          processes that make clips, for each process that trains

    The last three may change when a run is continued.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal[
        "recall", "relation", "direction", "photo-pan", "digits-direction", "digits-digit", "video"
    ] = "photo-pan"
    model: str = "vmp_micro"
    variant: str | None = None
    fields: dict[str, bool | int | float | str] = {}
    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    final_rate: float = Field(default=0.01, ge=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    clip_norm: float = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    train_list: str | None = None
    root: str = ""
    save_every: int = Field(default=100, ge=1)
    log_every: int = Field(default=10, ge=1)
    workers: int = Field(default=1, ge=0)

    @classmethod
    def read(cls, path: pathlib.Path | None, changes: Mapping[str, Any] | None = None) -> Self:
        """The configuration of a JSON file (or the defaults), with those `changes` that are not None.

        Raises ValueError, in one line, for a file that cannot be read and a field or value there cannot be.
        """
        try:
            data = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict):
                raise ValueError("it must hold an object {...} of fields")
            return cls(
                **{**data, **{name: value for name, value in (changes or {}).items() if value is not None}}
            )
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ValueError("the configuration is wrong: " + "; ".join(problems)) from error
        except OSError as error:
            raise ValueError(f"{path}: the configuration cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path}: not a configuration in JSON: {error}") from error

    def rate(self, step: int) -> float:
        """The learning rate of step 0, ..., steps - 1: linear warm-up, then a cosine (arXiv 1608.03983)."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * cosine)
