"""What a model is: frozen configurations, named variants and sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vmp.layout import TokenLayout
from vmp.scan.call import MaskedFirstStep, Residual

MixerKind = Literal["mamba", "attention"]
Directions = Literal["forward", "both"]
ScanInput = Literal["convolved", "projected"]
NormKind = Literal["rms", "layer"]
ModelKind = Literal["video", "image", "language"]
ClassToken = Literal["first", "middle", "both_ends", "none"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "mixer": get_args(MixerKind),
    "directions": get_args(Directions),
    "residual": get_args(Residual),
    "scan_input": get_args(ScanInput),
    "masked_first_step": get_args(MaskedFirstStep),
    "norm": get_args(NormKind),
    "kind": get_args(ModelKind),
    "class_token": get_args(ClassToken),
}
_POSITIVE = (
    *("d_model", "depth", "d_state", "d_conv", "expand"),
    *("image_size", "patch_size", "num_frames", "tubelet_size", "channels"),
)

_PLAIN: dict[str, Any] = {
    "mixer": "mamba",
    "directions": "both",
    "mask_backward": False,
    "residual": "none",
    "scan_input": "convolved",
    "masked_first_step": "carry",
    "backward_skip": True,
    "shared_projections": False,
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "mamba": _PLAIN | {"directions": "forward"},
    "videomamba": _PLAIN,
    "mask": _PLAIN | {"mask_backward": True},
    "residual_initial": _PLAIN | {"residual": "initial"},
    "residual_elemental": _PLAIN | {"residual": "elemental"},
    "paper": _PLAIN | {"mask_backward": True, "residual": "elemental", "backward_skip": False},
    "released": _PLAIN
    | {
        "mask_backward": True,
        "residual": "initial",
        "scan_input": "projected",
        "masked_first_step": "skip_only",
        "shared_projections": True,
    },
    "attention": _PLAIN | {"mixer": "attention"},
}
"""Each variant's switches.

