"""Every backend x option x dtype against the definition in float64: outputs, last state, each gradient."""

from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.strategies import Maker, scan_arguments
from tests.tolerances import assert_close
from vmp.scan import available_backends, selective_scan

# mamba_ssm_cuda, which knows neither the CPU nor float64, is tested in test_plain.py.
TESTED = [
    name
    for name, reason in available_backends().items()
    if reason is None and name not in ("spec", "mamba_ssm_cuda")
]
# What Triton's interpreter runs gets generated examples of its own, few and short, in test_triton_gpu.py.
FAST = [name for name in TESTED if name != "triton_gpu" or torch.cuda.is_available()]
DTYPES = (torch.float32, torch.float64)

Arguments = dict[str, Any]


def chunk(backend: str) -> int:
    """Tokens between the borders at which a backend keeps or hands over states."""
    if backend == "triton_gpu":
        return import_module("vmp.scan.triton_gpu").K
    return import_module("vmp.scan.numba_cpu").CHUNK


def placed(arguments: Arguments, backend: str) -> Arguments:
    """The arguments, on the device of that backend."""
    device = "cuda" if backend == "triton_gpu" and torch.cuda.is_available() else "cpu"
    return {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in arguments.items()
    }


def run(arguments: Arguments, backend: str, *, absolute: bool = False) -> dict[str, Tensor]:
    """out, last_state and the gradient of every tensor argument, by name.

    The cotangents are small integers, which half precision holds exactly.
    """
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in placed(arguments, backend).items()
        if isinstance(value, Tensor)
    }
    call = {**arguments, **leaves}
    out, last_state = selective_scan(**call, return_last_state=True, backend=backend)
    make = Maker(7, torch.float64)
    cotangents = [make.normal(*value.shape).round().to(value.device) for value in (out, last_state)]
    if absolute:
        cotangents = [value.abs() for value in cotangents]
    loss = (out * cotangents[0]).sum() + (last_state * cotangents[1]).sum()
    # Nothing depends on an empty sequence, yet each of its gradients is asked for.
    loss = loss + sum(0 * leaf.sum() for leaf in leaves.values())
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    results = {"out": out, "last_state": last_state, **dict(zip(leaves, gradients, strict=True))}
    return {name: value.detach().cpu() for name, value in results.items()}


def in_float64(arguments: Arguments) -> Arguments:
    return {name: value.double() if isinstance(value, Tensor) else value for name, value in arguments.items()}


def sizes_of_terms(arguments: Arguments) -> dict[str, Tensor]:
    """What `run` returns where nothing can cancel: every factor of the sums by its absolute value."""
    signed = {"u", "B", "C", "D", "z", "h0"}
    absolute = {k: v.abs() if k in signed and v is not None else v for k, v in in_float64(arguments).items()}
    return run(absolute, "spec", absolute=True)


