"""Training in tests runs on the CPU, where results are the same to the last bit, and on one thread of it."""

import gc

import pytest
import torch
from threadpoolctl import threadpool_limits

from tests.experiments.grids import tiny_grid  # noqa: F401
from tests.experiments.reports import report  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def _on_one_thread_of_the_cpu():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # Threads of numpy that wait for each other compute, too.
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def _freeze_earlier_objects():
    # statsmodels collects garbage at every call: what earlier modules left is looked through once.
    gc.collect()
    gc.freeze()
