"""Video, image and language models: embedding, a stack of pre-normalised mixers, head."""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vmp.attention import SelfAttentionMixer
from vmp.config import ModelConfig, named_config
from vmp.layout import TokenLayout
from vmp.mixer import MambaMixer

_EMBEDDING_STD = 0.02


class Norm(nn.Module):
    """RMSNorm, x / sqrt(mean(x^2) + eps) * weight, or LayerNorm, over the last axis.

    Computed in the dtype of its input, the residual stream; the result has the dtype of the weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.epsilon = config.norm_epsilon
        self.centred = config.norm == "layer"
        self.weight = nn.Parameter(torch.ones(config.d_model))
        if self.centred:
            self.bias = nn.Parameter(torch.zeros(config.d_model))

    def forward(self, stream: Float[Tensor, "B L M"]) -> Float[Tensor, "B L M"]:
        shape, weight = self.weight.shape, self.weight.to(stream.dtype)
        if self.centred:
            out = F.layer_norm(stream, shape, weight, self.bias.to(stream.dtype), self.epsilon)
        else:
            out = F.rms_norm(stream, shape, weight, self.epsilon)
        return out.to(self.weight.dtype)


class Block(nn.Module):
    """Adds mixer(norm(stream)) to the residual stream, with stochastic depth.

    In training a sample's addition is dropped with probability p, `drop_path`, and else divided by 1 - p
    (Huang et al., arXiv 1603.09382).
    """

    def __init__(self, config: ModelConfig, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm = Norm(config)
        self.mixer = MambaMixer(config) if config.mixer == "mamba" else SelfAttentionMixer(config)

    def forward(self, stream: Float[Tensor, "B L M"]) -> Float[Tensor, "B L M"]:
        added = self.mixer(self.norm(stream))
        if self.training and self.drop_path > 0:
            kept = torch.rand(added.shape[0], 1, 1, device=added.device) >= self.drop_path
            added = added * kept / (1 - self.drop_path)
        return stream + added


class PatchEmbedding(nn.Module):
    """Cuts frames into patches, or a clip into tubelets, and maps each linearly to a token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        patch, tubelet = config.patch_size, config.tubelet_size
        self.proj: nn.Conv2d | nn.Conv3d
        if config.kind == "image":
            self.proj = nn.Conv2d(config.channels, config.d_model, patch, patch)
        else:
            size = (tubelet, patch, patch)
            self.proj = nn.Conv3d(config.channels, config.d_model, size, size)

    def forward(self, video: Float[Tensor, "B channels T H W"]) -> Float[Tensor, "B frames patches M"]:
        """Tokens, frames in time order, each in raster order."""
        if isinstance(self.proj, nn.Conv2d):
            return rearrange(self.proj(video[:, :, 0]), "b m h w -> b 1 (h w) m")
        return rearrange(self.proj(video), "b m t h w -> b t (h w) m")


class VideoModel(nn.Module):
    """A classifier of clips, or of images as clips of one frame.

    Patches of each frame come in raster order, frames in time order, class tokens where the configuration
    places them. The spatial position is added in every frame, the temporal one to every patch of a frame and
    to no class token. Blocks add to a residual stream held in float32 or wider. The features are the mean of
    the class tokens' last states, or of all tokens' where there is no class token; a linear head maps them to
    classes. Parameter names are those of VideoMamba's files.

    Args:
        config: the configuration, of kind "video" or "image".

    `provenance` is a mapping that `vmp.load_checkpoint` fills: path, weights_sha256, recognised. `recompute` may be set
    at any time: blocks then run again in the backward pass rather than keep what it needs, for the same gradients in
    less memory and more time (Chen et al., arXiv 1604.06174).

    Source: Li et al., VideoMamba, arXiv 2403.06977, section 3.2; token order and embeddings as in its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.kind == "language":
            raise ValueError('kind is "language"; VideoModel takes "video" or "image"')
        self.config = config
        self.provenance: dict[str, str] = {}
        self.recompute = False
        layout, width = config.token_layout(), config.d_model
        self.patch_embed = PatchEmbedding(config)
        for name in _class_token_names(config):
            self.register_parameter(name, _small_normal(1, 1, width))
        self.pos_embed = _small_normal(1, len(layout.class_positions) + layout.patches, width)
        if config.kind == "video":
            self.temporal_pos_embedding = nn.Parameter(torch.zeros(1, layout.frames, width))
        self.layers = _blocks(config)
        self.norm_f = Norm(config)
        if config.num_classes:
            self.head = nn.Linear(width, config.num_classes)
            nn.init.trunc_normal_(self.head.weight, std=_EMBEDDING_STD)
            nn.init.zeros_(self.head.bias)

    def token_layout(self, num_frames: int | None = None) -> TokenLayout:
        """Where a clip's tokens lie.

        Raises:
            ValueError: for a number of frames the model does not take.
        """
        if num_frames not in (None, self.config.num_frames):
            raise ValueError(self._wrong_frames(num_frames))
        return self.config.token_layout()

    def forward(self, video: Float[Tensor, "B channels T H W"]) -> Float[Tensor, "B outputs"]:
        """The logits of each class, or the features (B, M) where the model has no head.

        Raises:
            ValueError: for a clip of another shape than the configuration's.
        """
        features = self.features(video)
        return self.head(features) if self.config.num_classes else features

    def features(self, video: Float[Tensor, "B channels T H W"]) -> Float[Tensor, "B M"]:
        """The normalised last state of the class tokens (their mean), or the mean over tokens without one."""
        states = _run(self.layers, self.norm_f, self.embed(video), self.recompute)
        positions = list(self.token_layout().class_positions)
        return (states[:, positions] if positions else states).mean(dim=1)

    def embed(self, video: Float[Tensor, "B channels T H W"]) -> Float[Tensor, "B L M"]:
        """The tokens that enter the first block, positions added."""
        self._check(video)
        layout = self.token_layout()
        patches = self.patch_embed(video)
        # pos_embed has the order of a single frame's own sequence, class tokens among the patches.
        frame = TokenLayout.video(1, layout.grid, self.config.class_token)
        patches = patches + self.pos_embed[:, frame.patch_positions()]
        if self.config.kind == "video":
            patches = patches + self.temporal_pos_embedding[:, :, None]
        tokens = patches.new_empty(video.shape[0], layout.length, patches.shape[-1])
        tokens[:, layout.patch_positions()] = rearrange(patches, "b t p m -> b (t p) m")
        for name, place, position in zip(
            _class_token_names(self.config), frame.class_positions, layout.class_positions, strict=True
        ):
            tokens[:, position] = (self.get_parameter(name)[:, 0] + self.pos_embed[:, place]).to(tokens.dtype)
        return tokens

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay is not for: rates, skips, embeddings, biases, norms."""
        return _no_weight_decay(self)

    def _check(self, video: Tensor) -> None:
        config = self.config
        channels, frames, height, width = video.shape[1:]
        if channels != config.channels or height != config.image_size or width != config.image_size:
            raise ValueError(
                f"the clip has {channels} channels of {height} x {width} pixels; the model takes "
                f"{config.channels} of {config.image_size} x {config.image_size}. Resize the clip, or load "
                f"the model with image_size={height} to resize its positions"
            )
        if frames != config.num_frames:
            raise ValueError(self._wrong_frames(frames))

    def _wrong_frames(self, frames: int | None) -> str:
        return (
            f"the clip has {frames} frames; the model takes {self.config.num_frames}. Sample that many, or "
            f"load the model with num_frames={frames} to resize its temporal positions"
        )


