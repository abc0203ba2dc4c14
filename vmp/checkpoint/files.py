"""From a file on disk to named tensors, without ever running what the file holds."""

import argparse
import json
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

CONTAINERS = ("model", "module", "model_ema", "state_dict")
"""Entries of a training save that may hold the weights, in the order in which they are looked for."""

_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(
    10, "little"
)  # opens what torch.save wrote before it wrote zips
_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for; run `git lfs pull`",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"RIFF": "an image, sound or video in a RIFF file",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
}


class CheckpointError(ValueError):
    """A file that is not read: what it is, what is wrong with it, and what would do."""


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of one file, names as they stand in it.

    Attributes:
        path: the file
        format: "safetensors" or "pickle"
        tensors: by name
        container: the entry of the file that held them, or None where the file is the state dict itself
        passed_over: other entries that hold weights too
        metadata: of a safetensors file
    """

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    container: str | None
    passed_over: tuple[str, ...]
    metadata: Mapping[str, str]


def read_stored(path: str | os.PathLike[str], container: str | None = None) -> StoredWeights:
    """Read a safetensors file, or a pickle by `torch.load(weights_only=True)`.

    Args:
        path: the file.
        container: the entry of a training save to take; by default the first of `CONTAINERS` that is there.

    Raises:
        CheckpointError: there is no such file, it is a folder, empty, truncated or damaged, no checkpoint, holds
            no named tensors, or is a pickle that would run code.
    """
    path = Path(path)
    head = _head(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER:
        if container is not None:
            raise CheckpointError(f"{path} is a safetensors file, which has no container {container!r}")
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        _check_zip(path)
    elif not head.startswith(b"\x80"):
        raise CheckpointError(f"{path} is {_guess(head)}, not a checkpoint")
    elif _TORCH_MAGIC not in head:
        raise _foreign_pickle(path)
    return _from_object(path, _read_pickle(path), container)


def _head(path: Path) -> bytes:
    """The first bytes. Raises CheckpointError for what is not a file with something in it."""
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.suffix in _WEIGHT_SUFFIXES and p.is_file())
            hint = (
                f"name a file in it: {', '.join(inside)}"
                if inside
                else "no file in it is a checkpoint by name"
            )
            raise CheckpointError(f"{path} is a folder; {hint}")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes)")
    return head


def _guess(head: bytes) -> str:
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return name
    if head[4:8] == b"ftyp":
        return "a video"
    # A character may be cut in two at the end of `head`, so the last few bytes do not count.
    text = head.decode("utf-8", errors="replace")[:-4]
    if "\ufffd" not in text and all(c.isprintable() or c in "\r\n\t" for c in text):
        return f"text that begins {text[:24].strip()!r}"
    return f"a file that begins with the bytes {head[:8].hex(' ')}"


def _read_safetensors(path: Path) -> StoredWeights:
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = file.read(min(header_size, size))
    if len(header) < header_size:
        raise CheckpointError(
            f"{path} is a truncated safetensors file: its header of {header_size} bytes is cut off"
        )
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointError(f"{path} is a damaged safetensors file: its header is not readable") from None
    wanted = 8 + header_size + max(ends, default=0)
    if size < wanted:
        raise CheckpointError(f"{path} is a truncated safetensors file: {size} bytes of {wanted}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is a damaged safetensors file: {error}") from None
    if not tensors:
        raise CheckpointError(f"{path} is a safetensors file without tensors")
    return StoredWeights(path, "safetensors", tensors, None, (), metadata)


def _check_zip(path: Path) -> None:
    """That a zip archive is whole and is one that `torch.save` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise CheckpointError(
            f"{path} is a truncated checkpoint or zip archive: its table of contents, at the end, is missing"
        ) from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, and reading it would run code; it is refused. Save its state_dict()"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        first = f"its first entry is {names[0]}" if names else "it has no entries"
        raise CheckpointError(f"{path} is a zip archive, not a checkpoint: {first}")


def _read_pickle(path: Path) -> Any:
    """The object of a pickle, with torch's unpickler that makes tensors and plain containers only."""
    try:
        # Training saves hold their flags as a Namespace, which is a bag of values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if called := re.search(r"(?:GLOBAL|function) ([\w.]+)", str(error)):
            raise _would_run(path, called[1]) from None
        raise CheckpointError(f"{path} is a damaged pickle, or one that holds no weights") from None
    except Exception as error:  # torch's unpickler meets damage with exceptions of any type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is a truncated or damaged checkpoint: {reason}") from None


def _foreign_pickle(path: Path) -> CheckpointError:
    """What a pickle is that `torch.save` did not write. Its instructions are listed, not followed."""
    strings: list[str] = []
    try:
        for instruction, argument, _ in pickletools.genops(path.read_bytes()):
            if instruction.name in ("GLOBAL", "INST"):
                return _would_run(path, str(argument).replace(" ", "."))
            if instruction.name == "STACK_GLOBAL":
                return _would_run(path, ".".join(strings[-2:]))
            if isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        return CheckpointError(f"{path} is a truncated or damaged pickle, and not one that torch.save wrote")
    return CheckpointError(f"{path} is a pickle that torch.save did not write; it holds no weights")


def _would_run(path: Path, called: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is refused: reading this pickle would run code, as it asks for {called}, and weights need none. "
        f"Ask for a safetensors file, or for torch.save(model.state_dict(), ...)"
    )


def _from_object(path: Path, stored: Any, container: str | None) -> StoredWeights:
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{path} holds a {type(stored).__name__}, not named weights")
    holders = [
        name for name in CONTAINERS if isinstance(stored.get(name), Mapping) and _tensors(stored[name])
    ]
    if container is not None and container not in holders:
        found = ", ".join(holders) or "none"
        raise CheckpointError(f"{path} has no container {container!r} that holds weights; found: {found}")
    chosen = container or (holders[0] if holders else None)
    tensors = _tensors(stored if chosen is None else stored[chosen])
    if not tensors:
        entries = ", ".join(map(str, list(stored)[:8])) or "nothing"
        raise CheckpointError(f"{path} holds no named weights; its entries: {entries}")
    passed_over = tuple(name for name in holders if name != chosen)
    return StoredWeights(path, "pickle", tensors, chosen, passed_over, {})


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {
        name: value for name, value in mapping.items() if isinstance(name, str) and isinstance(value, Tensor)
    }
