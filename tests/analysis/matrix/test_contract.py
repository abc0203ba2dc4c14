"""Every matrix of every scope and family, and one of a user's own, put to the contract."""

import functools

import numpy as np
import pytest
import torch

from analysis.capture import family_of, record
from analysis.matrix import implicit
from analysis.matrix.base import AttentionMatrix
from analysis.matrix.implicit import ImplicitAttention
from analysis.matrix.scopes import scoped
from analysis.matrix.softmax import OneSide
from tests.analysis import reference, test_families
from tests.analysis.matrix.contract import Case, MatrixContract
from tests.analysis.models import clip, ids, video_model

LENGTHS = (implicit.LEAF - 1, implicit.LEAF, implicit.LEAF + 1, 37, 53)
SCANS = {
    **{
        str(tuple(options.values())): ({"L": LENGTHS[i % 5]}, options)
        for i, options in enumerate(reference.OPTIONS)
    },
    "one group": ({"D": 6, "L": 21, "groups": 1}, {}),
    "three groups": ({"D": 6, "L": 21, "groups": 3}, {"reverse": True}),
    "constant maps": (
        {"D": 6, "L": 21, "groups": "constant"},
        {"residual": "initial", "mask_diagonal": True},
    ),
    "constant maps backward": ({"D": 6, "L": 21, "groups": "constant"}, {"reverse": True}),
    "a first state": ({"L": 23}, {"h0": True}),
    "a first state, masked backward": ({"L": 23}, {"h0": True, "mask_diagonal": True, "reverse": True}),
}


@functools.cache
def scan(name):
    sizes, options = SCANS[name]
    t, _, D = reference.terms(7, **sizes)
    options, added = dict(options), 0.0
    if options.pop("h0", False):
        h0 = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        added, options["h0"] = reference.beta(t, options, h0), h0
    matrix = ImplicitAttention(**t, D=D, **options)
    if "h0" in options:
        np.testing.assert_allclose(matrix.beta(), added, rtol=1e-12, atol=1e-13)
    return Case(matrix, reference.alpha(t, options), lambda u: added + D.numpy()[:, None] * u)


class TestImplicitAttention(MatrixContract):
    @pytest.fixture(params=SCANS)
    def case(self, request):
        return scan(request.param)


MAMBA = {
    **{v: {} for v in ("videomamba", "mask", "residual_initial", "residual_elemental", "paper", "released")},
    "vim": {"variant": "videomamba", "halve_output": True, "class_token": "middle"},
    "no bias": {"variant": "paper", "conv_bias": False},
    "shared and convolved": {"variant": "paper", "shared_projections": True},
    "released with its own projections": {"variant": "released", "shared_projections": False},
    "a convolution longer than its blocks": {"variant": "videomamba", "d_conv": 10},
}


TRANSFORMERS = "mamba of transformers"


@functools.cache
def mamba(name, direction):
    if name == TRANSFORMERS:
        model, shown = test_families.mamba(hidden_size=6, state_size=3), ids(2, 21)
    else:
        fields = {"num_frames": 5, "d_model": 6, "d_state": 3, **MAMBA[name]}
        model, shown = video_model(fields.pop("variant", name), **fields), clip(frames=5)
    with torch.no_grad(), record(model, [1]) as captures:
        model(shown)
    capture = captures[1, direction]
    return capture, *reference.scan_matrices(capture)


