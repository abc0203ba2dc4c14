"""What selective_scan refuses, in which words, and which backend it takes."""

import importlib
import sys
from typing import Any

import pytest
import torch

from vmp.scan import available_backends, choose_backend, selective_scan


def arguments(**changes: Any) -> dict[str, Any]:
    tensors = {
        "u": torch.zeros(2, 6, 5),
        "delta": torch.zeros(2, 6, 5),
        "A": torch.zeros(6, 3),
        "B": torch.zeros(2, 3, 5),
        "C": torch.zeros(2, 3, 5),
    }
    return {**tensors, **changes}


REFUSED = {
    "u of rank 2": ({"u": torch.zeros(6, 5)}, r"^u: met shape \(6, 5\), wanted \(B, D, L\)$"),
    "A of rank 1": ({"A": torch.zeros(6)}, r"^A: met shape \(6,\), wanted \(D, N\)$"),
    "A of other channels": ({"A": torch.zeros(4, 3)}, r"^A: met shape \(4, 3\), wanted \(D, N\) = \(6, 3\)$"),
    "delta": (
        {"delta": torch.zeros(2, 6, 4)},
        r"^delta: met shape \(2, 6, 4\), wanted \(B, D, L\) = \(2, 6, 5\)$",
    ),
    "z": ({"z": torch.zeros(1, 6, 5)}, r"^z: met shape \(1, 6, 5\), wanted \(B, D, L\) = \(2, 6, 5\)$"),
    "D": ({"D": torch.zeros(6, 1)}, r"^D: met shape \(6, 1\), wanted \(D,\) = \(6,\)$"),
    "bias": ({"delta_bias": torch.zeros(5)}, r"^delta_bias: met shape \(5,\), wanted \(D,\) = \(6,\)$"),
    "h0": ({"h0": torch.zeros(2, 3, 6)}, r"^h0: met shape \(2, 3, 6\), wanted \(B, D, N\) = \(2, 6, 3\)$"),
    "B transposed": (
        {"B": torch.zeros(2, 5, 3)},
        r"^B: met shape \(2, 5, 3\), wanted \(B, N, L\) = \(2, 3, 5\), \(B, G, N, L\) = \(2, G, 3, 5\) "
        r"with G a divisor of D = 6, or \(D, N\) = \(6, 3\)$",
    ),
    "C of groups that do not divide": (
        {"C": torch.zeros(2, 4, 3, 5)},
        r"^C: met shape \(2, 4, 3, 5\), wanted",
    ),
    "C of no groups": ({"C": torch.zeros(2, 0, 3, 5)}, r"^C: met shape \(2, 0, 3, 5\), wanted"),
    "integers": ({"delta": torch.zeros(2, 6, 5).long()}, r"^delta: met dtype torch.int64, wanted a real"),
    "complex A": ({"A": torch.zeros(6, 3) + 0j}, r"^A: met dtype torch.complex64, wanted a real"),
    "wider than computed": (
        {"delta": torch.zeros(2, 6, 5).double()},
        r"^delta: met dtype torch.float64, wanted torch.float32 or narrower, as u is torch.float32",
    ),
    "device": (
        {"C": torch.zeros(2, 3, 5, device="meta")},
        r"^C: met device meta, wanted cpu, where u is$",
    ),
    "residual": (
        {"residual": "first"},
        r"^residual: met 'first', wanted one of 'none', 'initial', 'elemental'$",
    ),
    "first step": (
        {"masked_first_step": "skip"},
        r"^masked_first_step: met 'skip', wanted one of 'carry', 'skip_only'$",
    ),
    "two first states": (
        {"residual": "initial", "h0": torch.zeros(2, 6, 3)},
        r"^h0: met together with residual",
    ),
    "backend": (
        {"backend": "cuda"},
        r"^backend: met 'cuda', wanted one of 'auto', 'numba_cpu', 'triton_gpu', 'mamba_ssm_cuda', 'chunked', 'spec'$",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        selective_scan(**arguments(**changes))


@pytest.mark.parametrize("name", ["u", "A", "C", "h0"])
def test_not_a_tensor(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: met list, wanted a torch.Tensor$"):
        selective_scan(**arguments(**{name: [1.0]}))
    with pytest.raises(TypeError, match=r"^B: met NoneType, wanted a torch.Tensor$"):
        selective_scan(**arguments(B=None))


def test_float32_parameters_beside_float64_input_are_widened() -> None:
    wide = {name: value.double() for name, value in arguments().items()}
    assert selective_scan(**{**wide, "A": arguments()["A"]}).dtype == torch.float64


def test_backends_in_order_of_preference() -> None:
    available = available_backends()
    assert list(available) == ["numba_cpu", "triton_gpu", "mamba_ssm_cuda", "chunked", "spec"]
    assert available["numba_cpu"] is available["chunked"] is available["spec"] is None
    assert choose_backend(torch.zeros(1, 2, 3)) == "numba_cpu"
    assert choose_backend(torch.zeros(1, 2, 3), backend="spec") == "spec"


def test_other_devices_are_served_by_torch() -> None:
    elsewhere = torch.zeros(1, 2, 3, device="meta")
    assert choose_backend(elsewhere) == "chunked"
    with pytest.raises(ValueError, match=r"^backend: 'numba_cpu' cannot serve this call: u is on meta"):
        choose_backend(elsewhere, backend="numba_cpu")


def test_a_missing_dependency_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"numba": ("numba_cpu", "numba_kernels"), "triton": ("triton_gpu",)}
    for dependency, (backend, *behind) in modules.items():
        for module in (backend, *behind):
            monkeypatch.delitem(sys.modules, f"vmp.scan.{module}", raising=False)
        monkeypatch.setitem(sys.modules, dependency, None)
        assert dependency in (available_backends()[backend] or "")
    assert choose_backend(torch.zeros(1, 2, 3)) == "chunked"
    with pytest.raises(ValueError, match=r"^backend: 'numba_cpu' cannot serve this call: .*numba"):
        selective_scan(**arguments(), backend="numba_cpu")


def test_a_fault_of_our_own_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vmp.scan.chunked", raising=False)
    monkeypatch.setitem(sys.modules, "vmp.scan.call", None)
    with pytest.raises(ImportError, match=r"vmp\.scan\.call"):
        available_backends()


@pytest.fixture(autouse=True)
def _modules_as_before() -> Any:
    """The modules that a test took out are back in place after it."""
    before = {
        name: importlib.import_module(f"vmp.scan.{name}") for name in ("numba_cpu", "triton_gpu", "chunked")
    }
    yield
    for name, module in before.items():
        sys.modules[f"vmp.scan.{name}"] = module
