"""Test-wide set-up: runtime shape checks, hypothesis profiles, one thread a worker."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

if not torch.cuda.is_available():
    # Triton reads this where it is first imported: its kernels run in its interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

# The hook wraps every annotated function of a listed module in a beartype check of its jaxtyping shapes. Modules that
# hold numba-compiled functions are not listed: numba cannot compile a wrapped function.
CHECKED = [
    "vmp.scan.spec",
    "vmp.scan.chunked",
    "vmp.scan.plain",
    "vmp.config",
    "vmp.layout",
    "vmp.mixer",
    "vmp.attention",
    "vmp.model",
    "vmp.checkpoint",
    "analysis.capture",
    "analysis.matrix.base",
    "analysis.matrix.implicit",
    "analysis.matrix.reduce",
    "analysis.matrix.scopes",
    "analysis.matrix.softmax",
    "analysis.pretrained",
    "analysis.theory",
    "analysis.intervals",
    "analysis.measure",
    "analysis.engine",
    "analysis.decay",
    "analysis.relevance",
    "analysis.contradiction",
    "experiments.data",
]
install_import_hook(CHECKED, "beartype.beartype")

settings.register_profile(
    "fast", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile(
    "deep", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# On a GPU each example compiles kernels of its own, for seconds.
settings.register_profile(
    "gpu", max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
settings.load_profile("fast")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; OpenMP teams that outnumber them wait for each other at every small operation.
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deviations", type=Path, help="append every deviation from the definition to this file"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Imported here, as the hook above has to be in place first.
    from tests import tolerances

    if path := config.getoption("--deviations"):
        tolerances.RECORD_TO.append(path)


WORK_SECONDS = 300
"""What one test may compute. It is counted in seconds of the processor, so that cores that are busy with other work do
not fail a test; `timeout` in pyproject.toml is by the clock, and ends only what hangs."""


def _too_much(signum: int, frame: FrameType | None) -> None:
    pytest.fail(f"computed for more than {WORK_SECONDS} seconds of the processor")


def pytest_collection_finish() -> None:
    # statsmodels collects garbage at every call: what the tests import is none, and need not be looked through.
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    before = signal.signal(signal.SIGPROF, _too_much)
    signal.setitimer(signal.ITIMER_PROF, WORK_SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
