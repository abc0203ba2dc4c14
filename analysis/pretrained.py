"""Folders of transformers, with config.json and weights, read from disk alone (extra `hf`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.inputs import MEAN, STD
from vmp.checkpoint import CheckpointError, weights_sha256
from vmp.config import ModelConfig

VIDEO_ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "videomae": ("VideoMAEForVideoClassification", "VideoMAEModel"),
    "timesformer": ("TimesformerForVideoClassification", "TimesformerModel"),
    "vivit": ("VivitForVideoClassification", "VivitModel"),
}
"""By `model_type`, the classes that are loaded as they are; others of the family are loaded as the last."""

LISTED = 4
"""Names that an error lists before it says how many more there are."""


@dataclass(frozen=True, eq=False)
class LoadedFolder:
    """A model of transformers, with what a probe asks of `vmp.checkpoint.Loaded`.

    Attributes:
        model: in evaluation mode, on the CPU; clips as this project normalises them are renormalised to the
            folder's own preprocessing where it has one
        config: its shape in this project's terms: depth, widths, and what a clip is
        recognised: one line: class, shape, and what became of normalisation
        weights_sha256: of the loaded weights under their own names
        files_sha256: of the folder's config and weight files, in the order of their names
    """

    model: nn.Module
    config: ModelConfig
    recognised: str
    weights_sha256: str
    files_sha256: str


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that `load_hf` may read."""
    return (path / "config.json").is_file()


def load_hf(path: Path, *, allow_nonfinite: bool = False) -> LoadedFolder:
    """The model in a folder that transformers wrote; nothing is fetched and no code from the folder is run.

    VideoMAE, TimeSformer, ViViT and Mamba. Pickled weights are read by `torch.load(weights_only=True)`.

    Raises:
        CheckpointError: in one line, for a folder of another model, weights missing or not finite, frames that are
            not square, or transformers absent.
    """
    raw = _config(path)
    kind = raw.get("model_type")
    if kind not in (*VIDEO_ARCHITECTURES, "mamba"):
        known = ", ".join((*VIDEO_ARCHITECTURES, "mamba"))
        raise CheckpointError(f"{path}: model_type {kind!r} is not known; there are {known}")
    wanted = VIDEO_ARCHITECTURES.get(kind, ("MambaForCausalLM", "MambaModel"))
    named = (raw.get("architectures") or ["none named"])[0]
    model = _read(path, named if named in wanted else wanted[-1])
    broken = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    if broken and not allow_nonfinite:
        raise CheckpointError(
            f"{path}: NaN or infinite weights in {_listed(broken)}; --allow-nonfinite reads them all the same"
        )
    config = _language(model.config) if kind == "mamba" else _video(path, model)
    said = f"transformers {type(model).__name__} ({config.depth} layers of width {config.d_model}"
    if kind == "mamba":
        said += f", {config.d_state} states, vocabulary {config.vocab_size})"
    else:
        side, frames = config.image_size, config.num_frames
        said += f", {config.num_heads} heads, {side} x {side} pixels, {frames} frames); {_renormalise(model, path)}"
    return LoadedFolder(model, config, said, weights_sha256(model.state_dict()), _files_sha256(path))


def _config(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}/config.json: cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}/config.json: holds no mapping of settings")
    return raw


def _read(path: Path, architecture: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            f"{path}: is a folder of transformers; install the toolkit with its extra hf"
        ) from error
    with _quiet(transformers.utils.logging):
        try:
            model, found = getattr(transformers, architecture).from_pretrained(
                path, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
            )
        except Exception as error:  # Of many kinds, by what the folder lacks; all are the folder's.
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: transformers cannot read it: {reason[:300]}") from error
    for fault in ("missing", "mismatched"):
        # Of a mismatched weight, its shapes stand beside its name.
        if names := sorted(key if isinstance(key, str) else key[0] for key in found[f"{fault}_keys"]):
            raise CheckpointError(f"{path}: {fault} weights for {architecture}: {_listed(names)}")
    return model.eval()


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without transformers' progress bars and reports, whose findings are errors here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest


def _video(path: Path, model: Any) -> ModelConfig:
    config = model.config
    if config.model_type == "vivit":
        tubelet, *patch = config.tubelet_size
    else:
        tubelet, patch = getattr(config, "tubelet_size", 1), config.patch_size
    return ModelConfig(
        name=config.model_type,
        variant="attention",
        mixer="attention",
        d_model=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        norm="layer",
        norm_epsilon=config.layer_norm_eps,
        image_size=_side(path, "image_size", config.image_size),
        patch_size=_side(path, "patch_size", patch),
        num_frames=config.num_frames,
        tubelet_size=tubelet,
        channels=config.num_channels,
        class_token="none" if config.model_type == "videomae" else "first",
        num_classes=config.num_labels if hasattr(model, "classifier") else 0,
    )


def _side(path: Path, name: str, size: int | list[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise CheckpointError(f"{path}: {name} is {sorted(sides)}; clips here are square")
    return sides.pop()


def _language(config: Any) -> ModelConfig:
    return ModelConfig(
        name=config.model_type,
        variant="mamba",
        directions="forward",
        kind="language",
        class_token="none",
        d_model=config.hidden_size,
        depth=config.num_hidden_layers,
        d_state=config.state_size,
        d_conv=config.conv_kernel,
        expand=config.intermediate_size // config.hidden_size,
        dt_rank=config.time_step_rank,
        norm_epsilon=config.layer_norm_epsilon,
        vocab_size=config.vocab_size,
    )


def _renormalise(model: nn.Module, path: Path) -> str:
    """Have the model see clips as its folder's preprocessing makes them, and say how."""
    file = next((f for f in path.glob("*preprocessor_config.json") if f.is_file()), None)
    if file is None:
        return "no preprocessor_config.json, so clips keep this project's normalisation"
    asked = json.loads(file.read_text(encoding="utf-8"))
    # transformers' own order: pixels times a factor, less 1 where there is an offset, then mean and deviation.
    factor = asked.get("rescale_factor", 1 / 255) if asked.get("do_rescale", True) else 1.0
    offset = 1.0 if asked.get("offset", False) and asked.get("do_rescale", True) else 0.0
    mean, std = (torch.zeros(3), torch.ones(3))
    if asked.get("do_normalize", True):
        mean, std = torch.tensor(asked.get("image_mean", MEAN)), torch.tensor(asked.get("image_std", STD))
    model.register_forward_pre_hook(_as_trained(255 * factor, offset, mean, std), with_kwargs=True)
    return f"clips rescaled as {file.name} asks"


def _as_trained(
    factor: float, offset: float, mean: Float[Tensor, " 3"], std: Float[Tensor, " 3"]
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]:
    """A hook on clips (B, T, 3, H, W): (factor pixel - offset - mean) / std, with pixels in [0, 1]."""
    scale = factor * torch.tensor(STD) / std
    shift = (factor * torch.tensor(MEAN) - offset - mean) / std

    def hook(
        _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        clips = arguments[0] if arguments else keywords["pixel_values"]
        along, by = (x.to(clips)[:, None, None] for x in (scale, shift))
        return arguments[1:], {**keywords, "pixel_values": along * clips + by}

    return hook


def _files_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.name == "config.json" or file.suffix in (".safetensors", ".bin"):
            digest.update(file.name.encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
