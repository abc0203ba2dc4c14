"""What model a set of named tensors is, told from names and shapes alone."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vmp.checkpoint.files import CheckpointError, StoredWeights
from vmp.config import SIZES, VARIANTS, ModelConfig

CONFIG_KEY = "vmp_config"
FAMILIES = ("videomamba", "videomambapro", "vim", "mamba")

# Fields that tensors leave open, and so a caller may set. Some of the rest may be set where the tensors allow it.
OPEN_FIELDS = {
    *("name", "variant", "mask_backward", "residual", "scan_input", "masked_first_step", "halve_output"),
    *("norm_epsilon", "drop_path", "image_size", "num_frames", "num_classes"),
}

_PREFIXES = ("module.", "backbone.", "encoder.")
_IGNORED = {"distill_head.": "a distillation head", "clip_decoder.": "the decoder of a masked pretraining"}
_TITLES = {"videomamba": "VideoMamba", "videomambapro": "VideoMambaPro", "vim": "Vim", "mamba": "Mamba"}

# What other models' names look like, to say what a wrong file probably is.
_OTHERS = {
    r"layers\.\d+\.mixer\.dt_bias": "a Mamba-2 model, whose scan is another one",
    r"blocks\.\d+\.attn\.qkv\.weight": "a Vision Transformer",
    r"layer\d\.\d+\.conv\d\.weight": "a ResNet",
    r"features\.\d+\.(\d+\.)*weight": "a convolutional network",
    r"(layer|layers|h)\.\d+\.(self_attn|attention|attn)\.": "a transformer",
    r"stages\.\d+\.": "a staged convolutional network or transformer",
}


@dataclass(frozen=True)
class Recognition:
    """What a file is.

    Attributes:
        family: one of `FAMILIES`, or "own" for a file of `save_checkpoint`
        title: the family in words
        tensors: the weights under this project's names
        config: the configuration they were stored under, as far as they tell; the rest by the family's defaults
        open: names of fields that the tensors leave open
        notes: remarks for the line that says what was recognised
        ignored: names of entries that are no part of the model
    """

    family: str
    title: str
    tensors: Mapping[str, Tensor]
    config: ModelConfig
    open: frozenset[str]
    notes: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass
class _Names:
    """Tensors under this project's names, and what was done to get there."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def recognise(stored: StoredWeights, family: str | None = None) -> Recognition:
    """Tell the model from names and shapes.

    Args:
        stored: the file's tensors.
        family: one of `FAMILIES`, where names and shapes alone would be read as another one.

    Raises:
        CheckpointError: the tensors are no model of these families, or contradict one another.
        ValueError: `family` is unknown, or cannot be what these tensors are.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family is {family!r}; it must be one of {', '.join(FAMILIES)}")
    if CONFIG_KEY in stored.metadata:
        if family is not None:
            raise ValueError(
                f"family={family!r}: {stored.path} holds its own configuration; leave family out"
            )
        return _own(stored)
    names = _normalise(stored)
    try:
        if any(name.startswith("embedding.") for name in names.tensors):
            return _language(names, family)
        return _vision(names, family)
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise CheckpointError(f"{stored.path}: {error}") from None
        raise


def _own(stored: StoredWeights) -> Recognition:
    try:
        fields = json.loads(stored.metadata[CONFIG_KEY])
        if not isinstance(fields, dict):
            raise ValueError(f"{CONFIG_KEY} is {fields!r}; an object of fields is needed")
        config = ModelConfig.from_dict(fields)
    except ValueError as error:
        version = stored.metadata.get("vmp_version", "unknown")
        raise CheckpointError(
            f"{stored.path}: the configuration in its metadata, written by version {version}, is not understood: "
            f"{error}"
        ) from None
    may_change = OPEN_FIELDS | _openings(config)
    return Recognition("own", config.name, stored.tensors, config, frozenset(may_change), (), ())


def _normalise(stored: StoredWeights) -> _Names:
    """Strip prefixes, rename what families name differently, set aside what is no part of a model."""
    names, stripped = _Names(), set()
    for original, tensor in stored.tensors.items():
        name = original
        while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
            name = name.removeprefix(prefix)
            stripped.add(prefix)
        if any(name.startswith(start) for start in _IGNORED):
            names.ignored.append(original)
            continue
        if re.match(r"norm\.(weight|bias)$", name):
            name = name.replace("norm", "norm_f", 1)
        name = re.sub(r"^embeddings\.", "embedding.", name)
        if name in names.tensors:
            raise CheckpointError(f"{stored.path}: two entries are {name} once prefixes are stripped")
        names.tensors[name] = tensor
    if not any(re.match(r"layers\.\d+\.mixer\.A_log$", name) for name in names.tensors) or _is_mamba2(names):
        raise CheckpointError(f"{stored.path} is {_describe_other(stored.tensors)}")
    if stripped:
        names.notes.append(f"prefix {' and '.join(sorted(stripped))} stripped")
    for start, what in _IGNORED.items():
        if count := sum(start in name for name in names.ignored):
            names.notes.append(f"{count} entries {start}* ignored ({what})")
    return names


def _is_mamba2(names: _Names) -> bool:
    return any(re.search(r"mixer\.dt_bias$", name) for name in names.tensors)


def _describe_other(names: Iterable[str]) -> str:
    names = list(names)
    what = "no Mamba model"
    for pattern, other in _OTHERS.items():
        if any(re.search(pattern, name) for name in names):
            what = f"not a model read here but, by its names, {other}"
            break
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{what}: no layers.*.mixer.A_log of a selective scan among {shown}"


def _language(names: _Names, family: str | None) -> Recognition:
    if family not in (None, "mamba"):
        raise ValueError(f"family={family!r}: the file is a language model, which can be read as mamba only")
    tensors = dict(names.tensors)
    embedding = _tensor(tensors, "embedding.weight", 2)
    head = tensors.get("lm_head.weight")
    tied = head is None or (head.shape == embedding.shape and bool((head == embedding).all()))
    if tied:
        tensors.pop("lm_head.weight", None)
    fields = _mixer_fields(tensors) | {
        "name": "mamba",
        "kind": "language",
        "class_token": "none",
        "vocab_size": embedding.shape[0],
        "tied_head": tied,
    }
    fields["variant"] = "mamba" if fields["directions"] == "forward" else "videomamba"
    config = _config(fields)
    may_change = OPEN_FIELDS - {"image_size", "num_frames", "num_classes"}
    notes = (*names.notes, "head tied to the embedding" if tied else "head of its own")
    return Recognition(
        "mamba", _TITLES["mamba"], tensors, config, frozenset(may_change), notes, tuple(names.ignored)
    )


def _vision(names: _Names, family: str | None) -> Recognition:
    if family == "mamba":
        raise ValueError(
            "family='mamba': the file has no embedding of a vocabulary, so it is no language model"
        )
    tensors, notes = names.tensors, list(names.notes)
    fields = _mixer_fields(tensors) | _input_fields(tensors)
    two_tokens = fields["class_token"] == "both_ends"
    one_set = bool(fields["shared_projections"])
    guessed = "vim" if two_tokens else "videomambapro" if one_set else "videomamba"
    chosen = family or guessed
    if chosen == "vim":
        fields["halve_output"] = True
        if fields["class_token"] == "first":
            fields["class_token"] = "middle"
        notes.append(
            "output halved as in Vim's published models, which the weights do not tell (halve_output)"
        )
    elif two_tokens:
        raise ValueError(f"family={family!r}: the file has two class tokens, which only Vim has")
    elif family is None:
        notes.append(_ambiguity(fields, one_set))
    fields |= _variant(chosen, fields)
    if (fields["d_model"], fields["depth"]) in SIZES.values():
        size = next(s for s, shape in SIZES.items() if shape == (fields["d_model"], fields["depth"]))
        fields["name"] = f"{chosen}_{size}"
    else:
        fields["name"] = chosen
    if any("clip_decoder." in name for name in names.ignored):
        notes.append("masked pretraining, no head")
    config = _config(fields)
    may_change = OPEN_FIELDS | _openings(config)
    return Recognition(
        chosen, _TITLES[chosen], tensors, config, frozenset(may_change), tuple(notes), tuple(names.ignored)
    )


def _ambiguity(fields: Mapping[str, Any], one_set: bool) -> str:
    if one_set:
        return (
            "one set of projections for both directions, so read as VideoMambaPro's released code "
            '(variant="videomamba" for a plain scan)'
        )
    ways = ['variant="paper" or family="videomambapro" where it is VideoMambaPro']
    if fields["kind"] == "image" and fields["class_token"] == "first":
        ways.insert(0, 'family="vim" where it is Vim with the class token in the middle')
    return f"other families have the same names: {', '.join(ways)}"


def _variant(family: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The variant that a family's files are read as, with switches the tensors fix put right."""
    if fields["directions"] == "forward":
        variant = "mamba"
    elif family == "videomambapro":
        variant = "released" if fields["shared_projections"] else "paper"
    else:
        variant = "videomamba"
    return {
        "variant": variant,
        **VARIANTS[variant],
        **{s: fields[s] for s in VARIANTS[variant] if s in fields},
    }


