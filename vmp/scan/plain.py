"""Every option of the scan, made from a plain scan, y_t = sum_n C_t[n] h_t[n] from h_0 = 0, by additional steps.

An option that a plain scan does not have is said by a step of the sequence. With c a power of two, the step

    delta = c,  u = v / c,  B = b        makes of h        exp(c A[n]) h[n] + b[n] v

in which every product is exact while neither v / c nor a product leaves the dtype's range. For c = `KEEP` the decay
rounds to 1 and v is added to the state: the relative error is c abs(A), nothing beside an eps for abs(A) up to 2^10.
For c = `CLEAR` the decay is 0, as it underflows for abs(A) above 2^-54, and v takes the state's place. A step of
delta = 0 with C = e_n reads state n. So, with L the scan's own steps,

    h0                   N steps ahead: the n-th adds h_0[n] to state n
    residual initial     one step ahead adds u_1 to every state
    residual elemental   one step ahead of each of the L adds u_t to every state
    last state           N steps at the end read it
    mask                 the own token's term is subtracted: u_t delta_t sum_n C_t[n] B_t[n], and with the elemental
                         residual u_t sum_n C_t[n] Abar_t[n], by a second scan in which u_t takes each state's place
    skip_only            the first masked y is set to 0

The gradients of all this are those of the plain scan. A masked output is a difference, so its rounding is in
proportion to the own token's term too. Source: ours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vmp.scan.call import ScanCall
from vmp.scan.spec import finished, step_sizes

KEEP, CLEAR = 2.0**-64, 2.0**64


class Steps(NamedTuple):
    """Some steps of a plain scan. B and C have the same groups."""

    u: Float[Tensor, "B D K"]
    delta: Float[Tensor, "B D K"]
    B: Float[Tensor, "B G N K"]
    C: Float[Tensor, "B G N K"]


Plain = Callable[[Steps, Float[Tensor, "D N"]], Float[Tensor, "B D K"]]


def complete(plain: Plain, call: ScanCall) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """Run the scan that `call` asks for on a plain scan.

    The steps ahead and at the end come on top of L steps, or of 2 L with the elemental residual; with the mask besides,
    the plain scan runs once more, over 2 L. It is never given no steps. Rows that are constant in time are written out
    for every step.

    Args:
        plain: Returns y of the plain scan over given steps, with rates A (D, N).
        call: The scan that is wanted.

    Returns:
        The output (B, D, L) and the state after the last step (B, D, N), as a backend returns them.
    """
    call = call.upcast()
    length, states = call.u.shape[2], call.A.shape[1]
    groups = math.lcm(call.B.shape[1], call.C.shape[1])
    own = Steps(call.u, step_sizes(call), _rows(call.B, call, groups), _rows(call.C, call, groups))
    if call.reverse:
        own = Steps(*(x.flip(-1) for x in own))
    every = own.B.new_ones(states, length)
    each = torch.eye(states, dtype=own.B.dtype, device=own.B.device)

    steps = own
    if call.residual == "elemental":
        steps = _alternate(_put(own.u, every, KEEP, own), own)
    elif call.residual == "initial":
        steps = _joined(_put(own.u[..., :1], every[:, :1], KEEP, own), own)
    if call.h0 is not None:
        steps = _joined(_put(call.h0, each, KEEP, own), steps)
    still = own.u.new_zeros(*own.u.shape[:2], states)
    read = each.expand(*own.C.shape[:2], -1, -1)
    begin = steps.u.shape[2]
    y = plain(_joined(steps, Steps(still, still, torch.zeros_like(read), read)), call.A)
    y, last_state = y[..., :begin], y[..., begin:]
    y = y[..., begin + 1 - 2 * length :: 2] if call.residual == "elemental" else y[..., begin - length :]

    if call.mask_diagonal:
        product = (own.C * own.B).sum(2).repeat_interleave(own.u.shape[1] // groups, 1)
        y = y - product * own.delta * own.u
        if call.residual == "elemental" and length > 0:
            decay = own._replace(u=torch.zeros_like(own.u))
            y = y - plain(_alternate(_put(own.u, every, CLEAR, own), decay), call.A)[..., 1::2]
    if call.silent_start and length > 0:
        y = F.pad(y[..., 1:], (1, 0))
    return finished(y.flip(-1) if call.reverse else y, call), last_state


def _rows(x: Float[Tensor, "B1 G1 N L1"], call: ScanCall, groups: int) -> Float[Tensor, "B G N L"]:
    x = x.repeat_interleave(groups // x.shape[1], 1)
    return x.expand(call.u.shape[0], -1, -1, call.u.shape[2])


def _put(value: Float[Tensor, "B D K"], rows: Float[Tensor, "N K"], c: float, like: Steps) -> Steps:
    """Return steps that put `value` times `rows` into the state; c says whether what it held is kept or cleared."""
    B = rows.expand(*like.B.shape[:2], *rows.shape)
    return Steps(value / c, torch.full_like(value, c), B, torch.zeros_like(B))


def _joined(first: Steps, then: Steps) -> Steps:
    return Steps(*(torch.cat(pair, dim=-1) for pair in zip(first, then, strict=True)))


def _alternate(first: Steps, then: Steps) -> Steps:
    """Return both stretches as one, a step of each in turn."""
    return Steps(*(torch.stack(pair, dim=-1).flatten(-2) for pair in zip(first, then, strict=True)))
