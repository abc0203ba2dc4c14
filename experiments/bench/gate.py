"""The correctness gate: nothing is timed whose numbers are wrong.

The output and every gradient of a scan are compared with `vmp.scan.spec` in float64, run on the very numbers that the
scan was given; a plain scan is compared with the plain specification.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor

import vmp
from experiments.bench.inputs import NAMES, ScanInputs
from experiments.bench.peers import OPTIONS, Contender
from experiments.bench.results import Check

ALLOWED = {torch.float32: 64.0, torch.float64: 64.0, torch.bfloat16: 1.0, torch.float16: 1.0}
"""Units of eps of the result's dtype, of the largest entry: rounding in a recursion over some thousand steps and sums
as long; half an eps for what is stored in half precision, and as much for the sums before."""


@final
class Gate:
    """Checks contenders, each once.

    Args:
        group: the group that the checks belong to.
        inputs: makes the inputs that a contender is checked on: shorter ones for loops over tokens, whose backward pass
            takes minutes.
    """

    def __init__(self, group: str, inputs: Callable[[Contender], ScanInputs]) -> None:
        self.group, self.inputs = group, inputs
        self.checks = functools.cache(self._checks)
        self._definition = functools.cache(definition)

    def _checks(self, contender: Contender) -> tuple[Check, ...]:
        """Return a check of the output and of each gradient; there are none where the contender is absent."""
        if contender.absent:
            return ()
        inputs = self.inputs(contender)
        pairs = zip(contender.results(inputs), self._definition(inputs, contender.plain), strict=True)
        return tuple(
            check_of(self.group, contender.name, name, inputs.says, got, wanted, contender.slack)
            for name, (got, wanted) in zip(("out", *NAMES), pairs, strict=True)
        )

    def problem(self, contender: Contender) -> str:
        """Return why a contender is not timed, or ""."""
        return contender.absent or failure(self.checks(contender))


def definition(inputs: ScanInputs, plain: bool) -> tuple[Tensor, ...]:
    """Return the specification's output and gradients of `NAMES` in float64."""
    scan = functools.partial(vmp.selective_scan, backend="spec", **({} if plain else OPTIONS))
    return Contender("spec", scan, "").results(inputs.double())


def check_of(
    group: str, subject: str, name: str, inputs: str, got: Tensor, wanted: Tensor, slack: float = 1.0
) -> Check:
    """Compare a tensor with what it is in float64, with `slack` times what its dtype is allowed."""
    return Check(group, subject, name, inputs, deviation(got, wanted), slack * ALLOWED[got.dtype])


def deviation(got: Tensor, expected: Tensor) -> float:
    """Return max |got - expected| / max |expected|, in units of eps of the dtype of `got`."""
    gap = (got.double() - expected.double()).abs().max() / expected.abs().max()
    return gap.item() / torch.finfo(got.dtype).eps


def failure(checks: Iterable[Check]) -> str:
    """Return the worst of the checks that failed, in words, or ""."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return ""
    worst = max(failed, key=lambda check: math.inf if math.isnan(check.deviation) else check.deviation)
    named = {"out": "output", **{name: f"gradient of {name}" for name in NAMES}}
    what = named.get(worst.tensor, worst.tensor)
    return f"FAILED: {what} is {worst.deviation:.3g} eps from the float64 specification, {worst.allowed:g} allowed"
