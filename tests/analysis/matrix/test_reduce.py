import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from analysis import reduce as r
from analysis.implicit import ImplicitAttention
from tests.analysis.reference import terms
from vmp.layout import TokenLayout

FRAMES, GRID = 3, (2, 4)
LENGTH = 1 + FRAMES * GRID[0] * GRID[1]
LAYOUT = TokenLayout(class_positions=(0,), frames=FRAMES, grid=GRID)


def everything():
    return [
        r.AbsoluteMean(),
        r.SignedMean(),
        r.LagProfile(),
        r.RowMass(),
        r.ColumnMass(),
        r.Distances(),
        r.EffectiveContext(),
        r.FrameMatrix(),
    ]


@pytest.fixture(
    params=[(False, False), (True, True), (False, True)], ids=["plain", "masked reverse", "masked"]
)
def case(request):
    """One pass beside the dense matrix, with W and the allowed pairs as numpy arrays."""
    reverse, mask = request.param
    t, _, _ = terms(17, D=5, L=LENGTH)
    matrix = ImplicitAttention(**t, mask_diagonal=mask, reverse=reverse)
    dense = matrix.dense().numpy()
    i, j = np.indices((LENGTH, LENGTH))
    allowed = (j >= i + mask) if reverse else (j <= i - mask)
    return r.reduce(matrix, everything(), layout=LAYOUT), np.abs(dense).mean(1), dense.mean(1), allowed


def place(token):
    """(frame, row, column) of a patch token, by counting; None for the class token."""
    if token == 0:
        return None
    frame, rest = divmod(token - 1, GRID[0] * GRID[1])
    return frame, *divmod(rest, GRID[1])


