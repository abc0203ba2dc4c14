"""From a command line to models and clips: which checkpoint, what to show it, which layers and scopes.

Each function raises `RequestError` with one line for the user where what was asked cannot be.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from analysis.capture import family_of
from analysis.engine import Entry
from analysis.inputs import DEFAULT_SOURCE, VIDEO_SOURCE, Sample, clips, random_tokens
from analysis.matrix.scopes import SCOPES, Scope
from analysis.pretrained import LoadedFolder, is_folder, load_hf
from vmp.checkpoint import Loaded, read_checkpoint
from vmp.config import ModelConfig

DEFAULT_CLIPS = 8
DEFAULT_LENGTH = 512

CLIP_SHAPE = {"num_frames": "--frames", "image_size": "--size"}
"""Overrides that say what a clip is, and their flags."""


class RequestError(ValueError):
    """A request that cannot be met; the message is one line for the user."""


@dataclass(frozen=True)
class Request:
    """What to probe and with what.

    Attributes:
        video: files, or folders of frames, a clip each; or data: a clip source. Neither means
            `DEFAULT_SOURCE`.
        clips: how many; None for one a video file, else `DEFAULT_CLIPS`.
        layers: such as "all", "0,3,-1" or "0-5".
        scopes: such as ("ssm",), or ("all",).
        seed: of the clips and the bootstrap.
        bootstrap: resamples.
        length: tokens a sequence, for language models.
        overrides: arguments of `vmp.load_checkpoint`, such as variant or num_frames; None for those not
            given.
    """

    checkpoint: Path
    video: tuple[Path, ...] = ()
    data: str | None = None
    clips: int | None = None
    layers: str = "all"
    scopes: tuple[str, ...] = ("ssm",)
    device: str = "cpu"
    seed: int = 0
    bootstrap: int = 1000
    length: int | None = None
    overrides: tuple[tuple[str, Any], ...] = ()


def name_of(checkpoint: Path) -> str:
    """What tables and figures call a checkpoint: its file without the ending, or its folder."""
    path = checkpoint.absolute()
    return path.name if path.is_dir() else path.stem


def read(request: Request) -> Loaded | LoadedFolder:
    """The checkpoint of a request, its overrides applied: a file, or a folder of transformers."""
    given = {name: value for name, value in request.overrides if value is not None}
    try:
        if is_folder(request.checkpoint):
            return _read_folder(request.checkpoint, given)
        return read_checkpoint(request.checkpoint, **given)
    except ValueError as error:
        others = {name: value for name, value in given.items() if name not in CLIP_SHAPE}
        if others != given and _is_language(request.checkpoint, others):
            raise _no_clips(request) from error
        raise RequestError(str(error)) from error


def _read_folder(folder: Path, overrides: dict[str, Any]) -> LoadedFolder:
    loaded = load_hf(folder, allow_nonfinite=overrides.get("allow_nonfinite", False))
    shape = {name: getattr(loaded.config, name) for name in CLIP_SHAPE}
    fixed = {"allow_nonfinite": True, **({} if loaded.config.kind == "language" else shape)}
    wrong = [name for name, value in overrides.items() if value != fixed.get(name)]
    if wrong:
        drop = ", ".join(CLIP_SHAPE.get(name, "--" + name.replace("_", "-")) for name in wrong)
        raise RequestError(f"{folder}: is a folder of transformers, whose configuration holds; drop {drop}")
    return loaded


def _is_language(checkpoint: Path, overrides: dict[str, Any]) -> bool:
    try:
        return read_checkpoint(checkpoint, **overrides).config.kind == "language"
    except ValueError:
        return False


def _no_clips(request: Request) -> RequestError:
    given = {name for name, value in request.overrides if value is not None}
    flags = {
        "--video": bool(request.video),
        "--data": request.data is not None,
        **{flag: name in given for name, flag in CLIP_SHAPE.items()},
    }
    drop = " and ".join(flag for flag, used in flags.items() if used)
    return RequestError(f"{request.checkpoint}: is a language model, which takes no clips; drop {drop}")


def parse_scopes(names: Sequence[str]) -> tuple[Scope, ...]:
    """Scopes in their own order, each once.

    Raises:
        RequestError: for an unknown one.
    """
    for name in names:
        if name not in (*SCOPES, "all"):
            raise RequestError(f"--scope {name!r}: there are {', '.join(SCOPES)} and all")
    return tuple(scope for scope in SCOPES if scope in names or "all" in names)


def parse_device(name: str) -> torch.device:
    """A device that can be used here.

    Raises:
        RequestError: torch cannot use it.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise RequestError(f"--device {name!r} cannot be used: {reason}") from error
    return device


