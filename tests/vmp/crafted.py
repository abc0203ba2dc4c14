"""State dicts with the names and shapes of the published files, at small widths, filled with seeded noise."""

import torch


def noise(shapes, dtype=torch.float32):
    """A tensor of noise for each name."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for name, shape in shapes.items()
    }


def mixer(M=8, D=16, N=4, R=1, W=4, directions="v2"):
    """Shapes of one mixer: forward only (None), one set of projections for both directions (v1), or two (v2)."""

    def projections(end):
        return {
            f"conv1d{end}.weight": (D, 1, W),
            f"conv1d{end}.bias": (D,),
            f"x_proj{end}.weight": (R + 2 * N, D),
            f"dt_proj{end}.weight": (D, R),
            f"dt_proj{end}.bias": (D,),
        }

    shapes = {"in_proj.weight": (2 * D, M), **projections(""), "A_log": (D, N), "D": (D,)}
    if directions is not None:
        shapes["A_b_log"] = (D, N)
    if directions == "v2":
        shapes |= {**projections("_b"), "D_b": (D,)}
    return shapes | {"out_proj.weight": (M, D)}


def layers(depth=2, M=8, **sizes):
    """Shapes of the blocks."""
    shapes = {}
    for i in range(depth):
        shapes[f"layers.{i}.norm.weight"] = (M,)
        shapes |= {f"layers.{i}.mixer.{name}": shape for name, shape in mixer(M, **sizes).items()}
    return shapes


def image(M=8, side=4, patch=4, classes=5, **sizes):
    """A VideoMamba image model; Vim with one class token has the same names."""
    return {
        "cls_token": (1, 1, M),
        "pos_embed": (1, side * side + 1, M),
        "patch_embed.proj.weight": (M, 3, patch, patch),
        "patch_embed.proj.bias": (M,),
        **layers(M=M, **sizes),
        "norm_f.weight": (M,),
        "head.weight": (classes, M),
        "head.bias": (classes,),
    }


def video(M=8, side=4, patch=4, tubelet=1, frames=6, classes=5, **sizes):
    """A VideoMamba video model; `frames` are temporal positions. Version 1 and 2 of VideoMambaPro by `directions`."""
    return image(M, side, patch, classes, **sizes) | {
        "patch_embed.proj.weight": (M, 3, tubelet, patch, patch),
        "temporal_pos_embedding": (1, frames, M),
    }


def pretraining(**sizes):
    """VideoMamba's masked pretraining: the final norm is `norm`, decoders towards CLIP, no head."""
    shapes = video(**sizes)
    for name in ("head.weight", "head.bias"):
        del shapes[name]
    shapes["norm.weight"] = shapes.pop("norm_f.weight")
    decoder = {"head.weight": (6, 8), "head.bias": (6,), "norm.weight": (6,), "norm.bias": (6,)}
    return shapes | {f"clip_decoder.0.{name}": shape for name, shape in decoder.items()}


def vim_two_tokens(**sizes):
    """Vim with a class token at each end."""
    shapes = image(**sizes)
    del shapes["cls_token"]
    return shapes | {
        "cls_token_head": (1, 1, 8),
        "cls_token_tail": (1, 1, 8),
        "pos_embed": (1, 18, 8),
    }


def language(embedding="embedding", vocabulary=11, M=8, **sizes):
    """mamba_ssm's language model, or with `embeddings` Hugging Face's; the head is put in by `tied`."""
    return {
        f"backbone.{embedding}.weight": (vocabulary, M),
        **{f"backbone.{name}": shape for name, shape in layers(M=M, directions=None, **sizes).items()},
        "backbone.norm_f.weight": (M,),
    }
