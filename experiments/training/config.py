"""What a training run is: every field that fixes its weights."""

import difflib
import json
import math
import pathlib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from experiments.data.lists import DATASETS
from experiments.data.tasks import TASKS

Beta = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]

FREE = ("max_bad", "save_every", "log_every", "workers")
"""Fields that may change when a run is continued: none of them changes a bit of its weights."""

LISTS_ALONE = ("train_list", "root", "labels", "repeats", "stride", "crop_scale", "randaugment", "magnitude")
"""Fields that nothing but lists of videos reads."""


@final
class TrainConfig(BaseModel):
    """All that fixes a run's weights on a given machine.

    `max_bad`, `save_every`, `log_every` and `workers` may change when a run is continued. Clips of a list are mirrored
    at random except for Something-Something's, where left and right are told apart.

    Attributes:
        task: a list of videos (one of `experiments.data.lists.DATASETS`), of which clips are drawn anew in each epoch;
            or a task of `experiments.data.tasks.task_dataset`.
        model, variant: as `vmp.create_model` takes them; variant None for the model's own.
        fields: further fields of `vmp.ModelConfig`, such as num_frames, image_size and drop_path (stochastic depth).
            num_classes follows from the task.
        init: a checkpoint to start from; its head is replaced if classes differ, and its positions are resized.
        steps: updates of the weights.
        batch_size: clips in an update, over all processes.
        accumulate: parts in which a process computes its share of a batch, one after the other, to save memory.
        learning_rate: the highest, reached after `warmup_steps`; then a cosine down to `final_rate` times it.
        layer_decay: the rate of the head and last norm is `learning_rate`, times this factor for each block below, and
            once more for the embeddings (Bao et al., arXiv 2106.08254).
        weight_decay: of AdamW; rates A, skips D, biases, norms, positions and class tokens are exempt.
        betas: of AdamW.
        clip_norm: the largest norm of a gradient; a longer one is scaled to it; None for no limit.
        ema_decay: d of the averaged weights, w <- d w + (1 - d) of the step's, from the first step on and without
            warm-up of d; None for no average.
        precision: "bfloat16" computes matrix products and convolutions in it, with weights and loss in float32; no flag
            of accelerate changes it.
        recompute: whether blocks run again in the backward pass instead of keeping what it needs; this gives the same
            bits in less memory.
        seed: of the initial weights, the clips, their order, augmentation, mixtures, and stochastic depth.
        label_smoothing: the share of each target of the cross-entropy that is spread evenly over the classes.
        mixup, cutmix: alpha of `experiments.data.augment.mix`; 0 for none. Clips are mixed within a process's share.
        train_list, root, labels: of lists of videos, as `experiments.data.lists.read_dataset` takes them.
        repeats: views of each video in a batch, augmented apart (Hoffer et al., arXiv 1901.09335).
        stride: take every stride-th frame from a random one on; None for one frame of each of T segments.
        crop_scale: the least and the largest share of a frame that a random crop takes.
        randaugment, magnitude: the number of RandAugment's operations on each clip, and their strength of 30.
        max_bad: the share of a list's videos that may be missing or damaged; they are replaced, and counted.
        save_every: steps between checkpoints, which is what a kill can cost.
        log_every: steps between lines of metrics.
        workers: processes that make clips, for each process that trains.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str = "photo-pan"
    model: str = "vmp_micro"
    variant: str | None = None
    fields: dict[str, bool | int | float | str] = {}
    init: str | None = None

    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    final_rate: float = Field(default=0.01, ge=0, le=1)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    clip_norm: float | None = Field(default=1.0, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    seed: int = Field(default=0, ge=0)

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    train_list: str | None = None
    root: str = ""
    labels: str | None = None
    repeats: int = Field(default=1, ge=1)
    stride: int | None = Field(default=None, ge=1)
    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    randaugment: int = Field(default=0, ge=0, le=15)
    magnitude: int = Field(default=9, gt=0, lt=30)
    max_bad: float = Field(default=0.01, ge=0, le=1)

    save_every: int = Field(default=100, ge=1)
    log_every: int = Field(default=10, ge=1)
    workers: int = Field(default=1, ge=0)

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        known = (*TASKS, *DATASETS)
        if task not in known:
            raise ValueError(f"there is no task {task!r}; there are {', '.join(known)}")
        return task

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if not self.of_videos:
            for name in LISTS_ALONE:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} is for lists of videos ({', '.join(DATASETS)}), not for {self.task}"
                    )
        elif self.train_list is None:
            raise ValueError(f"task {self.task} needs train_list, the list of its videos")
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale {list(self.crop_scale)}: the least share comes first")
        if self.batch_size % (self.repeats * self.accumulate):
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of repeats {self.repeats} times accumulate "
                f"{self.accumulate}"
            )
        return self

    @classmethod
    def read(cls, path: pathlib.Path | None, changes: Mapping[str, Any] | None = None) -> Self:
        """The configuration of a JSON file, or the defaults, with those `changes` that are not None.

        Changes of `fields` replace the ones that they name and leave the file's others.

        Raises:
            ValueError: if the file cannot be read, or there is no such field or value.
        """
        try:
            data = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict):
                raise ValueError("it must hold an object {...} of fields")
            given = {name: value for name, value in (changes or {}).items() if value is not None}
            if isinstance(data.get("fields"), dict) and isinstance(given.get("fields"), dict):
                given["fields"] = {**data["fields"], **given["fields"]}
            return cls(**{**data, **given})
        except ValidationError as error:
            raise ValueError(f"the configuration is wrong: {explain(error, cls.model_fields)}") from error
        except OSError as error:
            raise ValueError(f"{path}: the configuration cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path}: not a configuration in JSON: {error}") from error

    @property
    def of_videos(self) -> bool:
        """Whether clips are drawn from a list of videos."""
        return self.task in DATASETS

    def rate(self, step: int) -> float:
        """The learning rate of step 0, ..., steps - 1: linear warm-up, then a cosine (arXiv 1608.03983)."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * cosine)


def explain(error: ValidationError, fields: Collection[str]) -> str:
    """What is wrong with a configuration, in one line: the place and the problem of each field.

    Args:
        error: what pydantic found.
        fields: the names of fields that there are.
    """
    said, problems = [], error.errors()
    for problem in problems:
        where, text = problem["loc"], problem["msg"].removeprefix("Value error, ")
        if any(other["loc"][: len(where)] == where != other["loc"] for other in problems):
            continue  # What is wrong within it has made the whole wrong.
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(where[-1]), fields, 1)
            hint = f"do you mean {near[0]}?" if near else f"there are {', '.join(fields)}"
            text = f"there is no such field; {hint}"
        said.append(": ".join(filter(None, (".".join(map(str, where)), text))))
    return "; ".join(said)
