"""What the compiled backend promises beyond being right: its exp2, clean memory, threads that change nothing, speed."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.strategies import Maker
from vmp.scan import numba_cpu, selective_scan, vectors


@numba.njit
def exp2_each(values, flushed):
    """2^x of values that fill vectors, with denormal numbers as the machine has them or flushed."""
    out = np.empty_like(values)
    denormals = vectors.flush_denormals() if flushed else 0
    for i in range(0, values.size, vectors.BYTES // values.itemsize):
        vectors.store(out, i, vectors.exp2(vectors.load(values, i)))
    if flushed:
        vectors.restore(denormals)
    return out


def exponents(dtype: type) -> np.ndarray:
    """Numbers from the least that 2^x is normal for to 127.5 (1023.5): of all float32, and of those float64 that
    begin with a float32's bits, every 61st, so that each binade down to the denormals has its share.
    """
    least, greatest = (-126.0, 127.5) if dtype == np.float32 else (-1022.0, 1023.5)
    negative = np.arange(0x80000000, 0xFF800000, 61, dtype=np.uint32).view(np.float32)
    positive = np.arange(0, 0x7F800000, 61, dtype=np.uint32).view(np.float32)
    kept = np.concatenate([negative[negative >= least], positive[positive <= greatest]]).astype(dtype)
    return np.append(kept, np.zeros(-kept.size % 16, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp2_is_within_an_ulp(dtype: type) -> None:
    x = exponents(dtype)
    assert x.min() < -125.9
    exact = np.exp2(x.astype(np.float64 if dtype == np.float32 else np.longdouble))
    error = np.abs(exp2_each(x, False) - exact) / np.spacing(exact.astype(dtype))
    assert error.max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp2_at_the_ends(dtype: type) -> None:
    smallest = np.finfo(dtype).smallest_normal
    lowest = np.log2(smallest)
    below = np.linspace(lowest - 1, np.nextafter(dtype(lowest), -np.inf), 16 * 1024).astype(dtype)
    assert np.all((exp2_each(below, False) >= 0) & (exp2_each(below, False) <= smallest))
    # Taken as 0 by every instruction that follows.
    assert np.all(exp2_each(below, True) * smallest == 0)
    special = np.resize(np.array([lowest - 1, -1e4, -np.inf, 0.0, -0.0, np.nan], dtype), 48)
    assert np.array_equal(exp2_each(special, False)[:6], [0, 0, 0, 1, 1, np.nan], equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_outgrows_the_range_of_exp2_is_no_number(dtype: torch.dtype) -> None:
    """A must be negative; where it is not, and a step outgrows the dtype, the result is NaN and not some number."""
    arguments = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in problem(1, 3, 2, 9).items()}
    arguments["A"] = torch.tensor([[-1.0, -2.0], [3000.0, -1.0], [-1.0, 0.5]], dtype=dtype)
    arguments["delta"] = torch.ones(1, 3, 9, dtype=dtype)
    out = selective_scan(**arguments, backend="numba_cpu")
    assert out[:, 1].isnan().all()
    torch.testing.assert_close(out[:, ::2], selective_scan(**arguments, backend="spec")[:, ::2])


def problem(batch: int, channels: int, states: int, length: int) -> dict[str, Any]:
    """A float32 scan with mask and residual, at the step sizes of a fresh Mamba layer."""
    make = Maker(5, torch.float32)
    return {
        "u": make.normal(batch, channels, length),
        "delta": 1e-3 * 100 ** make.normal(batch, channels, length).sigmoid(),
        "A": -torch.arange(1.0, states + 1).repeat(channels, 1),
        "B": make.normal(batch, states, length),
        "C": make.normal(batch, states, length),
        "D": make.normal(channels),
        "mask_diagonal": True,
        "residual": "elemental",
    }


def outputs_and_gradients(arguments: dict[str, Any]) -> list[Tensor]:
    leaves = {k: v.requires_grad_() for k, v in arguments.items() if isinstance(v, Tensor)}
    out, state = selective_scan(**arguments, return_last_state=True, backend="numba_cpu")
    return [out, state, *torch.autograd.grad(out.sum() + state.sum(), list(leaves.values()))]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_change_no_bit(threads: Callable[[int], None]) -> None:
    arguments = problem(2, 150, 16, 100)
    assert arguments["u"].numel() * 16 > numba_cpu.SERIAL
    threads(1)
    alone = outputs_and_gradients(arguments)
    for count in (2, 5):
        threads(count)
        assert all(torch.equal(a, b) for a, b in zip(alone, outputs_and_gradients(arguments), strict=True))


@pytest.mark.parametrize("length", [0, 1, 70])
def test_no_uninitialised_memory_is_read(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = problem(2, 21, 3, length)
    clean = outputs_and_gradients(arguments)
    for name in ("empty", "empty_like", "empty_strided"):
        made = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, made=made, **k: made(*a, **k).fill_(torch.nan))
    poisoned = outputs_and_gradients(arguments)
    assert all(torch.equal(a, b) for a, b in zip(clean, poisoned, strict=True))


def test_any_nan_among_the_rates_is_seen() -> None:
    """Whatever its payload, which exp2 would take for an exponent; 0x7fffffff is the one that NVIDIA's GPUs make."""
    arguments = problem(1, 3, 2, 5)
    arguments["A"][1, 0] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    out = selective_scan(**arguments, backend="numba_cpu")
    assert out[:, 1].isnan().all()
    assert out[:, ::2].isfinite().all()


