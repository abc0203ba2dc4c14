"""A model and clips small enough for loops over every entry of its matrices."""

import pytest
import torch

from analysis.inputs import Sample
from vmp import create_model

TINY = {
    "d_model": 8,
    "depth": 2,
    "d_state": 3,
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 3,
    "tubelet_size": 1,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return create_model("vmp_micro", variant="paper", num_classes=0, **TINY).double().eval()


@pytest.fixture(scope="module")
def samples():
    return [
        Sample(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(i)), f"s{i}") for i in (0, 1)
    ]
