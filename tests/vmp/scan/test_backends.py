"""Every backend x option x dtype against the definition in float64: outputs, last state, each gradient."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.strategies import Maker, scan_arguments
from tests.tolerances import assert_close
from vmp.scan import available_backends, selective_scan
from vmp.scan.numba_cpu import CHUNK

# mamba_ssm_cuda, which knows neither the CPU nor float64, is tested in test_plain.py.
TESTED = [
    name
    for name, reason in available_backends().items()
    if reason is None and name not in ("spec", "mamba_ssm_cuda")
]
DTYPES = (torch.float32, torch.float64)

Arguments = dict[str, Any]


def run(arguments: Arguments, backend: str, *, absolute: bool = False) -> dict[str, Tensor]:
    """out, last_state and the gradient of every tensor argument, by name.

    The cotangents are small integers, which half precision holds exactly.
    """
    leaves = {
        name: value.detach().requires_grad_()
        for name, value in arguments.items()
        if isinstance(value, Tensor)
    }
    call = {**arguments, **leaves}
    out, last_state = selective_scan(**call, return_last_state=True, backend=backend)
    make = Maker(7, torch.float64)
    cotangents = [make.normal(*value.shape).round() for value in (out, last_state)]
    if absolute:
        cotangents = [value.abs() for value in cotangents]
    loss = (out * cotangents[0]).sum() + (last_state * cotangents[1]).sum()
    # Nothing depends on an empty sequence, yet each of its gradients is asked for.
    loss = loss + sum(0 * leaf.sum() for leaf in leaves.values())
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {"out": out, "last_state": last_state, **dict(zip(leaves, gradients, strict=True))}


def in_float64(arguments: Arguments) -> Arguments:
    return {name: value.double() if isinstance(value, Tensor) else value for name, value in arguments.items()}


def sizes_of_terms(arguments: Arguments) -> dict[str, Tensor]:
    """What `run` returns where nothing can cancel: every factor of the sums by its absolute value."""
    signed = {"u", "B", "C", "D", "z", "h0"}
    absolute = {k: v.abs() if k in signed and v is not None else v for k, v in in_float64(arguments).items()}
    return run(absolute, "spec", absolute=True)


def assert_as_defined(arguments: Arguments, backend: str) -> None:
    expected, terms = run(in_float64(arguments), "spec"), sizes_of_terms(arguments)
    for name, got in run(arguments, backend).items():
        assert_close(name, got, expected[name], terms[name])


def example(length: int, dtype: torch.dtype, **changes: Any) -> Arguments:
    """A scan with nothing switched on, of channels that fill one block of lanes and begin another."""
    make = Maker(3, dtype)
    batch, channels, states = 2, 18, 5
    plain = {
        "u": make.normal(batch, channels, length),
        "delta": make.normal(batch, channels, length).abs(),
        "A": make.rates(channels, states),
        "B": make.normal(batch, states, length),
        "C": make.normal(batch, states, length),
    }
    tensors = {
        "D": lambda: make.normal(channels),
        "z": lambda: make.normal(batch, channels, length),
        "delta_bias": lambda: make.normal(channels).abs(),
        "h0": lambda: make.normal(batch, channels, states),
        "B": lambda: make.normal(channels, states),
        "C": lambda: make.normal(batch, 3, states, length),
    }
    made = {name: tensors[name]() if value is ... else value for name, value in changes.items()}
    return {**plain, **made}


OPTIONS = {
    "plain": {},
    "D": {"D": ...},
    "z": {"z": ...},
    "softplus": {"delta_bias": ..., "delta_softplus": True},
    "bias alone": {"delta_bias": ...},
    "h0": {"h0": ...},
    "mask": {"mask_diagonal": True},
    "initial": {"residual": "initial"},
    "elemental": {"residual": "elemental"},
    "reverse": {"reverse": True},
    "constant B": {"B": ...},
    "grouped C": {"C": ...},
    "mask, initial": {"mask_diagonal": True, "residual": "initial"},
    "mask, elemental, h0": {"mask_diagonal": True, "residual": "elemental", "h0": ...},
    "all": {
        "D": ..., "z": ..., "delta_bias": ..., "delta_softplus": True, "h0": ..., "mask_diagonal": True,
        "residual": "elemental", "reverse": True, "B": ..., "C": ...,
    },
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", TESTED)
def test_option(backend: str, dtype: torch.dtype, option: str) -> None:
    assert_as_defined(example(CHUNK + 3, dtype, **OPTIONS[option]), backend)


@pytest.mark.parametrize("length", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", TESTED)
def test_length(backend: str, dtype: torch.dtype, length: int) -> None:
    assert_as_defined(example(length, dtype, **OPTIONS["all"]), backend)
    assert_as_defined(example(length, dtype, **OPTIONS["mask, initial"]), backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", TESTED)
@given(data=st.data())
def test_any_scan(backend: str, dtype: torch.dtype, data: st.DataObject) -> None:
    assert_as_defined(data.draw(scan_arguments(dtype=dtype)), backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_half_precision_inputs_accumulate_in_float32(backend: str, dtype: torch.dtype) -> None:
    """Inputs in half precision beside float32 parameters; only what is stored in half is rounded to it."""
    arguments = example(200, dtype, **OPTIONS["all"])
    arguments |= {name: arguments[name].float() for name in ("A", "D", "delta_bias", "h0")}
    got = run(arguments, backend)
    expected = run(in_float64(arguments), "spec")
    assert got["out"].dtype == dtype
    assert got["last_state"].dtype == torch.float32
    terms = sizes_of_terms(arguments)
    for name, value in got.items():
        assert value.dtype == (arguments[name].dtype if name in arguments else value.dtype)
        of_half = value.dtype == dtype
        assert_close(name, value, expected[name], None if of_half else terms[name])


@pytest.mark.parametrize("backend", TESTED)
def test_underflow_leaves_finite_gradients(backend: str) -> None:
    """exp(delta A) down to exp(-160), 0 in float32: the state is the own token's term alone."""
    arguments = example(100, torch.float32)
    arguments |= {"A": torch.full((18, 5), -16.0), "delta": torch.full((2, 18, 100), 10.0)}
    got = run(arguments, backend)
    assert all(value.isfinite().all() for value in got.values())
    u, products = 10 * arguments["u"].double(), arguments["B"].double() * arguments["C"].double()
    alone, terms = u * products.sum(1, keepdim=True), u * products.abs().sum(1, keepdim=True)
    assert_close("out", got["out"], alone, terms)
    assert_as_defined(arguments, backend)


