"""Recall: which digit was in the marked frame? All other frames hold digits too."""

import math
from typing import final

import numpy as np
from jaxtyping import UInt8

from experiments.data.clip import MadeClips
from experiments.data.pieces import ORANGE, check_classes, digit_pools, mark, paste_digit

DIGITS = 10


def blind_guess(num_frames: int, digits: int = DIGITS) -> float:
    """The accuracy of a guess at the class that most frames of a clip show, which is what recall has to surpass."""
    return math.ceil(num_frames / math.ceil(digits / 2)) / num_frames


@final
class Recall(MadeClips):
    """T frames with a handwritten digit each; one frame, the cue, has an orange edge, and its digit is the label. Ours.

    The cue's frame is uniform, and independent of the label. A clip shows half of the K classes, drawn at random, as
    evenly as T allows; which frames hold which class is otherwise random, and so are the samples and their places. So
    chance is 1 / K, and a guess at the clip's most frequent class, without regard to the mark, is right in
    ceil(T / m) / T of clips, m = ceil(K / 2) (`blind_guess`): 25 % of 8 frames, 20 % of 10. What is above that is
    recall. Were all classes in every clip, a model would learn nothing of digits before it heeds the mark, and small
    ones do not start.

    Splits are disjoint, fixed sets of handwritten samples (`digits.split_samples`).

    Args:
        split, num_frames, image_size, seed, size: as `MadeClips` takes them.
        digits: K, the number of classes, 3 to 10: digits 0, ..., K - 1.
    """

    def __init__(
        self,
        split: str,
        num_frames: int = 8,
        image_size: int = 64,
        seed: int = 0,
        size: int = 6000,
        digits: int = DIGITS,
    ) -> None:
        check_classes(digits, least=3)
        super().__init__(split, num_frames, image_size, seed, size)
        self._pools = digit_pools(split, digits)
        self.classes = tuple(map(str, range(digits)))

    @property
    def blind(self) -> float:
        return blind_guess(self.num_frames, len(self.classes))

    def name(self, index: int) -> str:
        return f"recall-{self.classes[self.label(index)]}-{index}"

    def cue_frame(self, index: int) -> int:
        """The marked frame, 0-based. Consecutive clips go through all pairs of label and frame."""
        return index // len(self.classes) % self.num_frames

    def conditions(self, index: int) -> dict[str, int | str]:
        return {"cue_frame": self.cue_frame(index)}

    def frames(self, index: int) -> UInt8[np.ndarray, "T H W 3"]:
        rng, cue, count = self.generator(index), self.cue_frame(index), len(self.classes)
        slots = rng.permutation(np.arange(self.num_frames) % math.ceil(count / 2))
        names = rng.permutation(count)
        # Turned until the cue's slot has the label's name: of all namings that give it, each is as likely.
        shown = (names[slots] + self.label(index) - names[slots[cue]]) % count
        draws = rng.random((self.num_frames, 3))
        video = np.zeros((self.num_frames, self.image_size, self.image_size, 3), np.uint8)
        for frame, (which, down, across), class_ in zip(video, draws.tolist(), shown.tolist(), strict=True):
            pool = self._pools[class_]
            paste_digit(frame, int(pool[int(which * len(pool))]), (down, across))
        mark(video[cue], ORANGE)
        return video
