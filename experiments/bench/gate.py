"""The correctness gate: nothing is timed whose numbers are wrong.

The output and every gradient of a scan are compared with `vmp.scan.spec` in float64, run on the very numbers that the
scan was given; a plain scan is compared with the plain specification.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

import vmp
from experiments.bench.inputs import NAMES, ScanInputs
from experiments.bench.peers import OPTIONS, Contender
from experiments.bench.results import Check

ALLOWED = {torch.float32: 64.0, torch.float64: 64.0, torch.bfloat16: 1.0, torch.float16: 1.0}
"""Units of eps of the result's dtype, of the largest entry: rounding in a recursion over some thousand steps and sums
as long; half an eps for what is stored in half precision, and as much for the sums before."""

Tensors = tuple[Tensor, tuple[Tensor, ...]]
"""An output, and the gradients of `NAMES`."""


@final
class Gate:
    """Checks contenders, each once.

    Args:
        group: the group that the checks belong to.
        inputs: makes the inputs that a contender is checked on: shorter ones for loops over tokens, whose backward pass
            takes minutes.
    """

    def __init__(self, group: str, inputs: Callable[[Contender], ScanInputs]) -> None:
        self.group = group
        self._inputs = inputs
        self._expected: dict[tuple[str, bool], Tensors] = {}
        self._checks: dict[str, tuple[Check, ...]] = {}

    def checks(self, contender: Contender) -> tuple[Check, ...]:
        """Return a check of the output and of each gradient; there are none where the contender is absent."""
        if contender.absent:
            return ()
        if contender.name not in self._checks:
            inputs = self._inputs(contender)
            key = (inputs.says, contender.plain)
            if key not in self._expected:
                self._expected[key] = definition(inputs, contender.plain)
            self._checks[contender.name] = compare(self.group, contender, inputs, self._expected[key])
        return self._checks[contender.name]

    def problem(self, contender: Contender) -> str:
        """Return why a contender is not timed, or ""."""
        return contender.absent or failure(self.checks(contender))


def definition(inputs: ScanInputs, plain: bool) -> Tensors:
    """Return the specification's output and gradients in float64."""
    options: dict[str, Any] = {} if plain else OPTIONS
    exact = inputs.double()
    leaves = [x.detach().requires_grad_() for x in exact.tensors()]
    out = partial(vmp.selective_scan, backend="spec", **options)(*leaves)
    return out.detach(), torch.autograd.grad(out, leaves, exact.dy)


def compare(
    group: str, contender: Contender, inputs: ScanInputs, expected: Tensors, as_name: str = ""
) -> tuple[Check, ...]:
    """Check each tensor of a contender, which is called `as_name` where that is given, against what was expected."""
    out, gradients = contender.results(inputs)
    pairs = zip(("out", *NAMES), (out, *gradients), (expected[0], *expected[1]), strict=True)
    name = as_name or contender.name
    return tuple(
        Check(group, name, tensor, inputs.says, deviation(got, wanted), contender.slack * ALLOWED[got.dtype])
        for tensor, got, wanted in pairs
    )


def deviation(got: Tensor, expected: Tensor) -> float:
    """Return max |got - expected| / max |expected|, in units of eps of the dtype of `got`."""
    gap = (got.double() - expected.double()).abs().max() / expected.abs().max()
    return gap.item() / torch.finfo(got.dtype).eps


def failure(checks: tuple[Check, ...]) -> str:
    """Return the worst of the checks that failed, in words, or ""."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return ""
    worst = max(failed, key=lambda check: math.inf if math.isnan(check.deviation) else check.deviation)
    named = {"out": "output", **{name: f"gradient of {name}" for name in NAMES}}
    what = named.get(worst.tensor, worst.tensor)
    return f"FAILED: {what} is {worst.deviation:.3g} eps from the float64 specification, {worst.allowed:g} allowed"
