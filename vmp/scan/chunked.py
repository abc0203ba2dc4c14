"""The selective scan in plain torch, a chunk of tokens at a time. It is differentiable and runs on any device.

Within a chunk, the recurrence h_t = a_t h_{t-1} + x_t is solved by recursive doubling. The pair (a_t, x_t) stands for
a window of steps that ends at t, and a window joins the one before it by (a, x) o (a', x') = (a' a, a' x + x'). After
log2(chunk) joins, every window reaches back to the boundary of its chunk. Only delta_t A is ever exponentiated, so no
exponent is positive, and nothing is divided: a decay that underflows is 0 and so is its gradient.

Source: Blelloch, "Prefix sums and their applications" (1990), section 1.4, for the pair; the doubling is
Hillis and Steele, "Data parallel algorithms" (1986).
"""

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vmp.scan.call import ScanCall
from vmp.scan.spec import finished, step_sizes

CHUNK = 64


def supports(call: ScanCall) -> str | None:
    """Return None, as this backend serves every call."""
    return None


def scan(call: ScanCall) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """Run the scan chunk by chunk.

    Where gradients are wanted, a chunk keeps its inputs only and is run again in the backward pass. The memory is then
    that of one chunk's states, (B, D, N, CHUNK) a few times over, beside one state for each chunk.

    Returns:
        The output (B, D, L) and the state after the last step (B, D, N), both in `call.compute_dtype`.
    """
    h = call.initial_state()
    call = call.upcast()
    length = call.u.shape[2]
    ordered = [torch.flip(x, [-1]) if call.reverse else x for x in (call.u, step_sizes(call), call.B, call.C)]

    y = [call.u[:, :, :0]]
    for start in range(0, length, CHUNK):
        u, steps, B, C = (x if x.shape[-1] == 1 < length else x[..., start : start + CHUNK] for x in ordered)
        arguments = (h, u, steps, call.A, B, C, call.residual == "elemental", call.mask_diagonal)
        if torch.is_grad_enabled():
            y_chunk, h = checkpoint(_chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            y_chunk, h = _chunk(*arguments)
        y.append(y_chunk)

    out = torch.cat(y, dim=2)
    if call.silent_start and length:
        out = F.pad(out[:, :, 1:], (1, 0))
    return finished(out.flip(2) if call.reverse else out, call), h


def _chunk(
    h: Float[Tensor, "B D N"],
    u: Float[Tensor, "B D K"],
    delta: Float[Tensor, "B D K"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B1 GB N K1"],
    C: Float[Tensor, "B2 GC N K2"],
    elemental: bool,
    mask_diagonal: bool,
) -> tuple[Float[Tensor, "B D K"], Float[Tensor, "B D N"]]:
    """Return what one chunk's steps read of the state, and the state after them, from the state before them."""
    channels = u.shape[1]
    B, C = (repeat(x, "b g n k -> b (g r) k n", r=channels // x.shape[1]) for x in (B, C))
    Abar = torch.exp(delta[..., None] * A[:, None, :])
    own = (delta * u)[..., None] * B
    if elemental:
        own = own + Abar * u[..., None]
    after = _states(Abar, own, h)
    before = torch.cat([h[:, :, None], after[:, :, :-1]], dim=2)
    seen = Abar * before if mask_diagonal else after
    return (C * seen).sum(dim=3), after[:, :, -1]


def _states(
    Abar: Float[Tensor, "B D K N"], own: Float[Tensor, "B D K N"], h: Float[Tensor, "B D N"]
) -> Float[Tensor, "B D K N"]:
    """Return the state after every step of a chunk that begins from `h`, by recursive doubling."""
    decay, state = Abar, torch.cat([own[:, :, :1] + Abar[:, :, :1] * h[:, :, None], own[:, :, 1:]], dim=2)
    reach = 1
    while reach < own.shape[2]:
        joined = state[:, :, reach:] + decay[:, :, reach:] * state[:, :, :-reach]
        state = torch.cat([state[:, :, :reach], joined], dim=2)
        decay = torch.cat([decay[:, :, :reach], decay[:, :, reach:] * decay[:, :, :-reach]], dim=2)
        reach *= 2
    return state
