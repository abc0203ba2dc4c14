"""Single entries of a matrix as sign and logarithm, so that no relation is too weak to be compared.

A scan's entry is a sum over states of terms c exp(A S) with an exponent of at most 0. Far apart every term may lie
below the smallest number of the scan's dtype, so the exponential of the slowest state is taken out before the sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.capture import AttentionCapture, Capture
from analysis.implicit import Folds, ImplicitAttention
from analysis.weights import Scope, scoped

TERMS = 2**21
"""Terms that are held at once: 8 MB a float32 array."""


@final
@dataclass(frozen=True, eq=False)
class Entries:
    """M_ij at P pairs, channel by channel: ``sign`` -1, 0 or 1, and ``log`` ln abs(M_ij), -inf where M_ij is 0."""

    sign: Float[Tensor, "D P"]
    log: Float[Tensor, "D P"]

    def at(self, pairs: Int[Tensor, " p"]) -> "Entries":
        return Entries(self.sign[:, pairs], self.log[:, pairs])


def entries(
    capture: Capture | AttentionCapture,
    scopes: Sequence[Scope],
    rows: Int[Tensor, " P"],
    columns: Int[Tensor, " P"],
) -> dict[Scope, Entries]:
    """M at (rows[p], columns[p]) for every p, in each scope.

    Channels are those of the scope: the scan's, or heads, or outputs; ``contribution`` has one, the norm.

    Args:
        capture: one direction of one layer, of one clip (B = 1).
        rows, columns: in steps of the scan, so that i > j is "i after j" in either direction.
    """
    rows, columns = rows.to(capture.hidden.device), columns.to(capture.hidden.device)
    if isinstance(capture, AttentionCapture):
        found = _of_attention(capture, scopes, rows, columns)
        return {scope: Entries(found[scope].sign.cpu(), found[scope].log.cpu()) for scope in scopes}
    # The widest scope asked for decides what surrounds alpha; the narrower ones are met on the way.
    widest = next((s for s in ("contribution", "mixer") if s in scopes), "ssm")
    folded = scoped(capture, widest).folded()
    assert folded is not None  # Every scope of a scan has that form.
    scan, folds = folded
    step = max(1, TERMS // (scan.channels * scan.A.shape[1]))
    parts = [
        _of_scan(scan, folds, scopes, rows[at : at + step], columns[at : at + step])
        for at in range(0, max(len(rows), 1), step)
    ]
    return {
        scope: Entries(
            torch.cat([part[scope].sign for part in parts], 1).cpu(),
            torch.cat([part[scope].log for part in parts], 1).cpu(),
        )
        for scope in scopes
    }


def logits(
    capture: Capture | AttentionCapture, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]
) -> Float[Tensor, "H P"] | None:
    """scale q_i . k_j of self-attention; None for a scan, which has none."""
    if isinstance(capture, Capture):
        return None
    q, k = capture.q[0], capture.k[0]
    rows, columns = rows.to(q.device), columns.to(q.device)
    return capture.scale * (q[:, rows].double() * k[:, columns].double()).sum(-1)


def _of_attention(
    capture: AttentionCapture, scopes: Sequence[Scope], rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]
) -> dict[Scope, Entries]:
    log_p = _log_softmax(capture, rows, columns)
    found: dict[Scope, Entries] = {"ssm": Entries((log_p > -torch.inf).double(), log_p)}
    values = capture.v[0].double()[:, columns]  # (H, P, d)
    if "mixer" in scopes:
        weight = capture.out_weight.double().unflatten(1, (len(values), -1))  # (M, H, d)
        top = log_p.amax(0).clamp(min=torch.finfo(torch.float64).min)
        total = torch.einsum("mhd,hpd,hp->mp", weight, values, (log_p - top).exp())
        found["mixer"] = Entries(total.sign(), total.abs().log() + top)
    if "contribution" in scopes:
        found["contribution"] = _norm(log_p + values.norm(dim=-1).log())
    return {scope: found[scope] for scope in scopes}


def _log_softmax(
    capture: AttentionCapture, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]
) -> Float[Tensor, "H P"]:
    """ln P at the pairs: logits less the log of the row's sum over the keys that it may see."""
    s = logits(capture, rows, columns)
    assert s is not None
    distinct, place = rows.unique(return_inverse=True)
    q, k = capture.q[0].double()[:, distinct], capture.k[0].double()
    of_rows = capture.scale * q @ k.transpose(-1, -2)  # (H, rows, L)
    allowed = capture.allowed
    seen = of_rows if allowed is None else of_rows.masked_fill(~allowed[distinct], -torch.inf)
    log_p = s - seen.logsumexp(-1)[:, place]
    if allowed is not None:
        log_p = log_p.masked_fill(~allowed[rows, columns], -torch.inf)
    if capture.class_sets is None:
        return log_p
    # A class token's row is the mean of one softmax over each set.
    sets = [
        (s - of_rows.masked_fill(~keys, -torch.inf).logsumexp(-1)[:, place]).masked_fill(
            ~keys[columns], -torch.inf
        )
        for keys in capture.class_sets
    ]
    mean = torch.stack(sets).logsumexp(0) - math.log(len(sets))
    of_class = torch.isin(rows, torch.tensor(capture.layout.class_positions, device=rows.device))
    return torch.where(of_class, mean, log_p)


