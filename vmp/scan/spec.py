"""The definition of the selective scan: one loop over time, one step a line. Every backend is tested against it.

For each batch item and channel, with A[n] < 0 and delta_t >= 0,

    Abar_t[n] = exp(delta_t A[n])
    h_t[n]    = Abar_t[n] h_{t-1}[n] + delta_t B_t[n] u_t
    y_t       = sum_n C_t[n] h_t[n] + D u_t
    out_t     = y_t silu(z_t)                               where z is given

The residual "elemental" adds Abar_t[n] u_t to h_t[n]. With the mask, y_t reads Abar_t[n] h_{t-1}[n] in place of h_t[n];
with `masked_first_step="skip_only"` besides, the first step taken reads nothing, so that its y is D u alone.

Source: Gu and Dao, arXiv 2312.00752, section 3.2 (the scan), and the mamba_ssm package (arguments, gate, softplus);
Lu, Salah and Poppe, arXiv 2406.19006 (the mask, and the residual). Their released code has the residual "initial" and
the first masked step "skip_only"; "elemental" is our reading of the paper's text.
"""

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from vmp.scan.call import ScanCall


def supports(call: ScanCall) -> str | None:
    """Return None, as this backend serves every call."""
    return None


def scan(call: ScanCall) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """Run the scan as it is defined; autograd gives the gradients.

    Returns:
        The output (B, D, L) and the state after the last step (B, D, N), both in `call.compute_dtype`.
    """
    h = call.initial_state()
    call = call.upcast()
    u, delta, A = call.u, step_sizes(call), call.A
    B = _every_channel_and_step(call.B, call)
    C = _every_channel_and_step(call.C, call)

    y: list[Tensor] = []
    steps = list(zip(u.unbind(2), delta.unbind(2), B.unbind(3), C.unbind(3), strict=True))
    for u_t, delta_t, B_t, C_t in reversed(steps) if call.reverse else steps:
        Abar_t = torch.exp(delta_t[:, :, None] * A)
        decayed = Abar_t * h
        own = delta_t[:, :, None] * B_t * u_t[:, :, None]
        if call.residual == "elemental":
            own = own + Abar_t * u_t[:, :, None]
        h = decayed + own
        seen = decayed if call.mask_diagonal else h
        read = (C_t * seen).sum(dim=2)
        y.append(torch.zeros_like(read) if call.silent_start and not y else read)
    if call.reverse:
        y.reverse()
    return finished(torch.stack(y, dim=2) if y else torch.zeros_like(u), call), h


def step_sizes(call: ScanCall) -> Float[Tensor, "B D L"]:
    """Return delta after bias and softplus, which is torch's: linear above 20, as in mamba_ssm."""
    delta = call.delta if call.delta_bias is None else call.delta + call.delta_bias[:, None]
    return F.softplus(delta) if call.delta_softplus else delta


def finished(y: Float[Tensor, "B D L"], call: ScanCall) -> Float[Tensor, "B D L"]:
    """Return the output for what the steps read of the state: the direct path added, then the gate applied."""
    if call.D is not None:
        y = y + call.D[:, None] * call.u
    return y if call.z is None else y * F.silu(call.z)


def _every_channel_and_step(grouped: Float[Tensor, "B1 G N L1"], call: ScanCall) -> Float[Tensor, "B D N L"]:
    """Return B or C with a row for every channel and a column for every step."""
    batch, channels, length = call.u.shape
    rows = repeat(grouped, "b g n l -> b (g r) n l", r=channels // grouped.shape[1])
    return rows.expand(batch, channels, call.A.shape[1], length)
