import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.theory import CLAIMS, Case, Claim, check

cases = st.builds(
    Case.random,
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 2),
    channels=st.integers(1, 4),
    states=st.integers(2, 6),
    length=st.integers(4, 40),
    residual=st.sampled_from(["none", "initial", "elemental"]),
    mask_diagonal=st.booleans(),
    reverse=st.booleans(),
)
DROPPED = [(claim, name) for claim in CLAIMS.values() for name in claim.assumptions]


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.id)
@given(case=cases)
def test_claim_holds_under_its_assumptions(claim: Claim, case: Case):
    verdict = check(claim, case)
    assert verdict.holds, f"{claim.statement}: deviation {verdict.deviation:.2e}"


@pytest.mark.parametrize(("claim", "dropped"), DROPPED, ids=lambda x: x.id if isinstance(x, Claim) else x)
@pytest.mark.parametrize("reverse", [False, True])
def test_claim_fails_without_each_assumption(claim, dropped, reverse):
    verdict = check(claim, Case.random(3, reverse=reverse), dropped)
    assert verdict.deviation > 1e4 * verdict.tolerance, (
        f"{claim.id} still holds without: {claim.assumptions[dropped]}"
    )


def test_the_table_names_the_claims_of_this_version():
    assert list(CLAIMS) == [
        "equivalence",
        "causality",
        "carry",
        "decay-bound",
        "exponential",
        "adjoint",
        "initial-column",
        "double-diagonal",
        "class-first",
    ]


def test_margin_and_refusals():
    verdict = check(CLAIMS["equivalence"], Case.random(0))
    assert verdict.margin == pytest.approx(verdict.tolerance / verdict.deviation)
    with pytest.raises(ValueError, match="dropped: 'luck' is none of carry's assumptions"):
        check(CLAIMS["carry"], Case.random(0), "luck")
    with pytest.raises(ValueError, match="length: 3; wanted at least 4"):
        Case.random(0, length=3)
