"""Writing the own format: safetensors with the configuration in its metadata."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save

from vmp import __version__
from vmp.checkpoint.recognise import CONFIG_KEY
from vmp.model import LanguageModel, VideoModel

VERSION_KEY = "vmp_version"


def save_checkpoint(
    model: VideoModel | LanguageModel,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model's weights and configuration to one safetensors file, all or nothing.

    The file is written beside `path` and then renamed, so that a reader meets the old file or the new one whole.
    `read_checkpoint` gives back every weight bit for bit.

    Args:
        model: the model; its dtype is kept.
        path: the file, replaced if it is there.
        metadata: more entries for the file's metadata, text to text.

    Raises:
        ValueError: `metadata` uses a name that the format itself uses.
        OSError: the file cannot be written; nothing is left behind.
    """
    own = {
        "format": "pt",
        CONFIG_KEY: json.dumps(model.config.to_dict()),
        VERSION_KEY: __version__,
    }
    if taken := sorted(set(own) & set(metadata or {})):
        raise ValueError(f"metadata: {', '.join(taken)} is written by the format itself")
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        # safetensors' own writer would hide the system's error, such as a full disk, in one of its kind.
        partial.write_bytes(save(tensors, {**(metadata or {}), **own}))
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
