"""Reading a checkpoint into a model."""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vmp.checkpoint.adapt import adapt
from vmp.checkpoint.files import CheckpointError, StoredWeights, read_stored
from vmp.checkpoint.recognise import Recognition, recognise
from vmp.config import ModelConfig, variant_switches
from vmp.model import LanguageModel, VideoModel, build_model

_LOG = logging.getLogger("vmp.checkpoint")
_LISTED = 8


@dataclass(frozen=True)
class Loaded:
    """A model read from a file, and what the file was.

    Attributes:
        model: in evaluation mode, on the CPU
        config: its configuration
        recognised: one line: what the file was taken for, and how else it could be read
        missing: parameters that the file lacks and that were allowed to be missing: they are freshly drawn
        unexpected: entries that the model has no place for and that were allowed
        ignored: entries that are no part of the model: distillation heads, pretraining decoders
        weights_sha256: of the file's weights under this project's names, whatever container or prefix they had
        metadata: of a safetensors file
    """

    model: VideoModel | LanguageModel
    config: ModelConfig
    recognised: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    weights_sha256: str
    metadata: Mapping[str, str]


def load_checkpoint(path: str | os.PathLike[str], **overrides: Any) -> VideoModel | LanguageModel:
    """The model of a checkpoint. Arguments and errors are those of `read_checkpoint`; its line is logged."""
    loaded = read_checkpoint(path, **overrides)
    _LOG.info(loaded.recognised)
    return loaded.model


def read_checkpoint(
    path: str | os.PathLike[str],
    *,
    family: str | None = None,
    container: str | None = None,
    dtype: torch.dtype | None = None,
    allow_missing: str | Sequence[str] = (),
    allow_unexpected: str | Sequence[str] = (),
    allow_nonfinite: bool = False,
    **overrides: Any,
) -> Loaded:
    """Read a checkpoint of any known family, recognised from its names and shapes.

    Files of VideoMamba (image, video, masked pretraining), VideoMambaPro, Vim, mamba_ssm's and Hugging Face's
    Mamba language models, and of `save_checkpoint`. Pickles are read by `torch.load(weights_only=True)` or not at all.

    Args:
        path: a safetensors file, or one that `torch.save` wrote.
        family: "videomamba", "videomambapro", "vim" or "mamba", where names and shapes fit several.
        container: which entry of a training save to read: "model", "module", "model_ema" or "state_dict".
        dtype: the model's; by default that of the file's weights, float32 where they are of several.
        allow_missing, allow_unexpected: names, or prefixes that end at a dot, that may be missing from the file
            or have no place in the model.
        allow_nonfinite: whether weights may hold NaN or infinity.
        overrides: fields of `ModelConfig` that weights do not fix: variant and its switches, num_frames,
            image_size and num_classes (positions are resized, the head is dropped), kind="video" for an image
            model, halve_output, class_token, drop_path, norm_epsilon, name. Switches that weights do fix are kept
            when a variant says otherwise, and the line says so.

    Raises:
        CheckpointError: the file is not read; the message says what it is and what would do.
        ValueError: an override is unknown or contradicts what the weights fix.
    """
    stored = read_stored(path, container)
    found = recognise(stored, family)
    config, notes = _configure(found, overrides)
    tensors, remarks, fresh = adapt(dict(found.tensors), found.config, config)
    # Shapes first, without memory: a file's configuration may ask for far more than its weights fill.
    with torch.device("meta"):
        skeleton = build_model(config)
    missing, unexpected = _compare(
        stored, skeleton, tensors, fresh, _names(allow_missing), _names(allow_unexpected)
    )
    kept = {name: tensor for name, tensor in tensors.items() if name not in unexpected}
    _check_values(stored, kept, allow_nonfinite)
    with torch.random.fork_rng(devices=()):
        model = build_model(config)
    model = model.to(dtype or _common_dtype(kept.values()))
    model.load_state_dict(kept, strict=False)
    line = _line(stored, found, config, (*notes, *remarks))
    digest = weights_sha256(found.tensors)
    model.provenance = {"path": str(stored.path), "weights_sha256": digest, "recognised": line}
    return Loaded(
        model=model.eval(),
        config=config,
        recognised=line,
        missing=missing,
        unexpected=unexpected,
        ignored=found.ignored,
        weights_sha256=digest,
        metadata=stored.metadata,
    )


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _configure(found: Recognition, overrides: Mapping[str, Any]) -> tuple[ModelConfig, list[str]]:
    """The stored configuration with the caller's fields, and remarks where weights decide otherwise."""
    stored = found.config.to_dict()
    if unknown := sorted(set(overrides) - set(stored)):
        raise ValueError(
            f"a model configuration has no field {', '.join(unknown)}; it has {', '.join(stored)}"
        )
    for name, value in overrides.items():
        if name not in found.open and value != stored[name]:
            raise ValueError(f"{name}={value!r}: the weights fix it at {stored[name]!r}")
    fields, notes = {**stored, **_image_to_video(found.config, overrides), **overrides}, []
    variant = overrides.get("variant", stored["variant"])
    if variant != stored["variant"]:
        for name, value in variant_switches(variant).items():
            if name in overrides:
                continue
            if name in found.open or value == stored[name]:
                fields[name] = value
            elif name in ("mixer", "directions"):
                raise ValueError(
                    f"variant={variant!r} has {name} {value!r}; the weights fix {stored[name]!r}"
                )
            else:
                notes.append(f"variant {variant} has {name}={value}, but the weights fix {stored[name]}")
    return ModelConfig.from_dict(fields), notes


