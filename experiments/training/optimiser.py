"""The optimiser, and which parameters it treats how."""

from typing import Any

import vmp


def parameter_groups(model: vmp.VideoModel, weight_decay: float) -> list[dict[str, Any]]:
    exempt = model.no_weight_decay()
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if name not in exempt], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name in exempt], "weight_decay": 0.0},
    ]
