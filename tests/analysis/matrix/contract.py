"""What every matrix of attention weights has to do, as one class of tests: subclass it to put a matrix to them.

class TestMine(MatrixContract):
    @pytest.fixture
    def case(self):
        return Case(MyMatrix(...), its_dense_form)
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from analysis.matrix.base import AttentionMatrix
from analysis.matrix.strips import strips


@dataclasses.dataclass(frozen=True)
class Case:
    """A matrix in float64 of at least 5 tokens and what it has to be.

    Attributes:
        matrix: The matrix.
        dense: All of it, (B, D, L, L), by another route.
        added: What `apply` adds to the matrix's product with u; nothing by default.
        norms: Whether the weight of a pair is the norm over channels rather than the mean magnitude.
    """

    matrix: AttentionMatrix
    dense: np.ndarray
    added: Callable[[np.ndarray], np.ndarray | float] = lambda u: 0.0
    norms: bool = False

    def weight(self):
        return np.linalg.norm(self.dense, axis=1) if self.norms else np.abs(self.dense).mean(1)


class MatrixContract:
    """Each test takes the fixture `case`, which a subclass defines."""

    def test_it_says_what_it_is_on_one_line(self, case):
        B, D, L, _ = case.dense.shape
        assert case.matrix.shape == case.dense.shape
        assert (case.matrix.batch, case.matrix.channels, case.matrix.length) == (B, D, L)
        said = repr(case.matrix)
        assert "\n" not in said
        for word in (type(case.matrix).__name__, case.matrix.scope, "float64", f"B={B}, D={D}, L={L}"):
            assert word in said

    def test_dense(self, case):
        close(case.matrix.dense(), case.dense)
        with pytest.raises(MemoryError, match=rf"B={case.matrix.batch}, .*max_bytes allows"):
            case.matrix.dense(max_bytes=100)

    def test_rows_and_columns(self, case):
        L = case.matrix.length
        for i in (0, 1, L // 2, L - 1, -1, -L):
            close(case.matrix.row(i), case.dense[:, :, i])
            close(case.matrix.column(i), case.dense[..., i])
        for i in (L, -L - 1):
            with pytest.raises(IndexError, match=rf"row {i} is outside a matrix of {L} tokens"):
                case.matrix.row(i)
            with pytest.raises(IndexError, match=rf"column {i} is outside"):
                case.matrix.column(i)

    def test_tiles(self, case):
        D, L = case.dense.shape[1:3]
        some = slice(D // 2, D)
        for rows, columns in (
            (slice(0, L), slice(0, L // 3)),
            (slice(L // 4, L // 2), slice(0, L)),
            (slice(L // 2, L), slice(1, L - 1)),
            (slice(1, L - 1), slice(L // 2, L)),
            (slice(2, 2), slice(1, L)),
        ):
            close(case.matrix.tile(rows, columns, some), case.dense[:, some, rows, columns], case.dense)
        with pytest.raises(IndexError, match=rf"columns: .* within 0\.\.{L}"):
            case.matrix.tile(slice(0, 1), slice(0, L + 1))

    def test_apply_is_the_product(self, case):
        u = np.random.default_rng(0).normal(size=case.dense.shape[:3])
        want = np.einsum("bdij,bdj->bdi", case.dense, u) + case.added(u)
        close(case.matrix.apply(torch.from_numpy(u)), want)

    def test_entries_are_those_of_the_matrix_in_logarithms(self, case):
        L = case.matrix.length
        rows, columns = (torch.from_numpy(x.ravel()) for x in np.indices((L, L)))
        found = case.matrix.entries(rows, columns)
        close(found.sign * found.log.exp(), case.dense.reshape(*case.dense.shape[:2], -1))
        forbidden = ~case.matrix.sees(slice(0, L)).flatten()
        assert (found.sign[..., forbidden] == 0).all()
        assert (found.log[..., forbidden] == -math.inf).all()
        close(case.matrix.weigh_entries(rows, columns).exp(), case.weight().reshape(len(case.dense), -1))
        pair = torch.tensor([-1]), torch.tensor([-L])
        one = case.matrix.entries(*pair)
        close(one.sign * one.log.exp(), case.dense[..., -1, :1], case.dense)
        assert case.matrix.entries(pair[0][:0], pair[1][:0]).log.shape == (*case.dense.shape[:2], 0)
        with pytest.raises(IndexError):
            case.matrix.entries(torch.tensor([L]), torch.tensor([0]))

    def test_weights_and_signed_means(self, case):
        L = case.matrix.length
        rows, columns = slice(L // 4, L - 1), slice(0, L - 2)
        weight, mean = case.matrix.weigh(rows, columns, signed=True)
        close(weight, case.weight()[:, rows, columns])
        close(mean, case.dense.mean(1)[:, rows, columns])
        assert case.matrix.weigh(rows, columns)[1] is None
        for rows, weight, mean in strips(case.matrix, signed=True):
            close(weight, case.weight()[:, rows])
            close(mean, case.dense.mean(1)[:, rows])

    def test_structure_says_where_it_may_differ_from_zero(self, case):
        L = case.matrix.length
        met = np.abs(case.dense).max((0, 1)) > 0
        assert np.array_equal(case.matrix.sees(slice(0, L)).numpy(), met)
        assert np.array_equal(case.matrix.sees(slice(1, 4)).numpy(), met[1:4])
        first, last = (x.numpy() for x in case.matrix.allowed())
        for i in range(L):
            keys = np.flatnonzero(met[i])
            assert (first[i], last[i]) == (keys[0], keys[-1]) if len(keys) else first[i] > last[i]

    def test_thin_factors_of_the_border(self, case):
        L = case.matrix.length
        m = L // 2
        factors = case.matrix.border(m)
        if factors is not None:
            dense = case.dense[..., ::-1, ::-1] if case.matrix.reverse else case.dense
            close(factors[0] @ factors[1], dense[..., m:, :m], case.dense)


def close(got, want, whole=None):
    """Equal but for the rounding of float64, in sums of the size of the matrix."""
    got, scale = got.numpy(), np.abs(want if whole is None else whole).max(initial=1)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12 * scale)