def parse_layers(text: str, depth: int) -> list[int]:
    """Layers from "all", or numbers and ranges such as "0,3,-1" and "0-5", as sorted indices from 0.

    Raises:
        RequestError: naming the part that is wrong, for one out of range or not understood.
    """
    if text.strip() == "all":
        return list(range(depth))
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] is not None and match[1].startswith("-")):
            raise RequestError(f"--layers {text!r}: {part!r} is no layer; write such as 0,3,-1 or 0-5 or all")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        for layer in (first, last):
            if not -depth <= layer < depth:
                raise RequestError(f"--layers {text!r}: {layer} is out of range; there are 0 to {depth - 1}")
        if last < first:
            raise RequestError(f"--layers {text!r}: the range {part.strip()} ends before it begins")
        chosen.update(layer % depth for layer in range(first, last + 1))
    return sorted(chosen)


def samples_of(request: Request, config: ModelConfig) -> tuple[str, int, Iterator[Sample]]:
    """The name of the source, how many samples, and the samples."""
    if request.video and request.data is not None:
        raise RequestError("--video and --data were both given; one of them says what the model is shown")
    if config.kind == "language":
        shaped = any(name in CLIP_SHAPE and value is not None for name, value in request.overrides)
        if request.video or request.data is not None or shaped:
            raise _no_clips(request)
        count = request.clips or DEFAULT_CLIPS
        tokens = random_tokens(
            vocabulary=config.vocab_size,
            length=request.length or DEFAULT_LENGTH,
            count=count,
            seed=request.seed,
        )
        return "random tokens", count, tokens
    if request.length is not None:
        raise RequestError(
            f"--length {request.length}: only language models take it; see --frames and --size"
        )
    if config.channels != 3:
        raise RequestError(f"{request.checkpoint}: takes {config.channels} channels; clips have 3")
    count = request.clips or (len(request.video) or DEFAULT_CLIPS)
    if request.video and count > len(request.video):
        raise RequestError(f"--clips {count}: each video is one clip, and {len(request.video)} were given")
    source = VIDEO_SOURCE if request.video else request.data or DEFAULT_SOURCE
    samples = clips(
        source,
        num_frames=config.num_frames,
        image_size=config.image_size,
        count=count,
        seed=request.seed,
        paths=request.video[:count],
    )
    return source, count, samples


RANDOM_TOKENS = "The model was shown token ids drawn uniformly at random, which are no text."


@final
@dataclass(frozen=True, eq=False)
class Opened:
    """A request whose checkpoint is read.

    The model is on the request's device, in evaluation mode, and in float32 at least, as half precision is a way to
    store weights.

    Attributes:
        scopes, layers: those asked for, parsed.
    """

    request: Request
    loaded: Loaded | LoadedFolder
    scopes: tuple[Scope, ...]
    layers: tuple[int, ...]

    @property
    def model(self) -> nn.Module:
        return self.loaded.model

    @property
    def config(self) -> ModelConfig:
        return self.loaded.config

    @property
    def source(self) -> str:
        """The name of what the model is shown."""
        return samples_of(self.request, self.config)[0]

    def samples(self) -> Iterator[Sample]:
        """The samples, the same at every call."""
        return samples_of(self.request, self.config)[2]

    def entry(self, name: str) -> Entry:
        """The model as the engine takes it, with all that changes what a probe finds in a clip."""
        request = self.request
        _, count, _ = samples_of(request, self.config)
        files = [path.stat() for path in request.video if path.exists()]
        asked = {
            k: v for k, v in vars(request).items() if k not in ("checkpoint", "bootstrap", "layers", "scopes")
        }
        shown = {
            **asked,
            "config": self.config.to_dict(),
            "files": [(file.st_size, file.st_mtime_ns) for file in files],
        }
        notes = (RANDOM_TOKENS,) if self.config.kind == "language" else ()
        return Entry(
            name, self.model, self.samples, count, shown, self.origin(), layers=self.layers, notes=notes
        )

    def origin(self) -> dict[str, Any]:
        """What a result keeps of the weights: fields of `analysis.provenance.ModelOrigin`."""
        path = self.request.checkpoint
        if isinstance(self.loaded, LoadedFolder):
            file_hash = self.loaded.files_sha256
        else:
            with path.open("rb") as file:
                file_hash = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "path": str(path),
            "file_sha256": file_hash,
            "weights_sha256": self.loaded.weights_sha256,
            "recognised": self.loaded.recognised,
            "config": self.config.to_dict(),
        }


def open_request(request: Request) -> Opened:
    """Read a request's checkpoint.

    Raises:
        RequestError: where the request or the checkpoint will not do, with a message for the user.
    """
    scopes = parse_scopes(request.scopes)
    device = parse_device(request.device)
    loaded = read(request)
    try:
        family_of(loaded.model)
        layers = parse_layers(request.layers, loaded.config.depth)
    except (TypeError, RequestError) as error:
        raise RequestError(f"{request.checkpoint}: {error}") from error
    samples_of(request, loaded.config)  # What cannot be shown is told before anything is run.
    dtype = torch.promote_types(next(loaded.model.parameters()).dtype, torch.float32)
    loaded.model.to(device, dtype).eval()
    return Opened(request, loaded, scopes, tuple(layers))
