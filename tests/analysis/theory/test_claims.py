"""Every claim holds on generated scans that meet its assumptions and fails without each of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.capture import record
from analysis.theory import CLAIMS, Case, Claim, check
from analysis.theory.case import SHORTEST, apart, entrywise
from tests.analysis.models import clip, video_model
from tests.analysis.reference import impulse_matrix

IDS = (
    "equivalence causality carry decay-bound exponential double-diagonal initial-column transitivity semiseparable "
    "mediator adjoint class-first"
)
cases = st.builds(
    Case.random,
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 2),
    channels=st.integers(1, 4),
    states=st.integers(2, 6),
    length=st.integers(SHORTEST, 40),
    residual=st.sampled_from(["none", "initial", "elemental"]),
    mask_diagonal=st.booleans(),
    reverse=st.booleans(),
    start=st.booleans(),
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
    assert verdict.broken, f"{claim.id} still holds without: {claim.assumptions[dropped]}"


def test_the_table_its_margins_and_what_it_refuses():
    assert list(CLAIMS) == IDS.split()
    verdict = check(CLAIMS["equivalence"], Case.random(0))
    assert verdict.margin == pytest.approx(verdict.tolerance / verdict.deviation)
    with pytest.raises(ValueError, match="dropped: 'luck' is none of carry's assumptions"):
        check(CLAIMS["carry"], Case.random(0), "luck")
    with pytest.raises(ValueError, match="length: 5; wanted at least 6"):
        Case.random(0, length=5)


@pytest.mark.parametrize("residual", ["none", "initial", "elemental"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_responses_are_those_of_the_recurrence_in_numpy_and_the_sum_of_their_states(residual, mask, reverse):
    case = Case.random(1, batch=1, length=7, residual=residual, mask_diagonal=mask, reverse=reverse)
    terms = (x.squeeze(0).numpy() for x in (case.delta, case.A, case.B, case.C))
    expected = impulse_matrix(*terms, residual=residual, mask=mask, reverse=reverse)
    summed = case.by_state().responses().unflatten(1, (3, 4)).sum(2)
    for found in (case.responses(), summed):
        assert np.allclose(found[0], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("variant", ["videomamba", "released", "paper"])
def test_the_first_steps_of_a_capture_are_the_leading_block_of_its_matrix(variant):
    with torch.no_grad(), record(model := video_model(variant), layers=[1]) as captures:
        model(clip(batch=1))
    for capture in captures:
        case = Case.captured(capture, steps=9, channels=5)
        channels = [0, 6, 12, 17, 23]  # These are five of 24, evenly spaced, with both ends among them.
        at = slice(-9, None) if capture.reversed else slice(0, 9)
        block = capture.operator().dense()[:, channels, at, at]
        assert torch.allclose(case.responses(), block, rtol=0, atol=1e-13)
        whole = capture.operator().apply(capture.terms.u)[:, channels, at]
        assert torch.allclose(case.scan(), whole, rtol=0, atol=1e-13)


def test_a_gap_is_measured_against_its_size_and_no_number_passes_for_small():
    one, two = torch.tensor([1.0, 100.0]), torch.tensor([2.0, 100.0])
    assert apart(one, two) == pytest.approx(0.01)
    assert entrywise(one, two) == pytest.approx(1 / 3)
    for measured in (apart, entrywise):
        assert measured(one, two * torch.nan) == float("inf")
        assert measured(torch.zeros(2), torch.zeros(2)) == 0
