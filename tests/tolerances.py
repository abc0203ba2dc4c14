"""How far a backend may be from the definition: one table, and nothing loosens it.

The definition is run in float64 on the very numbers that the backend was given, so that what is compared is the
backend's rounding alone. A deviation is measured, element by element, in units of eps(dtype) times the largest of
1, |expected| and the sum of the absolute terms that make up the element, where a test gives it: rounding is in
proportion to what is summed and not to what cancellation leaves. The tests' inputs are of order one.
"""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

RECORD_TO: list[Path] = []
"""The file that pytest's `--deviations` names: every deviation that is looked at becomes a line of it."""

_STATE = "recursion over L <= 130 steps of a product, two sums and an exponential"
_SUM_N = "the state's error, and a sum over N <= 64 states"
_SUM_L = "the state's error, and a sum over B L <= 390 steps or 105 channels"
_SIGNS = "; A and B enter with opposite signs, and so cancel among the absolute terms too"
_STORED = "rounding to the stored dtype, half an eps, and float32's error before it"

# (dtype, tensor): (units of eps, where they come from). A gradient is named by the tensor it belongs to.
TOLERANCES: dict[tuple[torch.dtype, str], tuple[float, str]] = {
    **{
        (dtype, name): entry
        for dtype in (torch.float32, torch.float64)
        for name, entry in {
            "out": (32, _SUM_N),
            "last_state": (32, _STATE),
            "h0": (32, _STATE),
            "u": (32, _SUM_N),
            "z": (32, _SUM_N),
            "delta": (128, _SUM_N + _SIGNS),
            "delta_bias": (128, _SUM_L + _SIGNS),
            "A": (64, _SUM_L),
            "B": (64, _SUM_L),
            "C": (64, _SUM_L),
            "D": (32, _SUM_L),
        }.items()
    },
    **{
        (dtype, name): (0.51, _STORED)
        for dtype in (torch.float16, torch.bfloat16)
        for name in ("out", "u", "z", "delta", "B", "C")
    },
}


def deviation(got: Tensor, expected: Tensor, terms: Tensor | None = None) -> float:
    """The largest deviation in units of eps of the dtype of `got` times the scale of the element."""
    assert got.shape == expected.shape, (got.shape, expected.shape)
    if got.numel() == 0:
        return 0.0
    scale = expected.abs().clamp(min=1)
    if terms is not None:
        scale = torch.maximum(scale, terms.abs())
    return ((got.double() - expected.double()).abs() / scale).max().item() / torch.finfo(got.dtype).eps


def assert_close(name: str, got: Tensor, expected: Tensor, terms: Tensor | None = None) -> None:
    """Fail unless `got`, the tensor of that name or its gradient, is as near as the table says."""
    allowed, origin = TOLERANCES[got.dtype, name]
    found = deviation(got, expected, terms)
    for path in RECORD_TO:
        told = {"tensor": name, "dtype": str(got.dtype).removeprefix("torch."), "deviation": found}
        told |= {"allowed": allowed, "test": os.environ.get("PYTEST_CURRENT_TEST", "")}
        # One write, as processes side by side append to it.
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
    # A NaN deviation fails too.
    assert found <= allowed, f"{name} in {got.dtype}: {found:.3g} eps off, {allowed:g} allowed ({origin})"