def defined(arguments: Arguments) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `run` has to return, and the sizes of the terms of its sums."""
    return run(in_float64(arguments), "spec"), sizes_of_terms(arguments)


def assert_as_defined(arguments: Arguments, backend: str) -> None:
    assert_results(run(arguments, backend), *defined(arguments))


def assert_results(results: dict[str, Tensor], expected: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    for name, got in results.items():
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
        "C": lambda: make.normal(batch, 2, states, length),
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
    "skip_only, initial": {"mask_diagonal": True, "masked_first_step": "skip_only", "residual": "initial"},
    "skip_only, D, h0": {"mask_diagonal": True, "masked_first_step": "skip_only", "D": ..., "h0": ...},
    "skip_only, no mask": {"masked_first_step": "skip_only", "h0": ...},
    "all": {
        "D": ..., "z": ..., "delta_bias": ..., "delta_softplus": True, "h0": ..., "mask_diagonal": True,
        "masked_first_step": "skip_only", "residual": "elemental", "reverse": True, "B": ..., "C": ...,
    },
}  # fmt: skip


@cache
def defined_example(
    length: int, dtype: torch.dtype, option: str
) -> tuple[Arguments, dict[str, Tensor], dict[str, Tensor]]:
    """An example, and what each backend has to make of it."""
    arguments = example(length, dtype, **OPTIONS[option])
    return arguments, *defined(arguments)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", TESTED)
def test_option(backend: str, dtype: torch.dtype, option: str) -> None:
    arguments, *expected = defined_example(chunk(backend) + 3, dtype, option)
    assert_results(run(arguments, backend), *expected)


@pytest.mark.parametrize(
    ("chunks", "more"), [(0, 0), (0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (2, 0), (2, 1)]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", TESTED)
def test_length(backend: str, dtype: torch.dtype, chunks: int, more: int) -> None:
    length = chunks * chunk(backend) + more
    for option in ("all", "mask, initial"):
        arguments, *expected = defined_example(length, dtype, option)
        assert_results(run(arguments, backend), *expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", FAST)
@given(data=st.data())
def test_any_scan(backend: str, dtype: torch.dtype, data: st.DataObject) -> None:
    assert_as_defined(data.draw(scan_arguments(dtype=dtype)), backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_half_precision_inputs_accumulate_in_float32(backend: str, dtype: torch.dtype) -> None:
    """Inputs in half precision beside float32 parameters; only what is stored in half is rounded to it."""
    arguments = example(3 * chunk(backend) + 8, dtype, **OPTIONS["all"])
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
    length = chunk(backend) + 3
    arguments = example(length, torch.float32)
    arguments |= {"A": torch.full((18, 5), -16.0), "delta": torch.full((2, 18, length), 10.0)}
    got = run(arguments, backend)
    assert all(value.isfinite().all() for value in got.values())
    u, products = 10 * arguments["u"].double(), arguments["B"].double() * arguments["C"].double()
    alone, terms = u * products.sum(1, keepdim=True), u * products.abs().sum(1, keepdim=True)
    assert_close("out", got["out"], alone, terms)
    assert_as_defined(arguments, backend)


@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_no_gradient_leaves_the_same_output(backend: str) -> None:
    arguments = example(chunk(backend) + 3, torch.float32, **OPTIONS["all"])
    with torch.no_grad():
        alone = selective_scan(**placed(arguments, backend), backend=backend)
    assert torch.equal(alone.cpu(), run(arguments, backend)["out"])


@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_last_state_carries_on(backend: str) -> None:
    """Two halves that hand the state over are the whole."""
    border = chunk(backend) + 7
    terms = sizes_of_terms(example(2 * border, torch.float64, h0=...))
    arguments = placed(example(2 * border, torch.float64, h0=...), backend)
    whole, last = selective_scan(**arguments, return_last_state=True, backend=backend)

    def part(tokens: slice, h0: Tensor) -> tuple[Tensor, Tensor]:
        cut = {name: arguments[name][..., tokens] for name in ("u", "delta", "B", "C")}
        return selective_scan(**cut, A=arguments["A"], h0=h0, return_last_state=True, backend=backend)

    first, carried = part(slice(0, border), arguments["h0"])
    second, end = part(slice(border, None), carried)
    assert_close("out", torch.cat([first, second], dim=2).cpu(), whole.cpu(), terms["out"])
    assert_close("last_state", end.cpu(), last.cpu(), terms["last_state"])


@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_empty_sequence_returns_the_state_it_was_given(backend: str) -> None:
    given_state = placed(example(0, torch.float64, h0=...), backend)
    out, state = selective_scan(**given_state, return_last_state=True, backend=backend)
    assert out.shape == (2, 18, 0)
    assert torch.equal(state, given_state["h0"])
    none_given = placed(example(0, torch.float64, residual="initial"), backend)
    _, state = selective_scan(**none_given, return_last_state=True, backend=backend)
    assert torch.equal(state.cpu(), torch.zeros(2, 18, 5, dtype=torch.float64))


@pytest.mark.parametrize("backend", ["spec", *TESTED])
def test_nan_stays_where_it_can_reach(backend: str) -> None:
    """A NaN step of one channel leaves earlier tokens and other channels as they were."""
    at = chunk(backend) - 4
    arguments = placed(example(at + 9, torch.float32), backend)
    clean = selective_scan(**arguments, backend=backend)
    arguments["delta"][0, 4, at] = torch.nan
    out = selective_scan(**arguments, backend=backend)
    assert out[0, 4, at:].isnan().all()
    out[0, 4, at:] = clean[0, 4, at:]
    assert torch.equal(out, clean)
