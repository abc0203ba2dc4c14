"""The claims of math.md section 5 as data: statement, assumptions, deviation from the prediction, source, tolerance.

`CLAIMS` is the table. `check` measures how far a scan is from a claim's prediction, either with all the assumptions of
the claim met or with one of them dropped on purpose: a claim that still held then would say nothing. All verdicts are
those of float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from analysis.theory import relations, scans
from analysis.theory.case import Case

BROKEN = 1e4
"""A claim counts as broken where its deviation exceeds this many tolerances, which no rounding explains."""


@final
@dataclass(frozen=True)
class Claim:
    """One row of the table.

    Attributes:
        id: The name of the claim, and of its section in math.md.
        statement: What is claimed.
        assumptions: What is assumed, by a short name.
        deviation: A function of a case and of the name of the assumption to drop, or None. It brings the case under
            the other assumptions and returns the largest departure from the prediction, relative to the size of what
            is compared.
        source: The paper that the claim is from, or "ours".
        tolerance: The largest deviation at which the claim holds: the rounding of sums of L N float64 terms.
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
    """What one check of a claim found; `dropped` is the assumption that was left out, or None."""

    claim: str
    dropped: str | None
    deviation: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.deviation <= self.tolerance

    @property
    def broken(self) -> bool:
        """Whether no rounding explains the deviation, as has to be the case where an assumption is dropped."""
        return self.deviation > BROKEN * self.tolerance

    @property
    def margin(self) -> float:
        """The tolerance over the deviation, which is above 1 where the claim holds."""
        return self.tolerance / self.deviation if self.deviation else float("inf")


def check(claim: Claim, case: Case, dropped: str | None = None) -> Verdict:
    """Measure one claim on one scan.

    Args:
        claim: A row of the table.
        case: The scan. It is brought under the claim's assumptions first.
        dropped: The assumption that it is not brought under, or None to meet all of them.

    Raises:
        ValueError: The claim has no assumption named `dropped`.
    """
    if dropped is not None and dropped not in claim.assumptions:
        raise ValueError(
            f"dropped: {dropped!r} is none of {claim.id}'s assumptions {sorted(claim.assumptions)}"
        )
    return Verdict(claim.id, dropped, claim.deviation(case, dropped), claim.tolerance)


# fmt: off
CLAIMS: Mapping[str, Claim] = {claim.id: claim for claim in (
    Claim("equivalence", "scan output = alpha u + beta + D u, with every option",
        {"same steps": "the matrix is built from the steps that the scan takes, after softplus",
         "start counted": "beta holds what the state before the first step adds"},
        scans.equivalence, "Ali, Zimerman and Wolf, arXiv 2403.01590, section 3; the options are ours"),
    Claim("causality", "alpha_ij = 0 for j > i; in reverse, for j < i, and the matrix is the mirror image",
        {"one direction": "the matrix is that of one direction, not of a bidirectional sum",
         "terms mirrored": "the scan it mirrors has delta, B and C in the opposite order"},
        scans.causality, "Ali, Zimerman and Wolf, arXiv 2403.01590, section 3"),
    Claim("carry", "splitting the sequence anywhere and carrying the state changes nothing",
        {"state carried": "the second part starts from the first part's last state",
         "one start": "the initial residual sets the state of the first part alone"},
        scans.carry, "Gu and Dao, arXiv 2312.00752, section 3.3"),
    Claim("decay-bound", "abs(alpha_ij) <= norm1(C_i) norminf(B_j) delta_j exp(-min_n abs(A[n]) (S_i - S_j))",
        {"negative rates": "A < 0", "positive steps": "delta > 0",
         "no residual": "no residual gives a token weight that does not shrink with its step"},
        scans.decay_bound, "ours; historical decay is named in arXiv 2406.19006, section 3"),
    Claim("exponential", "the lag profile is exactly exponential with rate abs(A) delta",
        {"one state": "N = 1", "constant step": "delta is the same at every token",
         "constant B": "B is the same at every token", "constant C": "C is the same at every token",
         "no initial residual": "no initial residual adds to column 1 alone"},
        scans.exponential, "ours"),
    Claim("double-diagonal",
        "both directions together have twice the forward diagonal; with the backward one masked, once",
        {"equal parameters": "both directions have the same parameters",
         "no initial residual": "no initial residual is given, to another token by each direction"},
        scans.double_diagonal, "Lu, Salah and Poppe, arXiv 2406.19006, section 3"),
    Claim("initial-column", "the initial residual changes column 1 of alpha alone; in reverse, column L",
        {"initial residual": "the residual is given to the first token only"},
        scans.initial_column, "ours; the residual is that of the code released with arXiv 2406.19006"),
    Claim("transitivity", "alpha_ij alpha_jk = alpha_ik alpha_jj for i > j > k: two relations fix the third",
        {"one state": "N = 1",
         "one channel": "the relations are those of one channel, not of a mean over channels",
         "diagonal kept": "no mask, which makes alpha_jj zero", "between": "j lies between i and k"},
        relations.transitivity, "ours; element contradiction is named in arXiv 2406.19006, section 3"),
    Claim("semiseparable",
        "rank of alpha[m+1:, :m] <= N, with every residual; a random attention matrix exceeds it",
        {"a scan": "the matrix is a scan's and not a softmax of logits",
         "one channel": "the matrix is one channel's, not a mean over channels",
         "columns before rows": "no pair of the block is on the diagonal or beyond it"},
        relations.semiseparable, "Dao and Gu, arXiv 2405.21060, section 3; the residuals are ours"),
    Claim("mediator",
        "a new step at j changes state n's term of alpha_ik by exp(A[n] (delta'_j - delta_j)); no logit changes",
        {"one state": "the term is one state's, not the sum over states", "between": "j lies between i and k",
         "only the mediator": "no other step changes",
         "two tokens": "a logit is a function of its two tokens alone"},
        relations.mediator, "ours; element contradiction is named in arXiv 2406.19006, section 3"),
    Claim("adjoint",
        "vector-Jacobian product of the scan in u = transposed matrix = recurrence in the other order",
        {"steps fixed": "delta, B and C do not depend on u"},
        scans.adjoint, "ours"),
    Claim("class-first", "with the class token first, its row of the forward matrix is zero off the diagonal",
        {"class token first": "no token comes before the class token",
         "forward direction": "the steps run from the first token to the last"},
        scans.class_first, "ours"),
)}
# fmt: on
"""The claims by id, in the order of math.md section 5."""
