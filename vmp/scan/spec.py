"""The selective scan, defined: one loop over time, one step a line. Every backend is tested against this one.

For each batch item and channel, with A[n] < 0 and delta_t >= 0,

    Abar_t[n] = exp(delta_t A[n])
    h_t[n]    = Abar_t[n] h_{t-1}[n] + delta_t B_t[n] u_t
    y_t       = sum_n C_t[n] h_t[n] + D u_t
    out_t     = y_t silu(z_t)                               where z is given

Residual "elemental" adds Abar_t[n] u_t to h_t[n]; the mask reads Abar_t[n] h_{t-1}[n] for h_t[n] in y_t.

Source: Gu and Dao, arXiv 2312.00752, section 3.2 (the scan) and the mamba_ssm package (arguments, gate,
softplus); Lu, Salah and Poppe, arXiv 2406.19006 (the mask, and the residual, whose released code is
"initial"; "elemental" is our reading of the paper's text).
"""

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from vmp.scan.call import ScanCall


def supports(call: ScanCall) -> str | None:
    """Why this backend cannot serve `call`: it serves every call."""
    return None


def scan(call: ScanCall) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """Output (B, D, L) and the state after the last step (B, D, N), both in `call.compute_dtype`.

    Gradients come by autograd. softplus is torch's, linear above 20, as in mamba_ssm.
    """
    h = call.initial_state()
    call = call.upcast()
    u, delta, A = call.u, call.delta, call.A
    if call.delta_bias is not None:
        delta = delta + call.delta_bias[:, None]
    if call.delta_softplus:
        delta = F.softplus(delta)
    B = _every_channel_and_step(call.B, call)
    C = _every_channel_and_step(call.C, call)

    y = []
    steps = list(zip(u.unbind(2), delta.unbind(2), B.unbind(3), C.unbind(3), strict=True))
    for u_t, delta_t, B_t, C_t in reversed(steps) if call.reverse else steps:
        Abar_t = torch.exp(delta_t[:, :, None] * A)
        decayed = Abar_t * h
        own = delta_t[:, :, None] * B_t * u_t[:, :, None]
        if call.residual == "elemental":
            own = own + Abar_t * u_t[:, :, None]
        h = decayed + own
        seen = decayed if call.mask_diagonal else h
        y.append((C_t * seen).sum(dim=2))
    if call.reverse:
        y.reverse()

    out = torch.stack(y, dim=2) if y else torch.zeros_like(u)
    if call.D is not None:
        out = out + call.D[:, None] * u
    if call.z is not None:
        out = out * F.silu(call.z)
    return out, h


def _every_channel_and_step(grouped: Float[Tensor, "B1 G N L1"], call: ScanCall) -> Float[Tensor, "B D N L"]:
    """B or C with a row for every channel and a column for every step."""
    batch, channels, length = call.u.shape
    rows = repeat(grouped, "b g n l -> b (g r) n l", r=channels // grouped.shape[1])
    return rows.expand(batch, channels, call.A.shape[1], length)