class TestMambaScopes(MatrixContract):
    @pytest.fixture(
        params=[(TRANSFORMERS, "forward")]
        + [(name, direction) for name in MAMBA for direction in ("forward", "backward")],
        ids=str,
    )
    def scan(self, request):
        return mamba(*request.param)

    @pytest.fixture(params=["mixer", "contribution", "projected"])
    def case(self, request, scan):
        capture, dense, _ = scan
        project = request.param == "projected"
        matrix = scoped(capture, "contribution" if project else request.param, project=project)
        return Case(matrix, dense[request.param], norms=request.param != "mixer")

    def test_the_matrix_and_the_bias_term_are_the_layers_output(self, scan):
        """H x + bias term, and the sum of all vectors, is a direction's output before the last projection."""
        capture, _, bias = scan
        for scope, weights in (
            ("mixer", capture.terms.x),
            ("contribution", torch.ones_like(capture.terms.x)),
        ):
            matrix = scoped(capture, scope)
            np.testing.assert_allclose(matrix.bias_term(), bias, rtol=0, atol=1e-12)
            torch.testing.assert_close(
                matrix.apply(weights) + matrix.bias_term(), capture.output(), rtol=0, atol=1e-10
            )


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("frames", [3, 30])
def test_rows_and_columns_take_as_many_steps_as_there_are_tokens(variant, frames, monkeypatch):
    """O(L D N): at most three passes of the scan over the sequence, and no tile of the matrix."""
    model = video_model(variant, num_frames=frames, d_model=6, depth=1)
    with torch.no_grad(), record(model) as captures:
        model(clip(frames=frames))
    steps, run = [], implicit.selective_scan

    def counted(u, *arguments, **options):
        steps.append(u.shape[-1])
        return run(u, *arguments, **options)

    monkeypatch.setattr(implicit, "selective_scan", counted)
    monkeypatch.delattr(AttentionMatrix, "tile")
    for capture in captures:
        for scope, project in (
            ("ssm", False),
            ("mixer", False),
            ("contribution", False),
            ("contribution", True),
        ):
            matrix = scoped(capture, scope, project=project)
            for part in (matrix.row, matrix.column):
                steps.clear()
                part(matrix.length // 2)
                assert 0 < sum(steps) <= 3 * matrix.length


ATTENTION = {
    "class token first": {},
    "narrower than the model": {"attention_width": 9, "num_heads": 3},
    "no class token": {"class_token": "none", "attention_width": 20, "num_heads": 2},
    "causal": {"directions": "forward"},
    "videomae": lambda: test_families.videomae(),
    "vivit": lambda: test_families.vivit(),
    "time": lambda: test_families.timesformer("divided_space_time"),
    "space": lambda: test_families.timesformer("divided_space_time"),
}


@functools.cache
def attention(name):
    given = ATTENTION[name]
    model = given() if callable(given) else video_model("attention", **{"num_heads": 3, **given})
    with torch.no_grad(), record(model, [1]) as captures:
        family_of(model).run(model, clip(frames=4 if name in ("videomae", "vivit") else 3))
    capture = next(c for c in captures if name not in ("time", "space") or c.direction == name)
    return capture, reference.attention_matrices(capture)


class TestAttentionScopes(MatrixContract):
    @pytest.fixture(params=ATTENTION)
    def softmax(self, request):
        return attention(request.param)

    @pytest.fixture(params=["ssm", "mixer", "contribution", "projected", "j<=i", "j>=i"])
    def case(self, request, softmax):
        capture, dense = softmax
        if request.param in ("j<=i", "j>=i"):
            i, j = np.indices(dense["ssm"].shape[-2:])
            inside = j <= i if request.param == "j<=i" else j >= i
            matrix = OneSide(scoped(capture, "contribution"), request.param)
            return Case(matrix, dense["contribution"] * inside, norms=True)
        project = request.param == "projected"
        matrix = scoped(capture, "contribution" if project else request.param, project=project)
        return Case(matrix, dense[request.param], norms=request.param in ("contribution", "projected"))


class Distance(AttentionMatrix):
    """A matrix of a user's own, by the least that has to be said: 1 / (1 + i - j) for j <= i, times the channel."""

    scope, batch, channels, length, dtype, device = "ssm", 1, 3, 9, torch.float64, torch.device("cpu")

    def pieces(self, within):
        if within.area:
            yield within

    def fill(self, piece, channels):
        lag = torch.arange(piece.top, piece.bottom)[:, None] - torch.arange(piece.left, piece.right)
        weight = torch.where(lag >= 0, 1 / (1 + lag.double().abs()), 0.0)
        return torch.arange(1.0, 4)[channels, None, None].double() * weight[None, None]

    def allowed(self):
        return torch.zeros(9, dtype=torch.long), torch.arange(9)


class TestOnesOwn(MatrixContract):
    @pytest.fixture
    def case(self):
        i, j = np.indices((9, 9))
        weight = np.where(j <= i, 1 / (1 + np.abs(i - j)), 0.0)
        return Case(Distance(), np.stack([weight, 2 * weight, 3 * weight])[None])
