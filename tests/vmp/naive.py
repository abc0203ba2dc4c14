"""Mamba written out in loops over numpy arrays, from math.md: what the models are tested against."""

import numpy as np

# What each variant computes, written out again: mask, residual, what is scanned, first masked step, own D and
# own projections in the backward direction. None: no backward direction.
VARIANTS = {
    "mamba": None,
    "videomamba": ("keep", "none", "convolved", "carry", "D_b", "_b"),
    "mask": ("mask", "none", "convolved", "carry", "D_b", "_b"),
    "residual_initial": ("keep", "initial", "convolved", "carry", "D_b", "_b"),
    "residual_elemental": ("keep", "elemental", "convolved", "carry", "D_b", "_b"),
    "paper": ("mask", "elemental", "convolved", "carry", None, "_b"),
    "released": ("mask", "initial", "projected", "skip_only", "D", ""),
}


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def silu(value):
    return value * sigmoid(value)


def scanned(u, delta, A, B, C, D, residual, masked, first_step):
    """The recurrence of math.md, section 1, a channel and a state at a time."""
    length, channels = u.shape
    out = np.zeros_like(u)
    for d in range(channels):
        h = np.zeros(A.shape[1])
        if residual == "initial":
            h += u[0, d]
        for t in range(length):
            decayed = np.exp(delta[t, d] * A[d]) * (h + (u[t, d] if residual == "elemental" else 0))
            carried = np.exp(delta[t, d] * A[d]) * h
            h = decayed + delta[t, d] * B[t] * u[t, d]
            seen = carried if masked else h
            if masked and first_step == "skip_only" and t == 0:
                seen = np.zeros_like(h)
            out[t, d] = C[t] @ seen + (0 if D is None else D[d]) * u[t, d]
    return out


def one_direction(weights, x, z, own, rates, D, residual, masked, scan_input, first_step):
    """One direction's gated output for x and z (L, D), running from the first row."""
    length = x.shape[0]
    kernel = weights[f"conv1d{own}.weight"][:, 0]
    v = np.zeros_like(x) + weights.get(f"conv1d{own}.bias", 0)
    for i in range(length):
        for w in range(kernel.shape[1]):
            j = i - (kernel.shape[1] - 1) + w
            if j >= 0:
                v[i] += kernel[:, w] * x[j]
    active = silu(v)
    projected = active @ weights[f"x_proj{own}.weight"].T
    states = rates.shape[1]
    rank = projected.shape[1] - 2 * states
    raw = projected[:, :rank] @ weights[f"dt_proj{own}.weight"].T + weights[f"dt_proj{own}.bias"]
    B, C = projected[:, rank : rank + states], projected[:, rank + states :]
    u = active if scan_input == "convolved" else x
    return (u, np.log1p(np.exp(raw)), -np.exp(rates), B, C, D), silu(z), (residual, masked, first_step)


def mixer_output(weights, hidden, backward, halve=False):
    """The mixer's output (L, M) for one sample. `backward` is a row of VARIANTS; `weights` are by their file names."""
    residual_forward, scan_forward = ("none", "convolved") if backward is None else backward[1:3]
    both = hidden @ weights["in_proj.weight"].T + weights.get("in_proj.bias", 0)
    x, z = np.split(both, 2, axis=1)
    terms, gate, options = one_direction(
        weights, x, z, "", weights["A_log"], weights["D"], residual_forward, False, scan_forward, "carry"
    )
    total = scanned(*terms, *options) * gate
    if backward is not None:
        mask, residual, scan_input, first_step, skip, own = backward
        arguments = (weights["A_b_log"], weights[skip] if skip else None)
        arguments += (residual, mask == "mask", scan_input, first_step)
        if own == "_b":
            terms, gate, options = one_direction(weights, x[::-1], z[::-1], own, *arguments)
            total = total + (scanned(*terms, *options) * gate)[::-1]
        else:
            # The convolution runs once, forward; the scan alone turns round.
            (u, delta, A, B, C, D), gate, options = one_direction(weights, x, z, own, *arguments)
            turned = scanned(u[::-1], delta[::-1], A, B[::-1], C[::-1], D, *options)
            total = total + turned[::-1] * gate
    out = (total / 2 if halve else total) @ weights["out_proj.weight"].T + weights.get("out_proj.bias", 0)
    return out * weights.get("gamma", 1)


def rms_norm(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight


def stack_output(weights, tokens, depth, backward, halve=False):
    """The normalised last states (L, M) of one sample's tokens: Add -> Norm -> Mixer, then norm_f."""
    stream = tokens
    for i in range(depth):
        start = f"layers.{i}.mixer."
        mixer = {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}
        hidden = rms_norm(stream, weights[f"layers.{i}.norm.weight"])
        stream = stream + mixer_output(mixer, hidden, backward, halve)
    return rms_norm(stream, weights["norm_f.weight"])
