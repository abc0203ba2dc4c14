"""The claims of math.md section 5 as data: statement, assumptions, prediction, tolerance, source.

`CLAIMS` is the table. `check` measures how far a scan is from a claim's prediction, either with all its assumptions
met or with one of them dropped on purpose; a claim that still held then would say nothing. All of it runs in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.implicit import ImplicitAttention
from analysis.reduce import LagProfile, reduce
from vmp.config import TokenLayout
from vmp.scan import selective_scan


@final
@dataclass(frozen=True, eq=False)
class Case:
    """One scan: its terms, its input and its options, in the letters of math.md section 1. Float64."""

    u: Float[Tensor, "B D L"]
    delta: Float[Tensor, "B D L"]
    A: Float[Tensor, "D N"]
    B: Float[Tensor, "B N L"]
    C: Float[Tensor, "B N L"]
    D: Float[Tensor, " D"]
    residual: str = "none"
    mask_diagonal: bool = False
    reverse: bool = False

    @classmethod
    def random(
        cls,
        seed: int,
        batch: int = 2,
        channels: int = 3,
        states: int = 4,
        length: int = 12,
        residual: str = "none",
        mask_diagonal: bool = False,
        reverse: bool = False,
    ) -> Case:
        """Normal u, B, C and D; steps in (0, 1); rates in (-4, 0). ``length`` at least 4."""
        if length < 4:
            raise ValueError(
                f"length: {length}; wanted at least 4, so that every claim has pairs to speak of"
            )
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g, dtype=torch.float64) + 1e-3

        return cls(
            u=normal(batch, channels, length),
            delta=uniform(batch, channels, length),
            A=-4 * uniform(channels, states),
            B=normal(batch, states, length),
            C=normal(batch, states, length),
            D=normal(channels),
            residual=residual,
            mask_diagonal=mask_diagonal,
            reverse=reverse,
        )

    @property
    def length(self) -> int:
        return self.u.shape[-1]

    def matrix(self) -> Float[Tensor, "B D L L"]:
        """alpha, dense."""
        return ImplicitAttention(
            self.delta,
            self.A,
            self.B,
            self.C,
            residual=self.residual,
            mask_diagonal=self.mask_diagonal,
            reverse=self.reverse,
        ).dense()

    def scan(self, u: Float[Tensor, "B D L"] | None = None) -> Float[Tensor, "B D L"]:
        """y, by the definition."""
        return selective_scan(
            self.u if u is None else u,
            self.delta,
            self.A,
            self.B,
            self.C,
            self.D,
            residual=self.residual,
            mask_diagonal=self.mask_diagonal,
            reverse=self.reverse,
            backend="spec",
        )


@final
@dataclass(frozen=True)
class Claim:
    """One row of the table.

    ``assumptions`` maps a name to what is assumed. ``deviation(case, dropped)`` is the largest departure from the
    prediction, relative to the size of what is compared; it brings ``case`` under the assumptions, all but the one
    named by ``dropped``. The claim holds where the deviation is at most ``tolerance``, which is the rounding of sums
    of L N float64 terms.
    """

    id: str
    statement: str
    assumptions: Mapping[str, str]
    deviation: Callable[[Case, str | None], float]
    source: str
    tolerance: float = 1e-10


@final
@dataclass(frozen=True)
class Verdict:
    """``margin`` is tolerance / deviation: above 1 the claim holds."""

    claim: str
    dropped: str | None
    deviation: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.deviation <= self.tolerance

    @property
    def margin(self) -> float:
        return self.tolerance / self.deviation if self.deviation else float("inf")


def check(claim: Claim, case: Case, dropped: str | None = None) -> Verdict:
    """Measure one claim on one scan. Raises ValueError where ``dropped`` is none of the claim's assumptions."""
    if dropped is not None and dropped not in claim.assumptions:
        raise ValueError(
            f"dropped: {dropped!r} is none of {claim.id}'s assumptions {sorted(claim.assumptions)}"
        )
    return Verdict(claim.id, dropped, claim.deviation(case, dropped), claim.tolerance)