def _of_scan(
    scan: ImplicitAttention,
    folds: Folds,
    scopes: Sequence[Scope],
    rows: Int[Tensor, " P"],
    columns: Int[Tensor, " P"],
) -> dict[Scope, Entries]:
    """gate_i sum over taps and their sources s of (alpha_is + D [s = i]) slope_s tap scale_j, alpha_ij on the way."""
    alpha, top = _alpha(scan, rows, columns)
    found: dict[Scope, Entries] = {"ssm": Entries(alpha.sign(), alpha.abs().log() + top)}
    if "mixer" not in scopes and "contribution" not in scopes:
        return found
    taps = folds.taps.double()
    sums, tops = [], []
    for tap in range(taps.shape[1]):
        source = columns - folds.ahead * tap
        inside = (source >= 0) & (source <= rows)
        source = source.clamp(0, scan.length - 1).minimum(rows)
        if tap:
            alpha, top = _alpha(scan, rows, source)
        own = source == rows  # There the exponent is 0 and the skip joins.
        through = alpha + folds.skip.double()[:, None] * own
        sums.append(through * folds.slope[0][:, source].double() * taps[:, tap, None] * inside)
        tops.append(top)
    highest = torch.stack(tops).amax(0)
    total = torch.stack([part * (top - highest).exp() for part, top in zip(sums, tops, strict=True)]).sum(0)
    total = total * folds.gate[0].double()[:, rows]
    found["mixer"] = Entries(total.sign(), total.abs().log() + highest)
    if folds.squares:
        found["contribution"] = _norm(found["mixer"].log + folds.scale[0].double()[:, columns].abs().log())
    return {scope: found[scope] for scope in scopes}


def _norm(log: Float[Tensor, "D P"]) -> Entries:
    """The norm over channels."""
    norm = 0.5 * torch.logsumexp(2 * log, 0, keepdim=True)
    return Entries((norm > -torch.inf).double(), norm)


def _alpha(
    scan: ImplicitAttention, rows: Int[Tensor, " P"], source: Int[Tensor, " P"]
) -> tuple[Float[Tensor, "D P"], Float[Tensor, "D P"]]:
    """alpha_is for s <= i as a sum and the exponent that was taken out of it; 0 for the sum where s > i."""
    rate, step = scan._rate, scan._step[0][:, None, source]
    C, B = (scan._spread(x)[0] for x in (scan._output, scan._input))
    w = step * B[..., source]
    if scan.residual == "elemental":
        w = w + torch.exp(rate * step)
    elif scan.residual == "initial":
        w = w + torch.exp(rate * step) * (source == 0)
    if scan.mask_diagonal:
        carried = scan.residual == "initial" and not scan._silent_start
        first = torch.exp(rate * step) * ((source == 0) & carried)
        w = torch.where(source == rows, first, w)
    lag = (scan._elapsed[0][:, rows] - scan._elapsed[0][:, source]).clamp(min=0)
    slowest = rate.amax(1, keepdim=True)
    decay = torch.exp((rate - slowest) * lag[:, None].to(rate.dtype))
    total = (C[..., rows] * w * decay).double().sum(1) * (source <= rows)
    return total, slowest[:, 0].double() * lag