`paper` is VideoMambaPro as its text has it, with the elemental residual as we read it (math.md, section 1);
`released` is VideoMambaPro as its published code computes it. `mask`, `residual_initial` and
`residual_elemental` are each one switch away from `videomamba`.
"""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that fixes a model's computation, apart from its weights.

    Attributes:
        name: free text that reports quote
        variant: the entry of `VARIANTS` that the switches come from; see `deviations`
        mixer: "mamba", or "attention", the control
        d_model, depth: width M of the residual stream, and the number of blocks
        d_state: N, states a channel
        d_conv: width of the causal convolution, in tokens
        expand, inner_width: D, the channels of the scan, is inner_width, or expand * M where that is None
        dt_rank: rank of the projection that makes delta; None for ceil(M / 16)
        num_heads, attention_width: of the self-attention mixer; width None for M
        directions: "forward", or "both": a second scan from the last token to the first
        mask_backward: the backward scan's own-token term leaves the output (`mask_diagonal` of the scan)
        residual: the scan's residual, in every direction
        scan_input: what is scanned: "convolved", silu(conv(x)), or "projected", x itself
        masked_first_step: of a masked scan: "carry" keeps C_1 Abar_1 h_0, "skip_only" outputs D u alone
        backward_skip: D u is added in the backward direction too
        shared_projections: one convolution (run once), x_proj, dt_proj and D serve both directions
        halve_output: the sum over directions is divided by 2 before the last projection (Vim)
        layer_scale: a learned gamma (M,) scales the mixer's output (Vim)
        projection_bias, conv_bias: whether in_proj and out_proj, and the convolutions, have a bias
        norm, norm_epsilon: "rms" or "layer" normalisation
        kind: "video", "image" (one frame, a 2-D patch embedding), or "language"
        image_size, patch_size: pixels; frames are square
        num_frames, tubelet_size: frames in a clip, and frames that one patch token spans
        channels: of a frame
        class_token: its place: before the patches, in the middle, one at each end, or none
        num_classes: outputs of the head; 0 for no head
        vocab_size, tied_head: of a language model; a tied head reuses the embedding
        drop_path: stochastic depth: the last block's rate; the first block's is 0, linear between

    Raises:
        ValueError: naming the field, where a value is out of range or fields contradict each other.
    """

    name: str
    variant: str = "videomamba"
    mixer: MixerKind = "mamba"
    d_model: int
    depth: int
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    inner_width: int | None = None
    dt_rank: int | None = None
    num_heads: int = 0
    attention_width: int | None = None
    directions: Directions = "both"
    mask_backward: bool = False
    residual: Residual = "none"
    scan_input: ScanInput = "convolved"
    masked_first_step: MaskedFirstStep = "carry"
    backward_skip: bool = True
    shared_projections: bool = False
    halve_output: bool = False
    layer_scale: bool = False
    projection_bias: bool = False
    conv_bias: bool = True
    norm: NormKind = "rms"
    norm_epsilon: float = 1e-5
    kind: ModelKind = "video"
    image_size: int = 224
    patch_size: int = 16
    num_frames: int = 8
    tubelet_size: int = 1
    channels: int = 3
    class_token: ClassToken = "first"
    num_classes: int = 0
    vocab_size: int = 0
    tied_head: bool = True
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        _check_values(self.to_dict())
        for name in _POSITIVE:
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("dt_rank", "inner_width"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} is {value}; at least 1 is needed")
        _require(0 <= self.drop_path < 1, f"drop_path is {self.drop_path}; it must be in [0, 1)")
        _require(self.norm_epsilon > 0, f"norm_epsilon is {self.norm_epsilon}; it must be above 0")
        _require(self.num_classes >= 0, f"num_classes is {self.num_classes}; it must be 0 (no head) or more")
        self._check_mixer()
        self._check_input()

    def _check_mixer(self) -> None:
        if self.mixer == "attention":
            _require(self.num_heads >= 1, f"num_heads is {self.num_heads}; attention needs at least 1")
            _require(
                self.attention_inner % self.num_heads == 0,
                f"attention_width {self.attention_inner} is not a multiple of num_heads {self.num_heads}",
            )
        one_way = self.directions == "forward"
        for field in ("mask_backward", "shared_projections"):
            wrong = one_way and getattr(self, field)
            _require(not wrong, f'{field} is set, but directions is "forward": there is no backward scan')

    def _check_input(self) -> None:
        if self.kind == "language":
            _require(
                self.vocab_size >= 1, f"vocab_size is {self.vocab_size}; a language model needs at least 1"
            )
            return
        _require(
            self.image_size % self.patch_size == 0,
            f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}",
        )
        _require(
            self.num_frames % self.tubelet_size == 0,
            f"num_frames {self.num_frames} is not a multiple of tubelet_size {self.tubelet_size}",
        )
        _require(
            self.kind != "image" or self.num_frames == 1,
            f'num_frames is {self.num_frames}, but kind is "image": an image is one frame',
        )

    @classmethod
    def from_variant(cls, variant: str, **fields: Any) -> ModelConfig:
        """The configuration with a variant's switches; `fields` override them one by one."""
        return cls.from_dict({"variant": variant, **variant_switches(variant), **fields})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: for unknown or absent fields, naming them.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(
                f"a model configuration has no field {', '.join(unknown)}; it has {', '.join(known)}"
            )
        required = [name for name, field in known.items() if field.default is dataclasses.MISSING]
        if absent := [name for name in required if name not in data]:
            raise ValueError(f"a model configuration needs the field {', '.join(absent)}")
        _check_values(data)
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Every field with its value, of types that JSON has."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def d_inner(self) -> int:
        """D, the channels of the scan."""
        return self.expand * self.d_model if self.inner_width is None else self.inner_width

    @property
    def delta_rank(self) -> int:
        """R, the rank of the projection that makes delta."""
        return math.ceil(self.d_model / 16) if self.dt_rank is None else self.dt_rank

    @property
    def attention_inner(self) -> int:
        """Heads times head width of the self-attention mixer."""
        return self.d_model if self.attention_width is None else self.attention_width

    @property
    def separate_backward(self) -> bool:
        """Whether the backward direction has projections of its own."""
        return self.directions == "both" and not self.shared_projections

    @property
    def deviations(self) -> dict[str, Any]:
        """The switches whose values are not the named variant's."""
        switches = VARIANTS[self.variant]
        return {name: getattr(self, name) for name in switches if getattr(self, name) != switches[name]}

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across a frame."""
        side = self.image_size // self.patch_size
        return side, side

    def token_layout(self) -> TokenLayout:
        """Where the tokens of this video or image model lie.

        Raises:
            ValueError: for a language model.
        """
        if self.kind == "language":
            raise ValueError("a language model has no frames; use TokenLayout.sequence(length)")
        return TokenLayout.video(self.num_frames // self.tubelet_size, self.grid, self.class_token)


SIZES: Mapping[str, tuple[int, int]] = {"tiny": (192, 24), "small": (384, 24), "middle": (576, 32)}
"""Width and depth of the published sizes, all at patch 16 (VideoMamba, table 1)."""

_MICRO = {"d_model": 64, "depth": 4, "image_size": 32, "patch_size": 8, "num_frames": 8, "tubelet_size": 2}


def model_names() -> list[str]:
    """The names that `named_config` and `vmp.create_model` take."""
    return [f"{family}_{size}" for family in ("videomamba", "videomambapro") for size in SIZES] + [
        "vmp_micro"
    ]


def named_config(name: str, variant: str | None = None, **fields: Any) -> ModelConfig:
    """The configuration of a named model.

    The `attention` variant gets two heads or one for every 64 units of width, whichever is more, and, unless
    `attention_width` is given, the width at which its mixer has as many parameters as VideoMamba's.

    Args:
        name: one of `model_names()`.
        variant: an entry of `VARIANTS`; None for the family's own: `videomamba` for videomamba_*, else `paper`.
        fields: any field of `ModelConfig`, overriding the name's and the variant's.

    Raises:
        ValueError: for an unknown name, variant or field.
    """
    if name not in model_names():
        raise ValueError(f"there is no model {name!r}; there are {', '.join(model_names())}")
    family, _, size = name.partition("_")
    if family == "vmp":
        shape = dict(_MICRO)
    else:
        shape = {"d_model": SIZES[size][0], "depth": SIZES[size][1]}
    if fields.get("kind") == "image":
        shape |= {"num_frames": 1, "tubelet_size": 1}
    variant = variant or ("videomamba" if family == "videomamba" else "paper")
    merged = {"name": name, "variant": variant, **variant_switches(variant), **shape, **fields}
    if merged["mixer"] == "attention":
        merged.setdefault("num_heads", max(2, merged["d_model"] // 64))
        plain = ModelConfig.from_dict({**merged, **VARIANTS["videomamba"]})
        merged.setdefault("attention_width", _matched_width(plain))
    return ModelConfig.from_dict(merged)


def matched_config(name: str, variant: str, **fields: Any) -> ModelConfig:
    """The configuration of a variant that has as many parameters as `videomamba` of the same name and fields.

    What is matched is the mixer; all else is the same in every variant. Self-attention is as wide as `named_config`
    makes it. Forward-only Mamba and `released`, which lack all or most of the backward direction, get the number of
    channels at which they come nearest (`inner_width`), and the rest keep D = expand * M: `paper` has D numbers less a
    block, the backward direct path's, which is less than half of what a channel costs. From M = 16 on, at N = 16, each
    is within 2 % of `videomamba`.

    Arguments are `named_config`'s, and so are the errors; a field that is given is kept. Source: ours.
    """
    config = named_config(name, variant, **fields)
    if config.mixer == "attention" or "inner_width" in fields:
        return config
    reference = named_config(name, "videomamba", **fields)
    one, two = (_mixer_parameters(dataclasses.replace(config, inner_width=width)) for width in (1, 2))
    nearest = 1 + round((_mixer_parameters(reference) - one) / (two - one))
    return config if nearest == config.d_inner else dataclasses.replace(config, inner_width=nearest)


def attention_control(config: ModelConfig) -> ModelConfig:
    """The self-attention model of a configuration's size: same depth, width, tokens and directions.

    Heads and width of its mixer are those that `named_config` gives, so that its parameters match.
    """
    directions = config.directions
    plain = ModelConfig.from_dict({**config.to_dict(), "inner_width": None, **VARIANTS["videomamba"]})
    heads = max(2, config.d_model // 64)
    return ModelConfig.from_dict(
        {
            **plain.to_dict(),
            **VARIANTS["attention"],
            "variant": "attention",
            "directions": directions,
            "num_heads": heads,
            "attention_width": _matched_width(dataclasses.replace(plain, num_heads=heads)),
        }
    )


def variant_switches(variant: str) -> Mapping[str, Any]:
    """The switches of a variant.

    Raises:
        ValueError: for an unknown one.
    """
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[variant]


def _matched_width(config: ModelConfig) -> int:
    """The width at which self-attention's four projections hold as many numbers as the Mamba mixer."""
    return round(_mixer_parameters(config) / (4 * config.d_model * config.num_heads)) * config.num_heads


