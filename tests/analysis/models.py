"""Small models in float64 whose every parameter matters: no weight is left at a round initial value."""

import torch
from torch import nn

from vmp.config import ModelConfig
from vmp.mixer import MambaMixer
from vmp.model import LanguageModel, VideoModel

# Fields of `create_model("vmp_micro", ...)` for what runs as a command, where a pass has to take no time.
TINY = {
    "d_model": 16,
    "depth": 2,
    "d_state": 4,
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "tubelet_size": 1,
}

VARIANTS = ("mamba", "videomamba", "mask", "residual_initial", "residual_elemental", "paper", "released")


def video_model(variant="paper", weights=0, **fields):
    config = ModelConfig.from_variant(
        variant,
        **{
            "name": "test",
            "d_model": 12,
            "depth": 3,
            "d_state": 4,
            "image_size": 8,
            "patch_size": 4,
            "num_frames": 3,
            "num_classes": 5,
            **fields,
        },
    )
    return seeded(lambda: VideoModel(config), weights)


def language_model():
    config = ModelConfig.from_variant(
        "mamba",
        name="test",
        kind="language",
        class_token="none",
        d_model=12,
        depth=2,
        d_state=4,
        vocab_size=11,
    )
    return seeded(lambda: LanguageModel(config))


def clip(batch=2, frames=3, size=8, seed=0):
    return torch.randn(batch, 3, frames, size, size, dtype=torch.float64, generator=_generator(seed))


def seeded(make, weights=0):
    """`stirred` of a model whose initial weights are those of a seed, whatever ran before."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(weights)
        return stirred(make())


def stirred(model):
    """The model in float64 and evaluation mode, noise added to every parameter."""
    g = _generator(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=g)
    return model.double().eval()


def _generator(seed):
    return torch.Generator().manual_seed(seed)


class Own(nn.Module):
    """A model of a user's own: token ids in, this project's mixers somewhere inside."""

    def __init__(self, depth, variant="paper"):
        super().__init__()
        config = ModelConfig.from_variant(variant, name="own", d_model=4, depth=depth, d_state=2)
        self.embedding = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList(MambaMixer(config) for _ in range(depth))

    def forward(self, ids):
        tokens = self.embedding(ids)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return tokens.mean(1)


def own(depth=2, variant="paper"):
    return seeded(lambda: Own(depth, variant))


def ids(batch, length, seed=0):
    return torch.randint(5, (batch, length), generator=_generator(seed))
