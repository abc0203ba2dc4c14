"""The measures as they are defined, in float64 and loops over dense matrices."""

import numpy as np

from analysis.capture import AttentionCapture
from analysis.matrix.scopes import scoped
from tests.analysis.reference import impulse_matrix


def matrix(capture, scope):
    """M (channels, L, L), rows and columns in the order of the scan's steps."""
    if isinstance(capture, AttentionCapture):
        return _attention(capture, scope)
    flip = slice(None, None, -1) if capture.reversed else slice(None)
    if scope == "ssm":
        M = impulse_matrix(
            *(
                x.numpy()
                for x in (capture.terms.delta[0], capture.terms.A, capture.terms.B[0], capture.terms.C[0])
            ),
            residual=capture.terms.residual,
            mask=capture.terms.mask_diagonal,
            reverse=capture.reversed,
            skip_first=capture.terms.masked_first_step == "skip_only",
        )
    else:
        M = scoped(capture, scope).dense()[0].numpy()
    if scope == "contribution":
        M = np.sqrt((M**2).sum(0, keepdims=True))
    return M[:, flip, flip]


def _attention(capture, scope):
    q, k, v = (x[0].numpy() for x in (capture.q, capture.k, capture.v))
    P = np.exp(capture.scale * q @ k.transpose(0, 2, 1))
    if capture.allowed is not None:
        P = P * capture.allowed.numpy()
    P = P / P.sum(-1, keepdims=True)
    if scope == "ssm":
        return P
    vectors = P[..., None] * v[:, None]  # (H, L, L, d)
    if scope == "contribution":
        return np.sqrt((vectors**2).sum((0, 3)))[None]
    heads = np.split(capture.out_weight.numpy(), len(q), axis=1)
    return sum(np.einsum("md,ijd->mij", W, x) for W, x in zip(heads, vectors, strict=True))


def log_change(before, after):
    return np.log(np.abs(after)) - np.log(np.abs(before))


def residual(M, i, j, k):
    """Of each channel; NaN where both products are 0."""
    two, one = M[:, i, j] * M[:, j, k], M[:, i, k] * M[:, j, j]
    with np.errstate(invalid="ignore"):
        return np.abs(two - one) / (np.abs(two) + np.abs(one))


def effective_rank(block):
    s = np.linalg.svd(block, compute_uv=False)
    p = s[s > 0] / s.sum()
    return np.exp(-(p * np.log(p)).sum())


def mass(W, sees, similarity):
    """Observed and expected share, with the lag profile's fixed point as an eigenvector."""
    L = len(W)
    P = np.array([[W[i, j] / sum(W[i][sees[i]]) if sees[i, j] else 0.0 for j in range(L)] for i in range(L)])
    lags = range(-L + 1, L)
    pairs = {k: [(i, i - k) for i in range(L) if 0 <= i - k < L and sees[i, i - k]] for k in lags}
    # T -> u -> T is linear: its positive eigenvector is the fixed point.
    step = np.zeros((L, L))
    for i in range(L):
        for j in range(L):
            if sees[i, j]:
                for row, key in pairs[i - j]:
                    step[i, row] += P[row, key] / len(pairs[i - j])
    values, vectors = np.linalg.eig(step)
    T = np.abs(vectors[:, values.real.argmax()].real)
    u = {k: np.mean([P[i, j] * T[i] for i, j in pairs[k]]) if pairs[k] else 0.0 for k in lags}
    observed, expected, rows = 0.0, 0.0, 0
    for i in range(L):
        keys = [j for j in range(L) if sees[i, j]]
        least = sorted(keys, key=lambda j: similarity[i, j])[: len(keys) // 4]
        if least:
            rows += 1
            observed += sum(P[i, j] for j in least)
            expected += sum(u[i - j] for j in least) / sum(u[i - j] for j in keys)
    return observed / rows, expected / rows