@pytest.mark.parametrize("layout", ["time", "channels", "neither"])
@pytest.mark.parametrize("reverse", [False, True])
def test_layouts_in_memory_change_no_bit(layout: str, reverse: bool) -> None:
    """Whichever axis is contiguous, over blocks that are full and not, chunks that are full and not."""
    arguments = {**problem(2, 41, 3, 2 * numba_cpu.CHUNK + 19), "reverse": reverse}
    arguments["z"] = Maker(6, torch.float32).normal(*arguments["u"].shape)
    expected = outputs_and_gradients(arguments)
    for name in ("u", "delta", "z"):
        values = arguments[name].detach()
        if layout == "channels":
            values = values.transpose(1, 2).contiguous().transpose(1, 2)
        elif layout == "neither":
            values = torch.stack([values, torch.full_like(values, torch.nan)], -1)[..., 0]
        arguments[name] = values
    got = outputs_and_gradients(arguments)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    assert got[0].stride() == ((41 * 83, 1, 41) if layout == "channels" else (41 * 83, 83, 1))


def test_memory_kept_for_the_backward_pass() -> None:
    """The inputs, and one state a chunk: not one a token."""
    arguments = problem(2, 24, 16, 10 * numba_cpu.CHUNK)
    inputs = sum(v.requires_grad_().numel() for v in arguments.values() if isinstance(v, Tensor))
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        selective_scan(**arguments, backend="numba_cpu")
    state = 2 * 24 * 16
    assert kept <= inputs + 11 * state * 4 / 3  # 24 channels fill two blocks of 16


def test_not_differentiable_twice() -> None:
    arguments = problem(1, 2, 3, 4)
    u = arguments["u"].requires_grad_()
    (gradient,) = torch.autograd.grad(selective_scan(**arguments).square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.alone
def test_twenty_times_as_fast_as_the_definition(threads: Callable[[int], None]) -> None:
    """Forward at B=1, D=384, N=16, L=1569, mask and residual on, both on the two threads that the target names.

    The least of repeated runs each, as what else runs only adds to a time; more rounds where the first are disturbed.
    """
    arguments = problem(1, 384, 16, 1569)
    threads(2)

    def seconds(backend: str) -> float:
        begin = time.perf_counter()
        selective_scan(**arguments, backend=backend)
        return time.perf_counter() - begin

    seconds("numba_cpu")
    compiled = definition = math.inf
    for _ in range(10):
        compiled = min(compiled, *(seconds("numba_cpu") for _ in range(20)))
        definition = min(definition, seconds("spec"))
        if definition >= 20 * compiled:
            break
    assert definition >= 20 * compiled
