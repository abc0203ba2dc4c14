"""Triton's interpreter takes milliseconds a step: it is relieved of what it repeats, and there the states that the
backward pass keeps are 8 steps apart, so that short sequences have several of them.
"""

from collections.abc import Iterator

import pytest
import torch

from tests.interpreter import hasten
from vmp.scan import available_backends

hasten()


@pytest.fixture(scope="module", autouse=True)
def _states_kept_often_in_the_interpreter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if available_backends()["triton_gpu"] is None and not torch.cuda.is_available():
            patch.setattr("vmp.scan.triton_gpu.K", 8)
        yield
