"""Matrices by their meaning, in float64 and plain numpy: what a recurrence answers to units, and loops over pairs."""

import math

import numpy as np
import torch

OPTIONS = [
    {"residual": residual, "mask_diagonal": mask, "reverse": reverse, "masked_first_step": first}
    for residual in ("none", "initial", "elemental")
    for mask in (False, True)
    for reverse in (False, True)
    for first in (("carry", "skip_only") if mask else ("carry",))
]
"""Every combination of the scan's options, as `ImplicitAttention` takes them."""


def terms(seed, batch=2, D=3, N=4, L=37, groups=None, scale=1.0):
    """delta, A, B and C of a scan at random, an input and D."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    delta = scale * torch.rand(batch, D, L, generator=g, dtype=torch.float64)
    A = -torch.rand(D, N, generator=g, dtype=torch.float64) * 4
    if groups == "constant":
        B, C = normal(D, N), normal(D, N)
    elif groups is None:
        B, C = normal(batch, N, L), normal(batch, N, L)
    else:
        B, C = normal(batch, groups, N, L), normal(batch, groups, N, L)
    return {"delta": delta, "A": A, "B": B, "C": C}, normal(batch, D, L), normal(D)


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


def alpha(t, options):
    """alpha (B, D, L, L) of `terms` with options of `ImplicitAttention`."""
    return np.stack([impulse_matrix(*parts, **_named(options)) for parts in _clips(t)])


def beta(t, options, h0):
    """What a first state answers to no input, (B, D, L)."""
    nothing = np.zeros(t["delta"].shape[1:])
    return np.stack(
        [
            recurrence(nothing, *parts, h0=state.numpy(), **_named(options))
            for parts, state in zip(_clips(t), h0, strict=True)
        ]
    )


def _named(options):
    return {
        "residual": options.get("residual", "none"),
        "mask": options.get("mask_diagonal", False),
        "reverse": options.get("reverse", False),
        "skip_first": options.get("masked_first_step") == "skip_only",
    }


def _clips(t):
    """delta, A, B and C of each clip, B and C for each channel."""
    D, N = t["A"].shape

    def per_channel(x, clip):
        if x.shape == (D, N):
            return np.broadcast_to(x.numpy()[..., None], (D, N, t["delta"].shape[-1]))
        x = x[clip].numpy()
        return x if x.ndim == 2 else np.repeat(x, D // x.shape[0], axis=0)

    for clip in range(len(t["delta"])):
        yield t["delta"][clip].numpy(), t["A"].numpy(), per_channel(t["B"], clip), per_channel(t["C"], clip)


def scan_matrices(capture):
    """The matrices of a captured scan by scope, (B, channels, L, L), and the bias term (B, D, L).

    alpha; H = diag(silu z) (alpha + D I) diag(sigmoid v) K; the vectors H_ij x_j; and these after the projection,
    under "projected".
    """
    c = capture.terms
    options = {
        name: getattr(c, name) for name in ("residual", "mask_diagonal", "reverse", "masked_first_step")
    }
    a = alpha({name: getattr(c, name) for name in ("delta", "A", "B", "C")}, options)
    x, z, weight = (t.numpy() for t in (c.x, c.z, c.conv_weight))
    _, D, L = x.shape
    width, K = weight.shape[1], np.zeros((D, L, L))
    for i in range(L):
        for tap in range(width):
            j = i + tap if c.conv_reversed else i - tap
            if 0 <= j < L:
                K[:, i, j] = weight[:, width - 1 - tap]
    b = np.zeros(D) if c.conv_bias is None else c.conv_bias.numpy()
    slope = 1 / (1 + np.exp(-(np.einsum("dij,bdj->bdi", K, x) + b[:, None])))
    if c.scan_input == "projected":
        K, slope, b = np.broadcast_to(np.eye(L), (D, L, L)), np.ones_like(x), 0 * b
    skip = np.zeros(D) if c.D is None else c.D.numpy()
    left = (c.scale * z / (1 + np.exp(-z)))[..., None] * (a + skip[:, None, None] * np.eye(L))
    H = left @ (slope[..., None] * K)
    vectors = H * x[:, :, None]
    projected = np.einsum("md,bdij->bmij", capture.out_weight.numpy(), vectors)
    bias = (left @ (slope * b[:, None])[..., None])[..., 0]
    return {"ssm": a, "mixer": H, "contribution": vectors, "projected": projected}, bias


def attention_matrices(capture):
    """The matrices of a captured self-attention by scope, (B, channels, L, L), entry by entry.

    P of each head; P v over heads after the projection, under "mixer" and "projected"; and before it.
    """
    c = capture
    q, k, v = (x.numpy() for x in (c.q, c.k, c.v))
    B, H, L, d = q.shape
    P = np.zeros((B, H, L, L))
    for b in range(B):
        for h in range(H):
            for i in range(L):
                sets = [[j for j in range(L) if c.allowed is None or c.allowed[i, j]]]
                if c.class_sets is not None and i in c.layout.class_positions:
                    sets = [[j for j in range(L) if keys[j]] for keys in c.class_sets]
                for keys in sets:
                    weights = [math.exp(c.scale * sum(q[b, h, i] * k[b, h, j])) for j in keys]
                    for j, weight in zip(keys, weights, strict=True):
                        P[b, h, i, j] += weight / math.fsum(weights) / len(sets)
    vectors = np.einsum("bhij,bhjc->bhcij", P, v).reshape(B, H * d, L, L)
    projected = np.einsum("mk,bkij->bmij", c.out_weight.numpy(), vectors)
    return {"ssm": P, "mixer": projected, "contribution": vectors, "projected": projected}
