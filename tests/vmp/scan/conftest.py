"""Triton's interpreter takes milliseconds a step: there the states that its backward pass keeps are 8 steps apart,
so that short sequences have several of them.
"""

from collections.abc import Iterator

import pytest

from vmp.scan import triton_gpu


@pytest.fixture(scope="module", autouse=True)
def _states_kept_often_in_the_interpreter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if triton_gpu.INTERPRETED:
            patch.setattr(triton_gpu, "K", 8)
        yield