def _equivalence(case: Case, dropped: str | None) -> float:
    if dropped == "same steps":
        y = selective_scan(
            case.u, case.delta, case.A, case.B, case.C, case.D, delta_softplus=True, backend="spec",
            residual=case.residual, mask_diagonal=case.mask_diagonal, reverse=case.reverse,
        )  # fmt: skip
    else:
        y = case.scan()
    by_matrix = torch.einsum("bdij,bdj->bdi", case.matrix(), case.u) + case.D[:, None] * case.u
    return _apart(by_matrix, y)


def _causality(case: Case, dropped: str | None) -> float:
    # By the definition's derivative, as the matrix is zero there by construction.
    jacobian = _jacobian(case)
    if dropped == "one direction":
        jacobian = jacobian + _jacobian(replace(case, reverse=not case.reverse))
    unseen = jacobian.tril(-1) if case.reverse else jacobian.triu(1)
    return _apart(unseen, torch.zeros_like(unseen), scale=jacobian)


def _carry(case: Case, dropped: str | None) -> float:
    if dropped == "one start":
        case = replace(case, residual="initial")
    whole = case.scan()
    return max(
        _apart(_in_two(case, split, dropped), whole) for split in (1, case.length // 2, case.length - 1)
    )


def _in_two(case: Case, split: int, dropped: str | None) -> Float[Tensor, "B D L"]:
    """The scan of the tokens before ``split`` and of those from it on, the state carried from one to the other."""
    first, second = slice(0, split), slice(split, case.length)
    state: Tensor | None = None
    residual, parts = case.residual, []
    for part in (second, first) if case.reverse else (first, second):
        y, last = selective_scan(
            case.u[..., part], case.delta[..., part], case.A, case.B[..., part], case.C[..., part], case.D,
            return_last_state=True, h0=state, residual=residual, mask_diagonal=case.mask_diagonal,
            reverse=case.reverse, backend="spec",
        )  # fmt: skip
        parts.append(y)
        if dropped is None:
            state = last
            residual = "none" if residual == "initial" else residual
    return torch.cat(parts[::-1] if case.reverse else parts, -1)


def _decay_bound(case: Case, dropped: str | None) -> float:
    case = replace(case, residual="none")
    if dropped == "negative rates":
        case = replace(case, A=-case.A)
    elif dropped == "positive steps":
        case = replace(case, delta=-case.delta)
    elif dropped == "no residual":
        case = replace(case, residual="elemental", delta=case.delta * 1e-3)
    delta, B, C = (x.flip(-1) if case.reverse else x for x in (case.delta, case.B, case.C))
    S = delta.cumsum(-1)
    slowest = case.A.abs().amin(-1)[:, None, None]
    exponent = -slowest * (S[..., :, None] - S[..., None, :])
    size = C.abs().sum(1)[:, None, :, None] * (B.abs().amax(1)[:, None] * delta)[..., None, :]
    bound = size * torch.exp(exponent).tril()
    alpha = case.matrix().abs()
    excess = ((alpha.flip((-2, -1)) if case.reverse else alpha) - bound).clamp(min=0)
    return _apart(excess, torch.zeros_like(excess), scale=bound)


def _exponential(case: Case, dropped: str | None) -> float:
    states = slice(0, 2 if dropped == "one state" else 1)
    case = replace(
        case,
        u=case.u[:, :1],
        delta=case.delta[:, :1]
        if dropped == "constant step"
        else case.delta[:, :1, :1].expand_as(case.u[:, :1]),
        A=case.A[:1, states],
        B=_held(case.B[:, states], dropped != "constant B"),
        C=_held(case.C[:, states], dropped != "constant C"),
        D=case.D[:1],
        residual="initial" if dropped == "no initial residual" else "none",
        mask_diagonal=False,
    )
    matrix = ImplicitAttention(
        case.delta, case.A, case.B, case.C, residual=case.residual, reverse=case.reverse
    )
    profile = reduce(matrix, [LagProfile()])["LagProfile"].mean
    lag = torch.arange(case.length)
    rate = case.A[0, 0].abs() * case.delta[:, 0, :1]
    return _apart(profile / profile[:, :1], torch.exp(-rate * lag))


def _adjoint(case: Case, dropped: str | None) -> float:
    u = case.u.clone().requires_grad_()
    cotangent = case.u.flip(0).roll(1, -1)
    if dropped == "steps fixed":
        y = replace(case, delta=torch.nn.functional.softplus(u)).scan(u)
        case = replace(case, delta=torch.nn.functional.softplus(case.u))
    else:
        y = case.scan(u)
    (by_gradient,) = torch.autograd.grad(y, u, cotangent)
    skip = case.D[:, None] * cotangent
    transposed = torch.einsum("bdij,bdi->bdj", case.matrix(), cotangent) + skip
    return max(_apart(transposed, by_gradient), _apart(_other_order(case, cotangent) + skip, by_gradient))


def _other_order(case: Case, g: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
    """alpha transposed applied to g: the recurrence that runs the other way, with B and C in each other's place."""

    def ordered(x: Tensor) -> Tensor:
        return x.flip(-1) if case.reverse else x

    delta, B, C, g = ordered(case.delta), ordered(case.B), ordered(case.C), ordered(g)
    state = torch.zeros_like(case.A) + torch.zeros_like(g[..., :1])
    out = torch.zeros_like(g)
    for t in range(case.length - 1, -1, -1):
        read = C[:, None, :, t] * g[..., t, None]
        seen = state if case.mask_diagonal else state + read
        write = delta[..., t, None] * B[:, None, :, t]
        if case.residual == "elemental":
            write = write + torch.exp(delta[..., t, None] * case.A)
        out[..., t] = (seen * write).sum(-1)
        if case.residual == "initial" and t == 0:
            # The state before the first step is in every output, the masked first one too.
            out[..., t] += (torch.exp(delta[..., t, None] * case.A) * (state + read)).sum(-1)
        state = torch.exp(delta[..., t, None] * case.A) * (state + read)
    return ordered(out)


def _initial_column(case: Case, dropped: str | None) -> float:
    plain = replace(case, residual="none").matrix()
    residual = "elemental" if dropped == "initial residual" else "initial"
    changed = replace(case, residual=residual).matrix() - plain
    column = -1 if case.reverse else 0
    elsewhere = changed.clone()
    elsewhere[..., column] = 0
    return _apart(elsewhere, torch.zeros_like(elsewhere), scale=changed)


def _double_diagonal(case: Case, dropped: str | None) -> float:
    case = replace(case, residual="none" if case.residual == "initial" else case.residual, reverse=False)
    forward = replace(case, mask_diagonal=False)
    if dropped == "no initial residual":
        forward = replace(forward, residual="initial")
    backward = replace(forward, reverse=True)
    if dropped == "equal parameters":
        backward = replace(backward, C=2 * backward.C)
    diagonal = forward.matrix().diagonal(dim1=-2, dim2=-1)
    twice = diagonal + backward.matrix().diagonal(dim1=-2, dim2=-1)
    once = diagonal + replace(backward, mask_diagonal=True).matrix().diagonal(dim1=-2, dim2=-1)
    return max(_apart(twice, 2 * diagonal), _apart(once, diagonal))


def _class_first(case: Case, dropped: str | None) -> float:
    place = "middle" if dropped == "class token first" else "first"
    layout = TokenLayout.video(case.length - 1, (1, 1), place)
    matrix = replace(case, reverse=dropped == "forward direction").matrix()
    (position,) = layout.class_positions
    row = matrix[..., position, :].clone()
    row[..., position] = 0
    return _apart(row, torch.zeros_like(row), scale=matrix)


CLAIMS: Mapping[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "equivalence",
            "scan output = alpha u + D u, with every option",
            {"same steps": "the matrix is built from the steps that the scan takes, after softplus"},
            _equivalence,
            "Ali, Zimerman and Wolf, arXiv 2403.01590, section 3; the options are ours",
        ),
        Claim(
            "causality",
            "alpha_ij = 0 for j > i; in reverse, for j < i",
            {"one direction": "the matrix is that of one direction, not of a bidirectional sum"},
            _causality,
            "Ali, Zimerman and Wolf, arXiv 2403.01590, section 3",
        ),
        Claim(
            "carry",
            "splitting the sequence anywhere and carrying the state changes nothing",
            {
                "state carried": "the second part starts from the first part's last state",
                "one start": "the initial residual sets the state of the first part alone",
            },
            _carry,
            "Gu and Dao, arXiv 2312.00752, section 3.3",
        ),
        Claim(
            "decay-bound",
            "abs(alpha_ij) <= norm1(C_i) norminf(B_j) delta_j exp(-min_n abs(A[n]) (S_i - S_j))",
            {
                "negative rates": "A < 0",
                "positive steps": "delta > 0",
                "no residual": "the residual gives a token weight that does not shrink with its step",
            },
            _decay_bound,
            "ours; historical decay is named in arXiv 2406.19006, section 3",
        ),
        Claim(
            "exponential",
            "the lag profile is exactly exponential with rate abs(A) delta",
            {
                "one state": "N = 1",
                "constant step": "delta is the same at every token",
                "constant B": "B is the same at every token",
                "constant C": "C is the same at every token",
                "no initial residual": "the initial residual adds to column 1 alone",
            },
            _exponential,
            "ours",
        ),
        Claim(
            "adjoint",
            "vector-Jacobian product of the scan in u = transposed matrix = recurrence in the other order",
            {"steps fixed": "delta, B and C do not depend on u"},
            _adjoint,
            "ours",
        ),
        Claim(
            "initial-column",
            "the initial residual changes column 1 of alpha alone; in reverse, column L",
            {"initial residual": "the residual is given to the first token only"},
            _initial_column,
            "ours; the residual is that of the code released with arXiv 2406.19006",
        ),
        Claim(
            "double-diagonal",
            "both directions together have twice the forward diagonal; with the backward one masked, once",
            {
                "equal parameters": "both directions have the same parameters",
                "no initial residual": "each direction would give it to another token",
            },
            _double_diagonal,
            "Lu, Salah and Poppe, arXiv 2406.19006, section 3",
        ),
        Claim(
            "class-first",
            "with the class token first, its row of the forward matrix is zero off the diagonal",
            {
                "class token first": "no token comes before the class token",
                "forward direction": "the steps run from the first token to the last",
            },
            _class_first,
            "ours",
        ),
    )
}
"""The claims by id, in the order of math.md section 5."""


def _apart(a: Tensor, b: Tensor, scale: Tensor | None = None) -> float:
    """Largest difference, relative to the largest entry of ``scale`` (of ``b`` where None); inf where not finite."""
    size = (b if scale is None else scale).abs().max()
    apart = ((a - b).abs().max() / size).item()
    return apart if torch.isfinite(torch.tensor(apart)) else float("inf")


def _held(x: Float[Tensor, "B N L"], constant: bool) -> Float[Tensor, "B N L"]:
    return x[..., :1].expand_as(x) if constant else x


def _jacobian(case: Case) -> Float[Tensor, "B D L L"]:
    """dy_i / du_j of the scan's definition, channel by channel."""
    u = case.u.clone().requires_grad_()
    y = case.scan(u)
    rows = [torch.autograd.grad(y[..., i].sum(), u, retain_graph=True)[0] for i in range(case.length)]
    return torch.stack(rows, dim=-2)
