"""The definition against math.md by two other routes: the recurrence in scalars, and the matrix of section 2."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

from tests.strategies import RESIDUALS, Maker, scan_arguments
from vmp.scan import selective_scan

Array = np.ndarray


def as_numpy(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments as arrays, with B and C for every channel and step, and delta after bias and softplus."""
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    batch, channels, length = arrays["u"].shape
    for name in ("B", "C"):
        rows = arrays[name]
        if rows.ndim == 2:
            rows = np.broadcast_to(rows[None, :, :, None], (batch, *rows.shape, length))
        elif rows.ndim == 3:
            rows = np.broadcast_to(rows[:, None], (batch, channels, *rows.shape[1:]))
        else:
            rows = np.repeat(rows, channels // rows.shape[1], axis=1)
        arrays[name] = rows
    if arrays["delta_bias"] is not None:
        arrays["delta"] = arrays["delta"] + arrays["delta_bias"][:, None]
    if arrays["delta_softplus"]:
        arrays["delta"] = np.logaddexp(arrays["delta"], 0)
    return arrays


def finish(y: Array, arrays: dict[str, Any]) -> Array:
    """Apply the direct path and the gate."""
    if arrays["D"] is not None:
        y = y + arrays["D"][:, None] * arrays["u"]
    if arrays["z"] is not None:
        y = y * arrays["z"] / (1 + np.exp(-arrays["z"]))
    return y


def by_scalars(arrays: dict[str, Any]) -> tuple[Array, Array]:
    """Run the recurrence of section 1, one number at a time."""
    u, delta, A, B, C = (arrays[name] for name in ("u", "delta", "A", "B", "C"))
    batch, channels, length = u.shape
    states = A.shape[1]
    y, last = np.zeros(u.shape), np.zeros((batch, channels, states))
    order = list(range(length))[::-1] if arrays["reverse"] else list(range(length))
    for b, d, n in np.ndindex(batch, channels, states):
        h = 0.0
        if arrays["h0"] is not None:
            h = arrays["h0"][b, d, n]
        if arrays["residual"] == "initial" and order:
            h = u[b, d, order[0]]
        for t in order:
            decay = math.exp(delta[b, d, t] * A[d, n])
            if arrays["mask_diagonal"] and (t != order[0] or arrays["masked_first_step"] == "carry"):
                y[b, d, t] += C[b, d, n, t] * decay * h
            if arrays["residual"] == "elemental":
                h = decay * (h + u[b, d, t])
            else:
                h = decay * h
            h += delta[b, d, t] * B[b, d, n, t] * u[b, d, t]
            if not arrays["mask_diagonal"]:
                y[b, d, t] += C[b, d, n, t] * h
        last[b, d, n] = h
    return finish(y, arrays), last


def by_matrix(arrays: dict[str, Any]) -> Array:
    """Return alpha u + beta of section 2, from sums of delta between the two tokens of each entry."""
    flip = -1 if arrays["reverse"] else 1
    u, delta, B, C = (arrays[name][..., ::flip] for name in ("u", "delta", "B", "C"))
    A = arrays["A"]
    length = u.shape[2]
    y = np.zeros(u.shape)
    for i in range(length):
        for j in range(i + 1):
            after = np.exp(A * delta[:, :, j + 1 : i + 1].sum(-1)[..., None])
            through = np.exp(A * delta[:, :, j : i + 1].sum(-1)[..., None])
            alpha = (C[..., i] * after * B[..., j]).sum(-1) * delta[:, :, j]
            if arrays["residual"] == "elemental":
                alpha += (C[..., i] * through).sum(-1)
            if i == j and arrays["mask_diagonal"]:
                alpha = np.zeros_like(alpha)
            if j == 0 and arrays["residual"] == "initial":
                alpha += (C[..., i] * through).sum(-1)
            y[:, :, i] += alpha * u[:, :, j]
        if arrays["h0"] is not None:
            decay = np.exp(A * delta[:, :, : i + 1].sum(-1)[..., None])
            y[:, :, i] += (C[..., i] * decay * arrays["h0"]).sum(-1)
    if arrays["mask_diagonal"] and arrays["masked_first_step"] == "skip_only":
        y[:, :, 0] = 0
    return finish(y[..., ::flip], arrays)


@given(scan_arguments(lengths=(0, 1, 2, 7, 12)))
def test_recurrence_in_scalars(arguments: dict[str, Any]) -> None:
    out, last = selective_scan(**arguments, return_last_state=True, backend="spec")
    expected_out, expected_last = by_scalars(as_numpy(arguments))
    np.testing.assert_allclose(out, expected_out, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(last, expected_last, rtol=1e-12, atol=1e-12)


@given(scan_arguments(lengths=(1, 2, 7, 20)))
def test_matrix(arguments: dict[str, Any]) -> None:
    out = selective_scan(**arguments, backend="spec")
    np.testing.assert_allclose(out, by_matrix(as_numpy(arguments)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("mask", ["none", "carry", "skip_only"])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_against_finite_differences(residual: str, mask: str, reverse: bool) -> None:
    make = Maker(11, torch.float64)
    given_state = residual != "initial"
    tensors = {
        "u": make.normal(1, 2, 4),
        "delta": make.normal(1, 2, 4),
        "A": make.rates(2, 3),
        "B": make.normal(1, 3, 4),
        "C": make.normal(2, 3),
        "D": make.normal(2),
        "z": make.normal(1, 2, 4),
        "delta_bias": make.normal(2),
        **({"h0": make.normal(1, 2, 3)} if given_state else {}),
    }
    options = {"residual": residual, "reverse": reverse, "delta_softplus": True}
    if mask != "none":
        options |= {"mask_diagonal": True, "masked_first_step": mask}

    def function(*values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        named = dict(zip(tensors, values, strict=True))
        return selective_scan(**named, **options, return_last_state=True, backend="spec")

    leaves = [value.requires_grad_() for value in tensors.values()]
    assert torch.autograd.gradcheck(function, leaves, atol=1e-6, rtol=1e-5)


def test_worked_example() -> None:
    """Two steps by hand: decay 1/2 a step, B = C = 1, u = (1, 2), D = 10."""
    half = torch.full((1, 1), -math.log(2.0), dtype=torch.float64)
    one = torch.ones(1, 1, 2, dtype=torch.float64)
    u = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    D = torch.tensor([10.0], dtype=torch.float64)

    def scan(**options: Any) -> list[float]:
        return selective_scan(u, one, half, one, one, D, **options, backend="spec").flatten().tolist()

    # h: 0 -> 1 -> 0.5 + 2
    assert scan() == pytest.approx([11, 22.5])
    # the decayed state alone: 0, 0.5
    assert scan(mask_diagonal=True) == pytest.approx([10, 20.5])
    # h: 1 -> 0.5 + 1 -> 0.75 + 2
    assert scan(residual="initial") == pytest.approx([11.5, 22.75])
    # the decayed state alone: 0.5, 0.75; where the first step is silent, its 0.5 is not read
    assert scan(residual="initial", mask_diagonal=True) == pytest.approx([10.5, 20.75])
    silent: dict[str, Any] = {"residual": "initial", "masked_first_step": "skip_only"}
    assert scan(**silent, mask_diagonal=True) == pytest.approx([10, 20.75])
    assert scan(**silent) == scan(residual="initial")
    # h: 0 -> 0.5 + 1 -> (1.5 + 2) / 2 + 2
    assert scan(residual="elemental") == pytest.approx([11.5, 23.75])
    # h: 0 -> 2 -> 1 + 1
    assert scan(reverse=True) == pytest.approx([12, 22])
