"""The GPU's strips against `weigh`, on a GPU where there is one and else in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from analysis.capture import record
from analysis.implicit import ImplicitAttention
from analysis.matrix import strips_triton
from analysis.matrix.strips_triton import COLUMNS, NEAR, ROWS, STATES
from analysis.weights import SCOPES, scoped
from tests.analysis.models import clip, video_model
from tests.analysis.reference import OPTIONS, terms
from tests.interpreter import hasten

hasten()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def whole(matrix, entries=strips_triton.STRIP):
    """W and the mean of M from all strips, every row poisoned until one brings it."""
    L = matrix.length
    weight = torch.full((matrix.batch, L, L), torch.nan, dtype=matrix.dtype, device=DEVICE)
    mean = weight.clone()
    for rows, w, m in strips_triton.strips(matrix, matrix.factors(), True, entries):
        assert torch.isnan(weight[:, rows]).all(), "a row came twice"
        weight[:, rows], mean[:, rows] = w, m
    return weight, mean


def agree(matrix, entries=strips_triton.STRIP):
    L = matrix.length
    expected = matrix.weigh(slice(0, L), slice(0, L), signed=True)
    for got, want in zip(whole(matrix, entries), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


def problem(seed, **shape):
    return {name: value.to(DEVICE) for name, value in terms(seed, **shape)[0].items()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options):
    agree(ImplicitAttention(**problem(1, D=2, N=3, L=ROWS + 5), **options))


@pytest.mark.parametrize(
    ("length", "states"),
    [(0, 2), (1, 4), (NEAR, 1), (ROWS, STATES), (ROWS + 1, STATES + 1), (2 * ROWS + COLUMNS + 9, 5)],
)
def test_lengths_and_states(length, states):
    t = problem(length, batch=1, D=2, N=states, L=length)
    agree(ImplicitAttention(**t, residual="initial", mask_diagonal=True, reverse=True))


def test_strips_of_any_height_are_the_same_matrix_to_the_bit():
    matrix = ImplicitAttention(**problem(2, batch=1, D=2, L=3 * ROWS + 7), residual="elemental")
    agree(matrix, entries=1)
    heights = [w.shape[1] for _, w, _ in strips_triton.strips(matrix, matrix.factors(), False, entries=1)]
    assert heights == [ROWS, ROWS, ROWS, 7]
    assert all(torch.equal(a, b) for a, b in zip(whole(matrix), whole(matrix, 1), strict=True))


@pytest.mark.parametrize("groups", [2, "constant"])
def test_groups(groups):
    agree(ImplicitAttention(**problem(2, D=4, L=ROWS + 3, groups=groups), residual="elemental", reverse=True))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("variant", "fields"),
    [
        ("mask", {}),
        ("residual_initial", {"d_conv": 2}),
        ("paper", {}),
        ("paper", {"shared_projections": True}),
        ("released", {}),
        ("videomamba", {"d_conv": 10, "halve_output": True, "class_token": "middle"}),
    ],
    ids=str,
)
def test_scopes_of_models(scope, variant, fields):
    model = video_model(variant, num_frames=9, d_model=2, depth=1, d_state=3, **fields).to(DEVICE)
    with torch.no_grad(), record(model) as captures:
        model(clip(batch=1, frames=9).to(DEVICE))
    assert captures[0].terms.x.shape[-1] > ROWS
    for capture in captures:
        agree(scoped(capture, scope))


def test_float32_stays_float32_and_finite_under_steep_decay():
    t = {name: v.float() for name, v in problem(6, D=2, N=16, L=2 * ROWS + 5, scale=30.0).items()}
    weight, _ = whole(ImplicitAttention(**t))
    L = weight.shape[-1]
    exact, _ = ImplicitAttention(**{k: v.double() for k, v in t.items()}).weigh(slice(0, L), slice(0, L))
    assert weight.dtype == torch.float32
    assert torch.isfinite(weight).all()
    assert (weight - exact).abs().max() / exact.max() < 1e-6


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from analysis.matrix import strips_triton as s

options = dict(AHEAD=-1, MASK=True, SQUARES=False, SIGNED=True, ELEMENTAL=True, INITIAL=False, write_l=1, read_l=1,
               TAPS=4, ROWS=s.ROWS, COLUMNS=s.COLUMNS, NEAR=s.NEAR, STATES=s.STATES, NEAR_STATES=s.STATES)
pointers = "sums step rate gate slope scale taps skip first write read".split()
for kernel in (s._far, s._near):
    for real in ("fp32", "fp64"):
        kinds = {**dict.fromkeys(pointers, "*" + real), "elapsed": "*fp64", **dict.fromkeys(options, "constexpr")}
        signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, options)
        triton.compile(source, target=GPUTarget("cuda", 90, 32), options={**s.COMPILER, "num_warps": 8})
"""


def test_both_kernels_compile_for_a_gpu_without_one(tmp_path):
    """What the interpreter does not check: types, and that the compiler takes every operation."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COMPILE], check=True, env=environment)
