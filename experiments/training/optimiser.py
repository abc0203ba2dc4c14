"""Which parameters the optimiser treats how."""

import re
from typing import Any

import vmp

_BLOCK = re.compile(r"layers\.(\d+)\.")
_EMBEDDINGS = ("patch_embed.", "pos_embed", "temporal_pos_embedding", "cls_token")


def parameter_groups(
    model: vmp.VideoModel, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for AdamW with `params`, `weight_decay`, and `scale`, the factor of the learning rate.

    Parameters that `no_weight_decay` names are exempt from weight decay. The scale of the head and the last norm is 1;
    of block l of depth blocks, l = 0, 1, ..., layer_decay^(depth - l); of the embeddings of patches, positions and
    class tokens, layer_decay^(depth + 1). Source: BEiT (Bao et al., arXiv 2106.08254), as VideoMamba's code has it,
    but for the temporal positions, which there count with the head, and here with the spatial ones.
    """
    exempt, depth = model.no_weight_decay(), model.config.depth
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        scale, spared = layer_decay ** (depth + 1 - _level(name, depth)), name in exempt
        fresh = {"params": [], "weight_decay": 0.0 if spared else weight_decay, "scale": scale}
        groups.setdefault((scale, spared), fresh)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _level(name: str, depth: int) -> int:
    """0 for embeddings, l + 1 for block l, depth + 1 for what comes after the blocks."""
    if name.startswith(_EMBEDDINGS):
        return 0
    block = _BLOCK.match(name)
    return depth + 1 if block is None else int(block[1]) + 1