class LanguageModel(nn.Module):
    """A Mamba language model: embedding, blocks, final norm, and a head, by default the embedding again.

    Args:
        config: the configuration, of kind "language".

    `provenance` is as in `VideoModel`. Source: Gu and Dao, arXiv 2312.00752, and the mamba_ssm package.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.kind != "language":
            raise ValueError(f'kind is "{config.kind}"; LanguageModel takes "language"')
        self.config = config
        self.provenance: dict[str, str] = {}
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING_STD)
        self.layers = _blocks(config)
        self.norm_f = Norm(config)
        if not config.tied_head:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def token_layout(self, length: int) -> TokenLayout:
        """A plain sequence of `length` tokens."""
        return TokenLayout.sequence(length)

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        """The logits of the next token at every position."""
        states = _run(self.layers, self.norm_f, self.embedding(ids))
        return F.linear(states, self.embedding.weight if self.config.tied_head else self.lm_head.weight)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay is not for: rates, skips, embeddings, biases, norms."""
        return _no_weight_decay(self)


def build_model(config: ModelConfig) -> VideoModel | LanguageModel:
    """The model of a configuration, with fresh weights from torch's global generator."""
    return LanguageModel(config) if config.kind == "language" else VideoModel(config)


def create_model(name: str, variant: str | None = None, **fields: Any) -> VideoModel:
    """A named video or image model with fresh weights from torch's global generator.

    Args:
        name: videomamba_tiny, _small or _middle, videomambapro_tiny, _small or _middle, or vmp_micro.
        variant: an entry of `vmp.config.VARIANTS`; by default `videomamba` for the first three, else `paper`.
        fields: any field of `vmp.config.ModelConfig`: num_classes, num_frames, image_size, drop_path, ...

    Raises:
        ValueError: the name, the variant or a field is unknown, or a value does not fit.
    """
    return VideoModel(named_config(name, variant, **fields))


def _blocks(config: ModelConfig) -> nn.ModuleList:
    step = config.drop_path / max(config.depth - 1, 1)
    return nn.ModuleList([Block(config, step * i) for i in range(config.depth)])


def _run(
    layers: nn.ModuleList, norm: nn.Module, tokens: Float[Tensor, "B L M"], recompute: bool = False
) -> Float[Tensor, "B L M"]:
    """The final states: every block's addition to the stream, then the last norm."""
    stream = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    for layer in layers:
        if recompute and torch.is_grad_enabled():
            stream = checkpoint(layer, stream, use_reentrant=False)
        else:
            stream = layer(stream)
    return norm(stream)


def _class_token_names(config: ModelConfig) -> tuple[str, ...]:
    names = {"none": (), "both_ends": ("cls_token_head", "cls_token_tail")}
    return names.get(config.class_token, ("cls_token",))


def _small_normal(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=_EMBEDDING_STD))


def _no_weight_decay(model: nn.Module) -> set[str]:
    kept_whole = ("A_log", "A_b_log", "pos_embed", "temporal_pos_embedding", "embedding.weight")
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 1 or "cls_token" in name or name.endswith(kept_whole)
    }
