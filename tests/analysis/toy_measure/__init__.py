"""A measure of a user's own, as small as one can be: one number and one curve."""

from dataclasses import dataclass
from typing import ClassVar

from analysis import Measure, Quantity
from analysis.matrix.scopes import normalise


@dataclass(frozen=True)
class Toy(Measure):
    """What a token keeps to itself."""

    power: float = 1.0

    name = "toy"
    title = "What a token keeps to itself"
    quantities: ClassVar = {
        "kept_share": Quantity("fraction", "share of the diagonal"),
        "kept_by_token": Quantity("fraction", "share of the diagonal by token", dims=("token",)),
    }

    def per_clip(self, view, rng):
        P, valid = normalise(view.matrix.weigh(*view.whole)[0][0])
        kept = P.diagonal() ** self.power
        return {"kept_share": kept[valid].mean(), "kept_by_token": kept}
