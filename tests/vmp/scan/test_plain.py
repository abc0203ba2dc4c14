"""Every option from a plain scan alone: from the definition's own, and from mamba_ssm's where it can run."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

import vmp.scan
from tests.skips import needs_mamba_ssm
from tests.strategies import Maker, scan_arguments
from tests.tolerances import assert_close
from tests.vmp.scan.test_backends import OPTIONS, example, in_float64, run, sizes_of_terms
from vmp.scan import ScanCall, choose_backend, selective_scan, spec
from vmp.scan.plain import Steps, complete

PLAIN, EXTENSION = "plain_of_spec", pytest.param("mamba_ssm_from_cpu", marks=needs_mamba_ssm)
SINGLE = [(PLAIN, torch.float32), pytest.param("mamba_ssm_from_cpu", torch.float32, marks=needs_mamba_ssm)]


def by_definition(call: ScanCall) -> tuple[Tensor, Tensor]:
    return complete(lambda steps, A: spec.scan(ScanCall(steps.u, steps.delta, A, steps.B, steps.C))[0], call)


def by_extension(call: ScanCall) -> tuple[Tensor, Tensor]:
    """From tensors on the CPU and back there."""
    from vmp.scan import mamba_ssm_cuda

    moved: dict[str, Any] = {name: value.cuda() for name, value in call.tensors().items()}
    call = replace(call, **moved)
    assert mamba_ssm_cuda.supports(call) is None
    out, last_state = mamba_ssm_cuda.scan(call)
    return out.cpu(), last_state.cpu()


@pytest.fixture(scope="module", autouse=True)
def _as_backends() -> Iterator[None]:
    """Both can be asked for by name, so that the tests of backends serve."""
    with pytest.MonkeyPatch.context() as patch:
        for name, scan in ((PLAIN, by_definition), ("mamba_ssm_from_cpu", by_extension)):
            module = ModuleType(name)
            module.supports, module.scan = spec.supports, scan  # type: ignore[attr-defined]
            patch.setitem(sys.modules, f"vmp.scan.{name}", module)
        patch.setattr(vmp.scan, "BACKENDS", (*vmp.scan.BACKENDS, PLAIN, "mamba_ssm_from_cpu"))
        yield


def assert_as_defined(arguments: dict[str, Any], backend: str) -> None:
    """As the test of backends, but what is summed includes the own token's term that the mask then subtracts."""
    expected = run(in_float64(arguments), "spec")
    terms = sizes_of_terms({**arguments, "mask_diagonal": False})
    for name, got in run(arguments, backend).items():
        assert_close(name, got, expected[name], terms[name])


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(("backend", "dtype"), [(PLAIN, torch.float64), *SINGLE])
def test_option(backend: str, dtype: torch.dtype, option: str) -> None:
    assert_as_defined(example(37, dtype, **OPTIONS[option]), backend)


@pytest.mark.parametrize("length", [0, 1, 2, 129])
@pytest.mark.parametrize(("backend", "dtype"), [(PLAIN, torch.float64), *SINGLE])
def test_length(backend: str, dtype: torch.dtype, length: int) -> None:
    assert_as_defined(example(length, dtype, **OPTIONS["all"]), backend)
    assert_as_defined(example(length, dtype, **OPTIONS["mask, initial"]), backend)


@given(arguments=scan_arguments(lengths=(0, 1, 2, 3, 7, 31)))
def test_any_scan(arguments: dict[str, Any]) -> None:
    assert_as_defined(arguments, PLAIN)


@needs_mamba_ssm
@given(arguments=scan_arguments(dtype=torch.float32))
def test_any_scan_of_the_extension(arguments: dict[str, Any]) -> None:
    assert_as_defined(arguments, "mamba_ssm_from_cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", [PLAIN, EXTENSION])
def test_half_precision_inputs(backend: str, dtype: torch.dtype) -> None:
    """The same numbers in float32 give the same numbers, and only what is stored in half is rounded."""
    arguments = example(40, dtype, **OPTIONS["all"])
    wide = {k: v.float() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    got, expected = run(arguments, backend), run(wide, backend)
    assert got["last_state"].dtype == torch.float32
    for name in ("out", "last_state", "u", "z"):
        torch.testing.assert_close(got[name], expected[name].to(got[name].dtype), rtol=0, atol=0)


def test_rates_from_flat_to_steep_keep_and_clear_the_state() -> None:
    """abs(A) from 1e-12 to 1e3: what is put in for later is kept, and what is cleared is gone."""
    arguments = example(20, torch.float64, **OPTIONS["mask, elemental, h0"])
    arguments["A"] = -torch.logspace(-12, 3, 18 * 5, dtype=torch.float64).reshape(18, 5)
    arguments["delta"] = Maker(1, torch.float64).normal(2, 18, 20).abs() * 1e-3
    assert_as_defined(arguments, PLAIN)


def test_an_inner_scan_sees_no_option_and_no_more_steps_than_it_says() -> None:
    lengths = []

    def plain(steps: Steps, A: Tensor) -> Tensor:
        lengths.append(steps.u.shape[2])
        assert {x.shape[-1] for x in steps} == {lengths[-1]}
        return spec.scan(ScanCall(steps.u, steps.delta, A, steps.B, steps.C))[0]

    L, N = 11, 5
    for option, expected in {
        "plain": [L + N],
        "mask": [L + N],
        "initial": [1 + L + N],
        "h0": [N + L + N],
        "elemental": [2 * L + N],
        "mask, elemental, h0": [N + 2 * L + N, 2 * L],
    }.items():
        lengths.clear()
        arguments = example(L, torch.float64, **OPTIONS[option])
        complete(plain, vmp.scan.validate(**arguments))
        assert lengths == expected, option
    lengths.clear()
    complete(plain, vmp.scan.validate(**example(0, torch.float64, **OPTIONS["mask, elemental, h0"])))
    assert lengths == [N + N]


@needs_mamba_ssm
def test_what_the_extension_cannot_serve() -> None:
    def ask(channels: int = 2, batch: int = 1, **of: Any) -> None:
        choose_backend(torch.zeros(batch, channels, 3, **of), backend="mamba_ssm_cuda")

    ask(device="cuda")
    for reason, of in {
        "u is on cpu": {},
        "u is torch.float64": {"device": "cuda", "dtype": torch.float64},
        r"u is \(0, 2, 3\)": {"device": "cuda", "batch": 0},
        r"u is \(1, 65536, 3\)": {"device": "cuda", "channels": 65536},
    }.items():
        with pytest.raises(ValueError, match=rf"^backend: 'mamba_ssm_cuda' cannot serve this call: {reason}"):
            ask(**of)
    wide = {"u": (1, 2, 3), "delta": (1, 2, 3), "A": (2, 257), "B": (2, 257), "C": (2, 257)}
    with pytest.raises(ValueError, match="N is 257 and the extension takes 1 to 256 states"):
        selective_scan(
            **{k: torch.zeros(v, device="cuda") for k, v in wide.items()}, backend="mamba_ssm_cuda"
        )
