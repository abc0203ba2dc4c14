"""Test-wide set-up: runtime shape checks, hypothesis profiles, one thread a worker."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from inspect import isgeneratorfunction
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any, get_type_hints

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Collecting tests imports a million objects that stay: garbage is looked for in what the tests make, and not in these.
gc.disable()

if not torch.cuda.is_available():
    # Triton reads this where it is first imported: its kernels run in its interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

# The hook wraps every annotated function of a listed module in a beartype check of its jaxtyping shapes. Modules that
# hold numba-compiled functions are not listed: numba cannot compile a wrapped function. Python's cache does not see a
# change of this list: remove the __pycache__ folders after one.
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

original = jaxtyping.jaxtyped


def checked(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """jaxtyping's decorator, without its book-keeping where a function names no shape: the same types are checked."""

    def decorate(of: Any) -> Any:
        try:
            hints = get_type_hints(of, include_extras=True) if isinstance(of, FunctionType) else None
        except NameError:  # Of a module that is imported for types alone, which jaxtyping leaves out.
            hints = None
        # beartype alone would check a generator's arguments when it is first advanced.
        if hints is None or "jaxtyping." in str(hints) or isgeneratorfunction(of):
            return original(of, typechecker=typechecker)
        of.__annotations__ = hints
        return typechecker(of)

    return decorate


jaxtyping.jaxtyped = checked
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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # The second half of `make test` is a handful of tests: it need not import what all the others need.
    alone = config.getoption("markexpr") == "alone" and collection_path.suffix == ".py"
    return True if alone and "mark.alone" not in collection_path.read_text() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A notebook takes up to minutes: begun last, it leaves the other workers idle.
    items.sort(key=lambda item: "test_notebooks.py" not in item.nodeid)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # What is frozen is not freed at the end, of which extension modules complain.


WORK_SECONDS = 300
"""What one test may compute. It is counted in seconds of the processor, so that cores that are busy with other work do
not fail a test; `timeout` in pyproject.toml is by the clock, and ends only what hangs."""


def _too_much(signum: int, frame: FrameType | None) -> None:
    pytest.fail(f"computed for more than {WORK_SECONDS} seconds of the processor")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    before = signal.signal(signal.SIGPROF, _too_much)
    signal.setitimer(signal.ITIMER_PROF, WORK_SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
