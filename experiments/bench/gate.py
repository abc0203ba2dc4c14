"""The correctness gate: what is wrong is not timed.

A subject's output and every gradient are compared with `vmp.scan.spec` in float64, run on the very numbers that the
subject was given; a plain subject with the plain scan.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

import vmp
from experiments.bench.inputs import NAMES, ScanInputs
from experiments.bench.peers import OPTIONS, Subject
from experiments.bench.results import Check

ALLOWED = {torch.float32: 64.0, torch.float64: 64.0, torch.bfloat16: 1.0, torch.float16: 1.0}
"""Units of eps of the result's dtype, of the largest entry: rounding in a recursion over some thousand steps and sums
as long; half an eps for what is stored in half precision, and as much for the sums before."""


@final
class Gate:
    """Checks subjects on given inputs, each once.

    ``inputs`` makes the inputs that a subject is checked on: shorter ones for loops over tokens, whose backward pass
    takes minutes.
    """

    def __init__(self, group: str, inputs: Callable[[Subject], ScanInputs]) -> None:
        self.group = group
        self._inputs = inputs
        self._expected: dict[tuple[str, bool], tuple[Tensor, tuple[Tensor, ...]]] = {}
        self._checks: dict[str, tuple[Check, ...]] = {}

    def checks(self, subject: Subject) -> tuple[Check, ...]:
        """A check of the output and of each gradient; none where the subject is absent."""
        if subject.absent:
            return ()
        if subject.name not in self._checks:
            inputs = self._inputs(subject)
            key = (inputs.says, subject.plain)
            if key not in self._expected:
                self._expected[key] = definition(inputs, subject.plain)
            self._checks[subject.name] = compare(self.group, subject, inputs, self._expected[key])
        return self._checks[subject.name]

    def problem(self, subject: Subject) -> str:
        """Why a subject's timings are not to be shown, or ""."""
        return subject.absent or failure(self.checks(subject))


def definition(inputs: ScanInputs, plain: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The specification's output and gradients of `NAMES`, in float64."""
    options: dict[str, Any] = {} if plain else OPTIONS
    exact = inputs.double()
    leaves = [x.detach().requires_grad_() for x in exact.tensors()]
    scan = partial(vmp.selective_scan, backend="spec", **options)
    out = scan(*leaves)
    return out.detach(), torch.autograd.grad(out, leaves, exact.dy)


def compare(
    group: str,
    subject: Subject,
    inputs: ScanInputs,
    expected: tuple[Tensor, tuple[Tensor, ...]],
    as_name: str = "",
) -> tuple[Check, ...]:
    """A check of each tensor of a subject, called ``as_name`` where given, against what was expected."""
    out, gradients = subject.results(inputs)
    pairs = zip(("out", *NAMES), (out, *gradients), (expected[0], *expected[1]), strict=True)
    name = as_name or subject.name
    return tuple(
        Check(group, name, tensor, inputs.says, deviation(got, wanted), subject.slack * ALLOWED[got.dtype])
        for tensor, got, wanted in pairs
    )


def deviation(got: Tensor, expected: Tensor) -> float:
    """max |got - expected| / max |expected|, in units of eps of the dtype of `got`."""
    gap = (got.double() - expected.double()).abs().max() / expected.abs().max()
    return gap.item() / torch.finfo(got.dtype).eps


def failure(checks: tuple[Check, ...]) -> str:
    """The worst of the checks that failed, in words, or ""."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return ""
    worst = max(
        failed, key=lambda check: check.deviation if check.deviation == check.deviation else float("inf")
    )
    what = (
        f"gradient of {worst.tensor}"
        if worst.tensor in NAMES
        else {"out": "output"}.get(worst.tensor, worst.tensor)
    )
    return f"FAILED: {what} is {worst.deviation:.3g} eps from the float64 specification, {worst.allowed:g} allowed"
