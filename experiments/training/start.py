"""What a run starts from: its model and its clips."""

import vmp
from experiments.data.augment import ClipAugment
from experiments.data.clip import ClipDataset
from experiments.data.draws import VideoDraws
from experiments.data.lists import read_dataset
from experiments.data.tasks import task_dataset
from experiments.training.config import TrainConfig
from vmp.checkpoint import read_checkpoint
from vmp.config import ModelConfig, named_config

# Fields in which `init` may differ: its head, frames and image size are fitted.
_FITTED = {"name", "variant", "num_classes", "num_frames", "image_size", "drop_path", "kind", "tubelet_size"}


def make_model(
    config: TrainConfig, clips: ClipDataset | None = None
) -> tuple[vmp.VideoModel, ClipDataset | VideoDraws]:
    """The model, and the clips that it is to learn from.

    Weights that `config.init` lacks are drawn from torch's global generator. A task that makes its clips makes
    steps * batch_size of them, so that none is seen twice.

    Args:
        config: the run.
        clips: what to learn from instead of the task's own clips.

    Raises:
        ValueError: as `task_dataset`, `read_dataset` and `vmp.load_checkpoint`; if `fields` name the model or
            contradict the task, or `init` is of another architecture than the model.
    """
    for name, place in (("name", "model"), ("variant", "variant")):
        if name in config.fields:
            raise ValueError(f"fields: {name} cannot be among them; give it as {place}")
    shape = named_config(config.model, config.variant, **config.fields)
    dataset, classes = _clips(config, shape) if clips is None else (clips, len(clips.classes))
    fields = {"num_classes": classes, **config.fields}
    if fields["num_classes"] != classes:
        raise ValueError(
            f"fields: num_classes is {fields['num_classes']}, but the task {config.task} has {classes} classes; "
            "leave it out"
        )
    if config.init is None:
        return vmp.create_model(config.model, config.variant, **fields), dataset
    return _initialised(config.init, named_config(config.model, config.variant, **fields)), dataset


def _clips(config: TrainConfig, shape: ModelConfig) -> tuple[ClipDataset | VideoDraws, int]:
    """The clips to learn from, and the number of their classes."""
    if config.of_videos:
        assert config.train_list is not None  # the configuration has checked that
        listed = read_dataset(config.task, config.train_list, config.root, config.labels)
        augment = ClipAugment(
            shape.image_size,
            scale=config.crop_scale,
            flip=0.5 if listed.mirrored else 0.0,
            operations=config.randaugment,
            magnitude=config.magnitude,
        )
        draws = VideoDraws(
            listed.samples, augment, shape.num_frames, config.seed, config.repeats, config.stride
        )
        return draws, len(listed.classes)
    clips = task_dataset(
        config.task,
        "train",
        num_frames=shape.num_frames,
        image_size=shape.image_size,
        seed=config.seed,
        size=config.steps * config.batch_size,
    )
    return clips, len(clips.classes)


def _initialised(path: str, wanted: ModelConfig) -> vmp.VideoModel:
    """The model of a checkpoint, fitted to a configuration."""
    fitted = {name: getattr(wanted, name) for name in sorted(_FITTED)}
    loaded = read_checkpoint(path, **fitted)
    differing = [
        f"{name} {getattr(loaded.config, name)!r} there, {getattr(wanted, name)!r} here"
        for name in wanted.to_dict()
        if getattr(loaded.config, name) != getattr(wanted, name)
    ]
    if differing:
        raise ValueError(
            f"init {path}: weights of another model: {'; '.join(differing)}; fields may change that"
        )
    assert isinstance(loaded.model, vmp.VideoModel)  # `kind` is among what has been compared
    return loaded.model.float().train()
