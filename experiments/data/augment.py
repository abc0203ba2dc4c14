"""Random views of a clip for training, the same in every frame, and mixtures of clips within a batch.

All of it is drawn from a seed that the caller gives: the global generators are neither read nor moved.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from kornia.augmentation.auto import RandAugment
from kornia.augmentation.container.params import ParamItem
from kornia.augmentation.random_generator import ResizedCropGenerator
from torch import Tensor

from analysis.inputs import MEAN, STD

Seed = int | Sequence[int]
"""What numpy's SeedSequence takes: one non-negative integer or several, such as (seed, epoch, index)."""


@final
@dataclasses.dataclass(frozen=True)
class ClipAugment:
    """A random resized crop, a horizontal flip and RandAugment, each drawn once a clip and put on all its frames.

    The crop is kornia's (and torchvision's): an area and a ratio of width to height are drawn, ten times at most,
    until the box fits. It is resized by an antialiased bicubic filter, as `read_clip` resizes test clips. RandAugment
    is Cubuk et al., arXiv 1909.13719, with kornia's 15 operations: `operations` of them, all different, at strength
    `magnitude` of 30. Contrast stretching and equalisation read each frame's own histogram.

    Args:
        image_size: S = H = W of what comes out, pixels.
        scale: the least and largest share of the frame's area that a crop takes.
        ratio: the least and largest width over height of a crop.
        flip: the probability of a horizontal flip; 0 if left and right are told apart, as in Something-Something.
        operations: the number of RandAugment's operations; 0 for none.
        magnitude: the strength of RandAugment's operations, above 0 and below 30.

    Raises:
        ValueError: if a number is out of range.
    """

    image_size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    operations: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size = {self.image_size}: it must be at least 1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"scale = {self.scale}: it must be two shares of the frame, 0 < least <= largest <= 1"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(
                f"ratio = {self.ratio}: it must be two widths over heights, 0 < least <= largest"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip = {self.flip}: it must be a probability")
        if not 0 <= self.operations <= 15:
            raise ValueError(f"operations = {self.operations}: there are 15 to draw from")
        if not 0 < self.magnitude < 30:
            raise ValueError(f"magnitude = {self.magnitude}: it must be above 0 and below 30")

    def __call__(self, frames: UInt8[np.ndarray, "T H W 3"], seed: Seed) -> Float[Tensor, "3 T S S"]:
        """The augmented clip, normalised by `experiments.data.normalise`; it is a function of `frames` and `seed`."""
        with torch.random.fork_rng(devices=[]):
            state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(state[0]))  # kornia draws from the global generator
            pixels = self._crop(torch.from_numpy(frames))
            if float(torch.rand(())) < self.flip:
                pixels = pixels.flip(-1)
            video = pixels.float() / 255
            if self.operations:
                video = _rand_augment(self.operations, self.magnitude, video)
        shift, scale = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return ((video - shift) / scale).transpose(0, 1).contiguous()

    def _crop(self, frames: UInt8[Tensor, "T H W 3"]) -> UInt8[Tensor, "T 3 S S"]:
        size = (self.image_size, self.image_size)
        boxes = ResizedCropGenerator(size, self.scale, self.ratio)(torch.Size([1, 3, *frames.shape[1:3]]))
        (left, top), _, (right, bottom), _ = boxes["src"][0].int().tolist()  # corners, all of them inside
        window = frames[:, top : bottom + 1, left : right + 1].permute(0, 3, 1, 2)
        return F.interpolate(window, size, mode="bicubic", antialias=True)


@functools.cache
def _policy(operations: int, magnitude: int) -> RandAugment:
    return RandAugment(operations, magnitude, transformation_matrix_mode="skip")


def _rand_augment(
    operations: int, magnitude: int, video: Float[Tensor, "T 3 S S"]
) -> Float[Tensor, "T 3 S S"]:
    policy = _policy(operations, magnitude)
    drawn = policy.forward_parameters(torch.Size([1, *video.shape[1:]]))
    return policy(video, params=[_for_all_frames(item, len(video)) for item in drawn]).clamp(0, 1)


def _for_all_frames(item: ParamItem, frames: int) -> ParamItem:
    """Parameters that kornia drew for one image, repeated for each frame. Its VideoSequential refuses policies."""
    if isinstance(item.data, list):
        return ParamItem(item.name, [_for_all_frames(inner, frames) for inner in item.data])
    return ParamItem(
        item.name,
        {
            name: value if name == "forward_input_shape" else value.expand(frames, *value.shape[1:]).clone()
            for name, value in (item.data or {}).items()
        },
    )


def mix(
    videos: Float[Tensor, "B 3 T H W"],
    labels: Int[Tensor, " B"],
    num_classes: int,
    seed: Seed,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    switch: float = 0.5,
) -> tuple[Float[Tensor, "B 3 T H W"], Float[Tensor, "B K"]]:
    """A batch in which each clip is mixed with another one, and the classes' shares in each mixture.

    The share lambda is drawn from Beta(alpha, alpha), once a batch. Mixup (Zhang et al., arXiv 1710.09412) adds
    lambda of a clip to 1 - lambda of its partner. Cutmix (Yun et al., arXiv 1905.04899) puts a box of the partner
    into all frames of a clip; its sides are sqrt(1 - lambda) of the frame's and its centre is anywhere, so that part
    of it may lie outside, and lambda becomes the share of the clip's pixels that are left.

    Args:
        videos: the batch.
        labels: their classes, 0, 1, ...
        num_classes: K.
        seed: all that the mixture depends on besides.
        mixup_alpha: of mixup; 0 for no mixup.
        cutmix_alpha: of cutmix; 0 for no cutmix.
        switch: the probability of cutmix, where there are both.

    Returns:
        videos: (B, 3, T, H, W), the mixtures; the partner of clip b is clip (b + shift) mod B.
        targets: (B, K), float32, rows sum to 1. With neither mixup nor cutmix, one-hot labels.

    Raises:
        ValueError: if an alpha is negative, or `switch` is no probability.
    """
    if min(mixup_alpha, cutmix_alpha) < 0:
        raise ValueError(
            f"mixup_alpha = {mixup_alpha}, cutmix_alpha = {cutmix_alpha}: neither may be negative"
        )
    if not 0 <= switch <= 1:
        raise ValueError(f"switch = {switch}: it must be a probability")
    targets = F.one_hot(labels.long(), num_classes).float()
    if len(videos) < 2 or not (mixup_alpha or cutmix_alpha):
        return videos, targets
    rng = np.random.default_rng(seed)
    shift = int(rng.integers(1, len(videos)))
    partners = videos.roll(-shift, 0)
    cut = bool(cutmix_alpha) and (not mixup_alpha or rng.random() < switch)
    alpha = cutmix_alpha if cut else mixup_alpha
    share = float(rng.beta(alpha, alpha))
    if cut:
        (top, bottom), (left, right) = (
            _interval(rng, side, (1 - share) ** 0.5) for side in videos.shape[-2:]
        )
        mixed = videos.clone()
        mixed[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (videos.shape[-2] * videos.shape[-1])
    else:
        mixed = share * videos + (1 - share) * partners
    return mixed, share * targets + (1 - share) * targets.roll(-shift, 0)


def _interval(rng: np.random.Generator, side: int, share: float) -> tuple[int, int]:
    """A part of 0 .. side, `share` of it long, with its centre anywhere, and what lies outside left off."""
    length, centre = round(share * side), int(rng.integers(side))
    return max(0, centre - length // 2), min(side, centre - length // 2 + length)
