"""The GPU kernels compile for Hopper as they are launched, and the forward ones keep everything in registers."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from experiments.bench.resources import DTYPES, ORDERS, SHAPES, _innermost_loops, kernel_resources

CODE = """\
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   FADD R2, R2, R3 ;
.L_x_1:
        /*0020*/                   MUFU.EX2 R4, R5 ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/              @!P1 BRA `(.L_x_2) ;
        /*0050*/               @P2 BRA `(.L_x_0) ;
.L_x_2:
        /*0060*/                   EXIT ;
"""


def test_innermost_loops() -> None:
    (loop,) = _innermost_loops(CODE)
    assert loop.splitlines()[1].split() == ["/*0020*/", "MUFU.EX2", "R4,", "R5", ";"]
    assert loop.endswith("BRA `(.L_x_1)")


def test_forward_does_not_spill_on_hopper() -> None:
    rows = kernel_resources(backward=False)
    forward = [row for row in rows if row.kernel.startswith("forward")]
    assert len(forward) == len(DTYPES) * len(SHAPES) * len(ORDERS)
    assert {row.dtype for row in forward} == {"fp32", "bf16", "fp16"}
    assert all(row.spilled_bytes == 0 for row in rows), [row for row in rows if row.spilled_bytes]
    for row in rows:
        assert row.target == "sm_90"
        # The warps' registers fit in the 65,536 of a multiprocessor, and one warp more would not.
        assert row.registers * 32 * row.warps <= 65_536
        assert row.warps == 32 or (row.registers + 7) * 32 * (row.warps + 1) > 65_536
        # Two for each of the four schedulers.
        assert row.warps >= 8
    assert all(row.instructions is not None and row.instructions > 8 for row in forward)