def _openings(config: ModelConfig) -> set[str]:
    """Fields that tensors of this configuration leave open beyond `OPEN_FIELDS`."""
    opened = set()
    if config.shared_projections or config.directions == "forward":
        opened.add("backward_skip")
    if config.kind == "image":
        opened |= {"kind", "tubelet_size"}
    if config.kind != "language" and config.class_token in ("first", "middle"):
        opened.add("class_token")
    return opened


def _mixer_fields(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields that the blocks fix."""
    numbers = {int(found[1]) for name in tensors if (found := re.match(r"layers\.(\d+)\.", name))}
    rates, in_proj = _of_layer(tensors, "mixer.A_log", 2), _of_layer(tensors, "mixer.in_proj.weight", 2)
    conv, dt = _of_layer(tensors, "mixer.conv1d.weight", 3), _of_layer(tensors, "mixer.dt_proj.weight", 2)
    (inner, states), width, rank = rates.shape, in_proj.shape[1], dt.shape[1]
    if width == 0 or inner % width or inner == 0:
        raise CheckpointError(f"the scan has {inner} channels, not a multiple of the model's width {width}")
    both, separate = _any_layer(tensors, "mixer.A_b_log"), _any_layer(tensors, "mixer.conv1d_b.weight")
    fields = {
        "mixer": "mamba",
        "d_model": width,
        "depth": max(numbers) + 1,
        "d_state": states,
        "d_conv": conv.shape[2],
        "expand": inner // width,
        "dt_rank": None if rank == math.ceil(width / 16) else rank,
        "directions": "both" if both else "forward",
        "shared_projections": both and not separate,
        "layer_scale": _any_layer(tensors, "mixer.gamma"),
        "projection_bias": _any_layer(tensors, "mixer.in_proj.bias"),
        "conv_bias": _any_layer(tensors, "mixer.conv1d.bias"),
        "norm": "layer" if _any_layer(tensors, "norm.bias") else "rms",
    }
    if separate:
        fields["backward_skip"] = _any_layer(tensors, "mixer.D_b")
    return fields


def _input_fields(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields that embeddings, positions and head fix."""
    image = _tensor(tensors, "patch_embed.proj.weight", 4, 5).ndim == 4
    kernel = tensors["patch_embed.proj.weight"]
    patch, tubelet = kernel.shape[-1], 1 if image else kernel.shape[2]
    if kernel.shape[-2] != patch:
        raise CheckpointError(f"patches of {kernel.shape[-2]} x {patch} pixels; only square ones are read")
    both_ends = "cls_token_head" in tensors and "cls_token_tail" in tensors
    classes = 2 if both_ends else int("cls_token" in tensors)
    positions = _tensor(tensors, "pos_embed", 3).shape[1] - classes
    side = math.isqrt(max(positions, 0))
    if side == 0 or side * side != positions:
        raise CheckpointError(
            f"pos_embed has {positions + classes} positions, which less {classes} class tokens is no square grid"
        )
    fields = {
        "kind": "image" if image else "video",
        "channels": kernel.shape[1],
        "patch_size": patch,
        "tubelet_size": tubelet,
        "image_size": side * patch,
        "num_frames": 1,
        "class_token": "both_ends" if both_ends else "first" if classes else "none",
        "num_classes": _tensor(tensors, "head.weight", 2).shape[0] if "head.weight" in tensors else 0,
    }
    if not image:
        known = "temporal_pos_embedding" in tensors
        frames = _tensor(tensors, "temporal_pos_embedding", 3).shape[1] if known else max(1, 8 // tubelet)
        fields["num_frames"] = frames * tubelet
    return fields


def _config(fields: Mapping[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.from_dict(fields)
    except ValueError as error:
        raise CheckpointError(f"its shapes make no model: {error}") from None


def _tensor(tensors: Mapping[str, Tensor], name: str, *ranks: int) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{name} is missing, without which the model's shape is unknown")
    if tensors[name].ndim not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise CheckpointError(f"{name} has shape {tuple(tensors[name].shape)}; {wanted} axes were expected")
    return tensors[name]


def _of_layer(tensors: Mapping[str, Tensor], name: str, rank: int) -> Tensor:
    """The first layer's tensor of that name."""
    for found in tensors:
        if re.match(rf"layers\.\d+\.{re.escape(name)}$", found):
            return _tensor(tensors, found, rank)
    raise CheckpointError(f"layers.*.{name} is missing in every layer, without which the shape is unknown")


def _any_layer(tensors: Mapping[str, Tensor], name: str) -> bool:
    return any(re.match(rf"layers\.\d+\.{re.escape(name)}$", found) for found in tensors)
