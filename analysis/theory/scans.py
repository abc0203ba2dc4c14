"""The deviation of a scan from each claim about one matrix.

Each function takes a case and the name of an assumption, or None. It brings the case under the assumptions of its
claim, all but the one named, and returns the departure from the prediction relative to the size of what is compared.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.matrix.reduce import LagProfile, reduce
from analysis.theory.case import Case, apart, entrywise
from vmp.layout import TokenLayout
from vmp.scan import selective_scan


def equivalence(case: Case, dropped: str | None) -> float:
    operator = case.operator()
    beta = operator.beta()
    if dropped == "start counted":
        case = replace(case, h0=torch.ones_like(case.A).expand(len(case.u), -1, -1), residual="none")
        operator, beta = case.operator(), torch.zeros_like(beta)
    if dropped == "same steps":
        y = replace(case, delta=torch.nn.functional.softplus(case.delta)).scan()
    else:
        y = case.scan()
    by_matrix = torch.einsum("bdij,bdj->bdi", operator.dense(), case.u) + beta + case.D[:, None] * case.u
    return apart(by_matrix, y)


def causality(case: Case, dropped: str | None) -> float:
    # The matrix is read off the definition, as the formula's is zero there by construction.
    alpha = case.responses()
    if dropped == "one direction":
        alpha = alpha + replace(case, reverse=not case.reverse).responses()
    unseen = alpha.tril(-1) if case.reverse else alpha.triu(1)
    mirrored = replace(case, reverse=not case.reverse)
    if dropped != "terms mirrored":
        mirrored = replace(mirrored, **{name: getattr(case, name).flip(-1) for name in ("delta", "B", "C")})
    mirror = mirrored.responses().flip((-2, -1))
    return max(apart(unseen, torch.zeros_like(unseen), scale=alpha), apart(mirror, alpha))


def carry(case: Case, dropped: str | None) -> float:
    if dropped == "one start":
        case = replace(case, residual="initial", h0=None)
    whole = case.scan()
    return max(
        apart(_in_two(case, split, dropped), whole) for split in (1, case.length // 2, case.length - 1)
    )


def _in_two(case: Case, split: int, dropped: str | None) -> Float[Tensor, "B D L"]:
    """Scan the tokens before `split` and those from it on, and carry the state from one part to the other."""
    first, second = slice(0, split), slice(split, case.length)
    state, options, parts = case.h0, case.options, []
    for part in (second, first) if case.reverse else (first, second):
        y, last = selective_scan(
            case.u[..., part], case.delta[..., part], case.A, case.B[..., part], case.C[..., part], case.D,
            return_last_state=True, h0=state, **options,
        )  # fmt: skip
        parts.append(y)
        if dropped == "one start":
            continue
        state = None if dropped == "state carried" else last
        # The first step of the second part is not the first of the sequence.
        options["masked_first_step"] = "carry"
        if options["residual"] == "initial":
            options["residual"] = "none"
    return torch.cat(parts[::-1] if case.reverse else parts, -1)


def decay_bound(case: Case, dropped: str | None) -> float:
    case = replace(case, residual="none")
    if dropped == "negative rates":
        case = replace(case, A=-case.A)
    elif dropped == "positive steps":
        case = replace(case, delta=-case.delta)
    elif dropped == "no residual":
        case = replace(case, residual="elemental", delta=case.delta * 1e-3)
    delta, B, C = case.ordered(case.delta), case.ordered(case.B), case.ordered(case.C)
    S = delta.cumsum(-1)
    slowest = case.A.abs().amin(-1)[:, None, None]
    # Masked before it is exponentiated: above the diagonal the exponent is positive.
    exponent = -slowest * (S[..., :, None] - S[..., None, :]).tril()
    size = C.abs().sum(1)[:, None, :, None] * (B.abs().amax(1)[:, None] * delta)[..., None, :]
    bound = (size * torch.exp(exponent)).tril()
    alpha = case.in_steps().abs()
    return entrywise(torch.maximum(alpha, bound), bound)


def exponential(case: Case, dropped: str | None) -> float:
    def constant(name: str, x: Tensor) -> Tensor:
        return x if dropped == f"constant {name}" else x[..., :1].expand_as(x)

    states = slice(0, 2 if dropped == "one state" else 1)
    case = replace(
        case,
        u=case.u[:, :1],
        delta=constant("step", case.delta[:, :1]),
        A=case.A[:1, states],
        B=constant("B", case.B[:, states]),
        C=constant("C", case.C[:, states]),
        D=case.D[:1],
        residual="initial" if dropped == "no initial residual" else "none",
        mask_diagonal=False,
        h0=None,
    )
    profile = reduce(case.operator(), [LagProfile()])["LagProfile"].mean.to(case.u.dtype)
    lag = torch.arange(case.length)
    rate = case.A[0, 0].abs() * case.delta[:, 0, :1]
    return entrywise(profile / profile[:, :1], torch.exp(-rate * lag))


@torch.enable_grad()
def adjoint(case: Case, dropped: str | None) -> float:
    u = case.u.clone().requires_grad_()
    cotangent = case.u.flip(0).roll(1, -1)
    free = dropped == "steps fixed"
    y = replace(case, u=u, delta=torch.nn.functional.softplus(u) if free else case.delta).scan()
    if free:
        case = replace(case, delta=torch.nn.functional.softplus(case.u))
    (by_gradient,) = torch.autograd.grad(y, u, cotangent)
    skip = case.D[:, None] * cotangent
    transposed = torch.einsum("bdij,bdi->bdj", case.operator().dense(), cotangent) + skip
    return max(apart(transposed, by_gradient), apart(_other_order(case, cotangent) + skip, by_gradient))


def _other_order(case: Case, g: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
    """Apply the transpose of alpha to g by the recurrence that runs the other way, with B and C exchanged."""
    delta, B, C, g = (case.ordered(x) for x in (case.delta, case.B, case.C, g))
    state = torch.zeros_like(case.A) + torch.zeros_like(g[..., :1])
    out = torch.zeros_like(g)
    for t in range(case.length - 1, -1, -1):
        read = C[:, None, :, t] * g[..., t, None]
        decay = torch.exp(delta[..., t, None] * case.A)
        seen = state if case.mask_diagonal else state + read
        write = delta[..., t, None] * B[:, None, :, t]
        if case.residual == "elemental":
            write = write + decay
        out[..., t] = (seen * write).sum(-1)
        if case.residual == "initial" and t == 0:
            # Every output holds the state before the first step, and so does the masked first one unless it is silent.
            out[..., t] += (decay * (state if case.silent_start else state + read)).sum(-1)
        state = decay * (state + read)
    return case.ordered(out)


def initial_column(case: Case, dropped: str | None) -> float:
    plain = replace(case, residual="none").responses()
    residual = "elemental" if dropped == "initial residual" else "initial"
    changed = replace(case, residual=residual).responses() - plain
    elsewhere = changed.clone()
    elsewhere[..., case.first] = 0
    return apart(elsewhere, torch.zeros_like(elsewhere), scale=changed)


def double_diagonal(case: Case, dropped: str | None) -> float:
    case = replace(case, residual="none" if case.residual == "initial" else case.residual, reverse=False)
    forward = replace(case, mask_diagonal=False)
    if dropped == "no initial residual":
        forward = replace(forward, residual="initial")
    backward = replace(forward, reverse=True)
    if dropped == "equal parameters":
        backward = replace(backward, C=2 * backward.C)
    diagonal = _diagonal(forward)
    twice = diagonal + _diagonal(backward)
    once = diagonal + _diagonal(replace(backward, mask_diagonal=True))
    return max(apart(twice, 2 * diagonal), apart(once, diagonal))


def masked_half(case: Case) -> float:
    """Measure the half of double-diagonal that holds for all parameters: a masked direction has no diagonal."""
    diagonal = _diagonal(case)
    return apart(diagonal, torch.zeros_like(diagonal), scale=_diagonal(replace(case, mask_diagonal=False)))


def _diagonal(case: Case) -> Float[Tensor, "B D L"]:
    return case.responses().diagonal(dim1=-2, dim2=-1)


def class_first(case: Case, dropped: str | None) -> float:
    layout = TokenLayout.video(
        case.length - 1, (1, 1), "middle" if dropped == "class token first" else "first"
    )
    alpha = replace(case, reverse=dropped == "forward direction").responses()
    (position,) = layout.class_positions
    row = alpha[..., position, :].clone()
    row[..., position] = 0
    return apart(row, torch.zeros_like(row), scale=alpha)
