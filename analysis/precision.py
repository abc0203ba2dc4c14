"""The arithmetic that a probe's numbers come from: float32 on a GPU as on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Products and convolutions of float32 keep float32's 24 bits inside the block, or a function decorated with it.

    A GPU may else round their factors to the 11 bits of TF32, as torch lets cuDNN's convolutions do by default.
    The settings are put back as they were.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
