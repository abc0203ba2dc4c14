"""What the Triton backend promises beyond being right: any cut of the sequence gives the same result, clean memory,
any mixture of dtypes and strides; and how it cuts. Run by the interpreter, or compiled where there is a GPU.
"""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is not installed")

from tests.strategies import scan_arguments
from tests.tolerances import assert_close
from tests.vmp.scan.test_backends import (
    OPTIONS,
    assert_as_defined,
    example,
    in_float64,
    run,
    sizes_of_terms,
)
from vmp.scan import triton_gpu
from vmp.scan.triton_gpu import Plan, plan

H100 = 132


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=10)
@given(data=st.data())
def test_any_short_scan(dtype: torch.dtype, data: st.DataObject) -> None:
    assert_as_defined(data.draw(scan_arguments(dtype=dtype, lengths=(0, 1, 2, 3, 7, 9))), "triton_gpu")


@pytest.mark.parametrize("option", ["mask, initial", "all"])
@pytest.mark.parametrize("cut", [(8, 1, True), (16, 2, False), (32, 4, True)])
def test_any_cut(cut: tuple[int, int, bool], option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of channels that end within a group and beyond the channels; chunks of one interval and of more."""
    width, intervals, vector = cut
    chosen = Plan(width, intervals * triton_gpu.K, vector)
    monkeypatch.setattr(triton_gpu, "plan", lambda *sizes, backward: chosen)
    assert_as_defined(example(3 * triton_gpu.K + 3, torch.float32, **OPTIONS[option]), "triton_gpu")


@pytest.mark.parametrize("length", [1, 11])
def test_no_uninitialised_memory_is_read(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = example(length, torch.float32, **OPTIONS["all"])
    monkeypatch.setattr(triton_gpu, "plan", lambda *sizes, backward: Plan(16, triton_gpu.K, False))
    clean = run(arguments, "triton_gpu")
    empty_like, new_empty = torch.empty_like, torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(torch.nan))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(torch.nan))
    poisoned = run(arguments, "triton_gpu")
    assert all(torch.equal(clean[name], poisoned[name]) for name in clean)


@pytest.mark.parametrize("option", ["mask, initial", "elemental", "reverse"])
def test_no_row_is_read_beyond_its_padding(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of B and C that lie between NaN: a sequence ends early in its last interval of K steps."""
    monkeypatch.setattr(triton_gpu, "K", 32)
    arguments = example(5, torch.float32, **OPTIONS[option])
    clean = run(arguments, "triton_gpu")
    packed = triton_gpu._packed

    def guarded(rows: torch.Tensor) -> torch.Tensor:
        inner, room = packed(rows), 64 * triton_gpu.K * rows.shape[3]
        whole = torch.full((inner.numel() + 2 * room,), torch.nan, dtype=inner.dtype, device=inner.device)
        whole[room:-room] = inner.flatten()
        return whole[room:-room].view(inner.shape)

    monkeypatch.setattr(triton_gpu, "_packed", guarded)
    between = run(arguments, "triton_gpu")
    assert all(torch.equal(clean[name], between[name]) for name in clean)


def test_each_tensor_may_have_its_own_dtype_and_order() -> None:
    """Step sizes in float32 beside inputs in bfloat16, as the mixer has them, each the other way round in memory."""
    arguments = example(6, torch.bfloat16, D=..., z=...)
    kept = {name: arguments[name].float() for name in ("delta", "A", "D")}
    arguments |= kept | {"z": arguments["z"].transpose(1, 2).contiguous().transpose(1, 2)}
    got, expected, terms = (
        run(arguments, "triton_gpu"),
        run(in_float64(arguments), "spec"),
        sizes_of_terms(arguments),
    )
    assert {name: got[name].dtype for name in ("out", "u", "delta", "z")} == {
        "out": torch.bfloat16, "u": torch.bfloat16, "delta": torch.float32, "z": torch.bfloat16,
    }  # fmt: skip
    for name, value in got.items():
        assert_close(name, value, expected[name], terms[name] if value.dtype == torch.float32 else None)


def cut(
    batch: int, length: int, *, backward: bool, channels: int = 1152, states: int = 16
) -> tuple[Plan, int]:
    """The plan on an H100, and the warps it makes."""
    chosen = plan(batch, channels, 1, states, length, H100, backward=backward)
    return chosen, batch * -(-channels // chosen.width) * -(-length // chosen.chunk)


def test_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward: one pass where the device is full without chunks, in the cheapest layout that fills it."""
    monkeypatch.setattr(triton_gpu, "K", 32)
    assert cut(32, 1569, backward=False) == (Plan(32, 1600, False), 32 * 36)
    assert cut(8, 1569, backward=False) == (Plan(8, 1600, True), 8 * 144)
    assert cut(1, 12_545, backward=False) == (Plan(32, 448, False), 36 * 29)
    assert cut(1, 12_545, backward=True) == (Plan(16, 864, True), 72 * 15)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("states", [0, 1, 3, 16, 64, 1024])
@pytest.mark.parametrize("length", [1, 31, 1569, 50_176])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_plan_holds_for_any_shape(batch: int, length: int, states: int, backward: bool) -> None:
    chosen, _ = cut(batch, length, backward=backward, states=states)
    assert chosen.chunk % triton_gpu.K == 0
    assert chosen.chunk >= min(length, 2 * triton_gpu.K)
    assert chosen.width & (chosen.width - 1) == 0
    assert chosen.width * states <= max(512, states)


def test_without_gpu_or_interpreter_it_says_so() -> None:
    """In a process of its own, as Triton decides at import."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    program = "from vmp import available_backends; print(available_backends()['triton_gpu'])"
    environment: dict[str, Any] = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "torch finds no CUDA device here, and TRITON_INTERPRET=1 is not set"