@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_no_gradient_leaves_the_same_output(backend: str) -> None:
    arguments = example(CHUNK + 3, torch.float32, **OPTIONS["all"])
    with torch.no_grad():
        alone = selective_scan(**arguments, backend=backend)
    assert torch.equal(alone, run(arguments, backend)["out"])


@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_last_state_carries_on(backend: str) -> None:
    """Two halves that hand the state over are the whole."""
    arguments = example(150, torch.float64, h0=...)
    whole, last = selective_scan(**arguments, return_last_state=True, backend=backend)

    def part(tokens: slice, h0: Tensor) -> tuple[Tensor, Tensor]:
        cut = {name: arguments[name][..., tokens] for name in ("u", "delta", "B", "C")}
        return selective_scan(**cut, A=arguments["A"], h0=h0, return_last_state=True, backend=backend)

    first, carried = part(slice(0, 71), arguments["h0"])
    second, end = part(slice(71, None), carried)
    terms = sizes_of_terms(arguments)
    assert_close("out", torch.cat([first, second], dim=2), whole, terms["out"])
    assert_close("last_state", end, last, terms["last_state"])


@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_empty_sequence_returns_the_state_it_was_given(backend: str) -> None:
    given_state = example(0, torch.float64, h0=...)
    out, state = selective_scan(**given_state, return_last_state=True, backend=backend)
    assert out.shape == (2, 18, 0)
    assert torch.equal(state, given_state["h0"])
    none_given = example(0, torch.float64, residual="initial")
    _, state = selective_scan(**none_given, return_last_state=True, backend=backend)
    assert torch.equal(state, torch.zeros(2, 18, 5, dtype=torch.float64))


@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_nan_stays_where_it_can_reach(backend: str) -> None:
    """A NaN step of one channel leaves earlier tokens and other channels as they were."""
    arguments = example(90, torch.float32)
    clean = selective_scan(**arguments, backend=backend)
    arguments["delta"][0, 4, 60] = torch.nan
    out = selective_scan(**arguments, backend=backend)
    assert out[0, 4, 60:].isnan().all()
    out[0, 4, 60:] = clean[0, 4, 60:]
    assert torch.equal(out, clean)