def test_matrices_and_masses(case):
    sums, W, signed, _ = case
    np.testing.assert_allclose(sums["AbsoluteMean"], W, rtol=1e-11)
    np.testing.assert_allclose(sums["SignedMean"], signed, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(sums["RowMass"], W.sum(2), rtol=1e-11)
    np.testing.assert_allclose(sums["ColumnMass"], W.sum(1), rtol=1e-11)


def test_lag_profiles(case):
    sums, W, _, allowed = case
    profile = sums["LagProfile"]
    for lag in range(LENGTH):
        pairs = [(i, j) for i in range(LENGTH) for j in range(LENGTH) if abs(i - j) == lag and allowed[i, j]]
        assert profile.counts[lag] == len(pairs)
        if pairs:
            want = np.mean([W[:, i, j] for i, j in pairs], axis=0)
            np.testing.assert_allclose(profile.mean[:, lag], want, rtol=1e-11)
        else:
            assert torch.isnan(profile.mean[:, lag]).all()
    for lag in range(FRAMES):
        pairs = [
            (i, j)
            for i in range(1, LENGTH)
            for j in range(1, LENGTH)
            if abs(place(i)[0] - place(j)[0]) == lag and allowed[i, j]
        ]
        assert profile.frame_counts[lag] == len(pairs)
        want = np.mean([W[:, i, j] for i, j in pairs], axis=0)
        np.testing.assert_allclose(profile.frame_mean[:, lag], want, rtol=1e-11)


def test_distances(case):
    sums, W, _, allowed = case
    result = sums["Distances"]

    def means(weights, distance, tokens):
        values = []
        for i in tokens:
            keys = [j for j in tokens if allowed[i, j]]
            total = sum(weights[i, j] for j in keys)
            if total > 0:
                values.append(sum(weights[i, j] * distance(i, j) for j in keys) / total)
        return np.mean(values)

    patches = range(1, LENGTH)
    measures = {
        "token": (lambda i, j: abs(i - j), range(LENGTH)),
        "frame": (lambda i, j: abs(place(i)[0] - place(j)[0]), patches),
        "patch": (lambda i, j: math.dist(place(i)[1:], place(j)[1:]), patches),
    }
    for name, (distance, tokens) in measures.items():
        for clip in range(2):
            got = getattr(result, name)[clip].item()
            assert got == pytest.approx(means(W[clip], distance, tokens), rel=1e-11)
            uniform = getattr(result, f"uniform_{name}")[clip].item()
            assert uniform == pytest.approx(means(np.ones_like(W[clip]), distance, tokens), rel=1e-11)
    assert (result.empty_rows == int((~allowed.any(1)).sum())).all()


def test_effective_context(case):
    sums, W, _, _ = case
    for clip in range(2):
        counts = []
        for row in W[clip]:
            if row.sum() > 0:
                held = np.cumsum(np.sort(row)[::-1]) / row.sum()
                counts.append(1 + int((held < 0.9).sum()))
        assert sums["EffectiveContext"].tokens[clip].item() == pytest.approx(np.mean(counts), rel=1e-12)


def test_frame_matrix_and_class_row(case):
    sums, W, _, _ = case
    result = sums["FrameMatrix"]
    for clip in range(2):
        for s in range(FRAMES):
            rows = [i for i in range(1, LENGTH) if place(i)[0] == s and W[clip, i].sum() > 0]
            for t in range(FRAMES):
                keys = [j for j in range(1, LENGTH) if place(j)[0] == t]
                want = np.mean([W[clip, i, keys].sum() / W[clip, i].sum() for i in rows])
                assert result.frames[clip, s, t].item() == pytest.approx(want, rel=1e-10, abs=1e-14)
        total = W[clip, 0].sum()
        for t in range(FRAMES):
            got = result.class_row[clip, t].item()
            if total == 0:
                assert math.isnan(got)
            else:
                keys = [j for j in range(1, LENGTH) if place(j)[0] == t]
                assert got == pytest.approx(W[clip, 0, keys].sum() / total, rel=1e-10, abs=1e-14)


def test_uniform_keys_hold_nine_tenths_in_nine_of_ten():
    """Ten equal keys: 0.9 is reached by nine, whichever way the sum rounds."""
    L = 10
    t = {
        "delta": torch.zeros(1, 1, L),
        "A": -torch.ones(1, 1),
        "B": torch.zeros(1, 1, L),
        "C": torch.ones(1, 1, L),
    }
    # The elemental residual with delta = 0 is a plain sum: every allowed pair weighs 1.
    matrix = ImplicitAttention(**t, residual="elemental")
    context = r.reduce(matrix, [r.EffectiveContext()])["EffectiveContext"]
    assert context.tokens.item() == np.mean([math.ceil(round(0.9 * n, 6)) for n in range(1, L + 1)])


def test_without_frames_quantities_by_frame_are_absent():
    t, _, _ = terms(1, L=9)
    sums = r.reduce(ImplicitAttention(**t), everything(), layout=TokenLayout.sequence(9))
    assert sums["LagProfile"].frame_mean is None
    assert sums["FrameMatrix"] is None
    assert torch.isnan(sums["Distances"].frame).all()
    assert torch.isfinite(sums["Distances"].token).all()


FULL_SIZE = r"""
import time, torch
from pathlib import Path
from analysis.implicit import ImplicitAttention
from analysis.reduce import *
from vmp.layout import TokenLayout

torch.set_num_threads(1)
D, N, L = 1152, 16, 1569
g = torch.Generator().manual_seed(0)
delta = 0.1 * torch.rand(1, D, L, generator=g)
A = -torch.arange(1.0, N + 1).repeat(D, 1)
B, C = torch.randn(1, N, L, generator=g), torch.randn(1, N, L, generator=g)
reducers = [AbsoluteMean(), SignedMean(), LagProfile(), RowMass(), ColumnMass(), Distances(), EffectiveContext(),
            FrameMatrix()]

def peak():
    # Not getrusage: its peak is the parent's where that was larger.
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

before = peak()
start = time.process_time()
reduce(ImplicitAttention(delta, A, B, C), reducers, layout=TokenLayout.video(8, (14, 14), "first"))
print(time.process_time() - start, peak() - before)
"""


@pytest.mark.alone
def test_a_full_size_direction_within_its_time_and_memory():
    """All reducers at L=1569, D=1152, N=16: 10 s on 2 cores, so 20 s of one core's time, and 500 MB."""

    out = subprocess.run([sys.executable, "-c", FULL_SIZE], capture_output=True, text=True, check=True).stdout
    seconds, megabytes = map(float, out.split())
    assert seconds < 20
    assert megabytes < 500


def test_progress_and_refusals():
    t, _, _ = terms(1, L=300)
    seen = []
    r.reduce(ImplicitAttention(**t), [r.RowMass()], progress=lambda *step: seen.append(step))
    assert seen == [(128, 300), (256, 300), (300, 300)]
    with pytest.raises(ValueError, match="wanted each class once"):
        r.reduce(ImplicitAttention(**t), [r.RowMass(), r.RowMass()])
    with pytest.raises(ValueError, match="layout: 25 tokens; the matrix has 300"):
        r.reduce(ImplicitAttention(**t), [r.RowMass()], layout=LAYOUT)