def _image_to_video(stored: ModelConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from asking an image model for several frames, or for kind="video"."""
    wants = overrides.get("kind") == "video" or (
        "kind" not in overrides and overrides.get("num_frames", 1) != 1
    )
    if stored.kind != "image" or not wants:
        return {}
    return {"kind": "video", "num_frames": 8, "num_classes": 0}


def _compare(
    stored: StoredWeights,
    model: torch.nn.Module,
    tensors: Mapping[str, Tensor],
    fresh: set[str],
    allow_missing: tuple[str, ...],
    allow_unexpected: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names missing from the file and unexpected in it, all of them allowed. Raises CheckpointError otherwise."""
    wanted = model.state_dict()
    missing = tuple(name for name in wanted if name not in tensors and name not in fresh)
    unexpected = tuple(name for name in tensors if name not in wanted)
    faults = []
    if refused := [name for name in missing if not _allowed(name, allow_missing)]:
        faults.append(f"{_listed('missing', refused)} (allow_missing)")
    if refused := [name for name in unexpected if not _allowed(name, allow_unexpected)]:
        faults.append(f"{_listed('unexpected', refused)} (allow_unexpected)")
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if wrong:
        faults.append(_listed("of another shape", wrong))
    if faults:
        raise CheckpointError(f"{stored.path}: {'; '.join(faults)}")
    return missing, unexpected


def _listed(what: str, names: Sequence[str]) -> str:
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {what}: {', '.join(names[:_LISTED])}{rest}"


def _allowed(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == entry or name.startswith(f"{entry.rstrip('.')}.") for entry in allowed)


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _check_values(stored: StoredWeights, tensors: Mapping[str, Tensor], allow_nonfinite: bool) -> None:
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            kind = "on the meta device, without values" if tensor.is_meta else f"of layout {tensor.layout}"
            raise CheckpointError(f"{stored.path}: {name} is {kind}; dense weights are needed")
        if tensor.dtype not in kinds:
            raise CheckpointError(
                f"{stored.path}: {name} is {tensor.dtype}; floating point weights are needed"
            )
    broken = {name: int((~t.isfinite()).sum()) for name, t in tensors.items() if not t.isfinite().all()}
    if broken and not allow_nonfinite:
        raise CheckpointError(
            f"{stored.path}: {sum(broken.values())} weights are NaN or infinite, in {', '.join(list(broken)[:_LISTED])}"
            f"; allow_nonfinite (--allow-nonfinite on the command line) reads them all the same"
        )


def _common_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    met = {tensor.dtype for tensor in tensors}
    return met.pop() if len(met) == 1 else torch.float32


def _line(stored: StoredWeights, found: Recognition, config: ModelConfig, notes: Iterable[str]) -> str:
    """One line that says what the file was taken for."""
    size = [f"{config.depth} layers of width {config.d_model}", f"{config.d_state} states"]
    if config.kind == "language":
        size.append(f"vocabulary {config.vocab_size}")
    else:
        size.append(f"{config.image_size} x {config.image_size} pixels in patches of {config.patch_size}")
        size += [f"{config.num_frames} frames"] * (config.kind == "video")
        size += [f"class token {config.class_token}", f"{config.num_classes} classes"]
    changed = ", ".join(f"{name}={value}" for name, value in config.deviations.items())
    reading = f"variant {config.variant}{' but ' + changed if changed else ''}"
    source = "safetensors" if stored.format == "safetensors" else "torch file"
    if stored.container:
        source += f", entry {stored.container}"
    if stored.passed_over:
        source += f" (also there: {', '.join(stored.passed_over)})"
    title = f"{found.title} {config.kind} model"
    return "; ".join([f"{title} ({', '.join(size)})", reading, source, *found.notes, *notes])