def _mixer_parameters(config: ModelConfig) -> int:
    """How many numbers a Mamba mixer learns, its layer scale apart."""
    width, inner, rank, states = config.d_model, config.d_inner, config.delta_rank, config.d_state
    # Convolution, x_proj, dt_proj with bias.
    projections = inner * (config.d_conv + config.conv_bias + rank + 2 * states + rank + 1)
    both = config.directions == "both"
    total = 3 * inner * width + config.projection_bias * (2 * inner + width)
    total += projections * (2 if config.separate_backward else 1)
    total += inner * states * (2 if both else 1)
    return total + inner * (2 if config.separate_backward and config.backward_skip else 1)


def _check_values(data: Mapping[str, Any]) -> None:
    """Check each value alone, its type and choices. Values come from files and flags."""
    for field in dataclasses.fields(ModelConfig):
        if field.name in data:
            _check_type(field.name, str(field.type), data[field.name])
    for name, choices in {**_CHOICES, "variant": tuple(VARIANTS)}.items():
        if name in data:
            value = data[name]
            _require(value in choices, f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def _check_type(field: str, declared: str, value: object) -> None:
    if declared == "bool":
        _require(isinstance(value, bool), f"{field} is {value!r}; it must be true or false")
    elif declared.startswith("int"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(
            whole or (value is None and "None" in declared), f"{field} is {value!r}; a whole number is needed"
        )
    elif declared == "float":
        real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        _require(real, f"{field} is {value!r}; it must be a finite number")
    else:
        _require(isinstance(value, str), f"{field} is {value!r}; it must be text")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
