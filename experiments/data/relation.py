"""Relation: do the two marked frames show the same digit? What lies between them is neutral, or like them."""

import dataclasses
from typing import final

import numpy as np
from jaxtyping import Int, UInt8

from experiments.data.clip import MadeClips
from experiments.data.photo_pan import SPLIT_PHOTOGRAPHS
from experiments.data.pieces import (
    BLUE,
    ORANGE,
    check_classes,
    digit_pools,
    grey_photograph,
    mark,
    paste_digit,
)

MEDIATORS = ("neutral", "similar to one", "similar to both", "interleaved")
DIGITS = 2  # telling classes apart is not the difficulty here, and more of them put the relation out of reach
LEAST_GAP = 2  # frames between the pair: two classes need two
LEAST_FRAMES = LEAST_GAP + 3  # the pair, and a frame outside it for the second pair
_PHOTOGRAPH = -1


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The class in each frame (_PHOTOGRAPH for none), and the frames of the pair and of the second pair, if any."""

    classes: Int[np.ndarray, " T"]
    pair: tuple[int, int]
    second: tuple[int, int] | None


@final
class Relation(MadeClips):
    """Two frames with an orange edge hold a digit each, of the same class or not: the label. Ours.

    Between them, and nowhere else, lie at least two frames of one kind of mediator:

    | mediator | frames between the pair |
    |---|---|
    | neutral | grey pieces of photographs, as all frames outside the pair |
    | similar to one | digits without a mark, all of one class: that of either digit of a pair that differs |
    | similar to both | digits without a mark, of two classes, as evenly as may be: those of a pair that differs |
    | interleaved | photographs and one frame of a second pair, blue, the other frame of which is outside: A B A B |

    Whether the second pair shows the same class is independent of all else.

    Nothing but the relation of the pair tells the label: each label comes equally often with every mediator and gap,
    and the class in any frame, marked or not, is uniform. Nor does either digit beside the mediators tell it. For that,
    mediators are drawn from two classes, the first digit's and another, before it is settled which of the two the
    second digit has. So of a pair that is the same, digits "similar to one" are like both or like neither, in equal
    parts, and digits "similar to both" are half of the pair's class. Were they all like the pair, a clip could be told
    from the mediators and one digit, or from the mediators alone.

    No sample is shown twice in a clip. Splits are disjoint, fixed sets of handwritten samples and photographs.

    Args:
        split, num_frames, image_size, seed, size: as `MadeClips` takes them; num_frames is at least 5.
        digits: K, the number of classes of digits, 2 to 10: 0, ..., K - 1.
    """

    classes = ("same", "different")

    def __init__(
        self,
        split: str,
        num_frames: int = 8,
        image_size: int = 64,
        seed: int = 0,
        size: int = 6000,
        digits: int = DIGITS,
    ) -> None:
        check_classes(digits, least=2)
        super().__init__(split, num_frames, image_size, seed, size)
        if num_frames < LEAST_FRAMES:
            raise ValueError(
                f"num_frames = {num_frames}: relation needs at least {LEAST_FRAMES}, for a pair, {LEAST_GAP} frames "
                "between and one outside"
            )
        self._pools = digit_pools(split, digits)
        self._photographs = SPLIT_PHOTOGRAPHS[split]

    def name(self, index: int) -> str:
        mediator = self.mediator(index).replace(" ", "-")
        return f"relation-{self.classes[self.label(index)]}-{mediator}-{self.gap(index)}-{index}"

    def mediator(self, index: int) -> str:
        """What lies between the pair. Consecutive clips go through all triples of label, mediator and gap."""
        return MEDIATORS[index // 2 % len(MEDIATORS)]

    def gap(self, index: int) -> int:
        """Frames between the pair: LEAST_GAP to T - 3."""
        return LEAST_GAP + index // (2 * len(MEDIATORS)) % (self.num_frames - LEAST_FRAMES + 1)

    def conditions(self, index: int) -> dict[str, int | str]:
        return {"mediator": self.mediator(index), "gap": self.gap(index)}

    def frames(self, index: int) -> UInt8[np.ndarray, "T H W 3"]:
        rng = self.generator(index)
        plan = self._plan(index, rng)
        unused = {class_: iter(rng.permutation(self._pools[class_]).tolist()) for class_ in set(plan.classes)}
        draws = rng.random((self.num_frames, 3))
        video = np.zeros((self.num_frames, self.image_size, self.image_size, 3), np.uint8)
        for frame, (which, *place), class_ in zip(video, draws.tolist(), plan.classes.tolist(), strict=True):
            if class_ == _PHOTOGRAPH:
                frame[:] = self._piece(which, *place)[..., None]
            else:
                paste_digit(frame, next(unused[class_]), (place[0], place[1]))
        for pair, colour in ((plan.pair, ORANGE), (plan.second or (), BLUE)):
            for place in pair:
                mark(video[place], colour)
        return video

    def _plan(self, index: int, rng: np.random.Generator) -> _Plan:
        gap, mediator, count = self.gap(index), self.mediator(index), len(self._pools)
        start = int(rng.integers(self.num_frames - gap - 1))
        pair = (start, start + gap + 1)
        inside = slice(pair[0] + 1, pair[1])
        both = rng.permutation(count)[:2]
        classes = np.full(self.num_frames, _PHOTOGRAPH)
        if mediator == "similar to one":
            classes[inside] = rng.choice(both)
        elif mediator == "similar to both":
            classes[inside] = rng.permutation(both[(np.arange(gap) + rng.integers(2)) % 2])
        classes[list(pair)] = both[0], both[self.label(index)]
        if mediator != "interleaved":
            return _Plan(classes, pair, None)
        outside = [frame for frame in range(self.num_frames) if not pair[0] <= frame <= pair[1]]
        second = (int(rng.integers(pair[0] + 1, pair[1])), int(rng.choice(outside)))
        classes[list(second)] = rng.permutation(count)[[0, int(rng.integers(2))]]
        return _Plan(classes, pair, second)

    def _piece(self, which: float, down: float, across: float) -> UInt8[np.ndarray, "H W"]:
        """A piece of a photograph, a third of its shorter side high; arguments are from 0 to 1."""
        size, names = self.image_size, self._photographs
        photograph = grey_photograph(names[int(which * len(names))], 3 * size)
        height, width = photograph.shape
        top, left = int(down * (height - size + 1)), int(across * (width - size + 1))
        return photograph[top : top + size, left : left + size]
