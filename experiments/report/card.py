"""What a checkpoint's model card says of its accuracy."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """Accuracy of a checkpoint on held-out clips, from the JSON that `make micro` writes beside it.

    Attributes:
        accuracy: fraction of clips told right; low, high: its 95 % interval over clips.
        chance: the accuracy of guessing.
        clips, seed: how many clips, and their seed.
        parameters: of the model.
    """

    accuracy: float
    low: float
    high: float
    chance: float
    clips: int
    seed: int
    parameters: int


def read_card(checkpoint: Path, weights_sha256: str) -> Card | None:
    """The card beside a checkpoint, or None where there is none or where it is of other weights."""
    path = checkpoint.with_suffix(".json")
    if not path.is_file():
        return None
    fields = json.loads(path.read_text(encoding="utf-8"))
    if fields["weights_sha256"] != weights_sha256:
        return None
    low, high = fields["interval"]
    return Card(
        accuracy=fields["accuracy"],
        low=low,
        high=high,
        chance=fields["chance"],
        clips=fields["clips"],
        seed=fields["test_seed"],
        parameters=fields["parameters"],
    )
