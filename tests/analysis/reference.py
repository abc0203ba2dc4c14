"""The matrix by its meaning: what the recurrence, in plain numpy, answers to one unit at one token."""

import numpy as np


def recurrence(u, delta, A, B, C, *, h0=None, residual="none", mask=False, reverse=False, skip_first=False):
    """y without D, (D, L), for one clip. B and C are (N, L) or (D, N, L)."""
    order = slice(None, None, -1) if reverse else slice(None)
    u, delta = u[:, order], delta[:, order]
    B, C = np.broadcast_to(B, (*A.shape, B.shape[-1])), np.broadcast_to(C, (*A.shape, C.shape[-1]))
    B, C = B[..., order], C[..., order]
    h = np.zeros(A.shape) if h0 is None else h0
    if residual == "initial" and u.shape[1]:
        h = np.repeat(u[:, :1], A.shape[1], axis=1)
    y = np.zeros_like(u)
    for t in range(u.shape[1]):
        decay = np.exp(delta[:, t, None] * A)
        before = decay * h
        h = before + delta[:, t, None] * B[..., t] * u[:, t, None]
        if residual == "elemental":
            h = h + decay * u[:, t, None]
        y[:, t] = (C[..., t] * (before if mask else h)).sum(1)
        if mask and skip_first and t == 0:
            y[:, t] = 0
    return y[:, order]


def impulse_matrix(delta, A, B, C, **options):
    """alpha (D, L, L) for one clip, column by column."""
    D, L = delta.shape
    columns = []
    for j in range(L):
        unit = np.zeros((D, L))
        unit[:, j] = 1
        columns.append(recurrence(unit, delta, A, B, C, **options))
    return np.stack(columns, axis=-1) if L else np.zeros((D, 0, 0))
