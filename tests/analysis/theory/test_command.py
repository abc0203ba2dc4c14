"""`python -m analysis.theory`: random scans both ways, a checkpoint's own scans, exit codes, and what is written."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from analysis.cli import main
from analysis.files import ResultError
from analysis.theory import CLAIMS, Case, Claim, command
from analysis.theory.captured import reading
from analysis.theory.case import apart
from analysis.theory.consequences import spectra
from analysis.theory.run import TheoryResult
from tests.analysis.models import TINY
from vmp import create_model
from vmp.checkpoint import save_checkpoint
from vmp.layout import TokenLayout


def saved(folder: Path, variant: str) -> Path:
    torch.manual_seed(0)
    path = folder / f"{variant}.safetensors"
    heads = {"num_heads": 2} if variant == "attention" else {}
    model = create_model(
        "vmp_micro", variant="videomamba" if variant == "nan" else variant, num_classes=6, **TINY, **heads
    )
    if variant == "nan":
        with torch.no_grad():
            model.layers[0].mixer.dt_proj.bias[0] = torch.nan
    save_checkpoint(model, path)
    return path


def test_the_module_runs_and_every_claim_holds_and_fails_as_it_must():
    done = subprocess.run(
        [sys.executable, "-m", "analysis.theory", "--cases", "2"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    for claim in CLAIMS.values():
        assert claim.id in done.stdout
        assert all(name in done.stdout for name in claim.assumptions)
    assert "All 12 claims hold where they should and fail where they should." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("variant", "unmet"),
    [
        ("videomamba", {"exponential", "double-diagonal", "initial-column", "class-first"}),
        ("paper", {"exponential", "double-diagonal", "initial-column", "transitivity", "class-first"}),
        ("released", {"exponential", "double-diagonal", "transitivity", "class-first"}),
    ],
)
def test_a_checkpoint_is_read_claim_by_claim_or_the_reason_is_given(tmp_path, capsys, variant, unmet):
    arguments = ["--cases", "1", "--clips", "1", "--layers", "-1", "--json"]
    assert main(["theory", "--ckpt", str(saved(tmp_path, variant)), *arguments]) == 0
    result = TypeAdapter(TheoryResult).validate_json(capsys.readouterr().out)
    found = [finding for finding in result.findings if finding.layer is not None]
    assert {finding.claim for finding in found} == set(CLAIMS)
    assert {(finding.layer, finding.direction) for finding in found} == {(1, "forward"), (1, "backward")}
    out = [finding for finding in found if finding.verdict == "not applicable"]
    assert {finding.claim for finding in out} == unmet
    assert all(finding.note and finding.deviation is None for finding in out)
    assert all(finding.deviation <= 1e-10 for finding in found if finding not in out)
    assert {model.dtype for model in result.provenance.models.values()} == {"float64"}


def test_out_holds_the_result_a_table_and_two_figures(tmp_path, capsys):
    out = tmp_path / "out"
    path = saved(tmp_path, "videomamba")
    assert main(["theory", "--ckpt", str(path), "--cases", "1", "--out", str(out)]) == 0
    assert "put to them" in capsys.readouterr().out
    result = TheoryResult.load(out / "result.json")
    with (out / "theory.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(result.findings)
    figures = sorted((out / "figures").iterdir())
    assert [path.name for path in figures] == ["class_row.png", "class_row.svg", "rank.png", "rank.svg"]
    assert all(np.asarray(Image.open(p).convert("L")).std() > 5 for p in figures if p.suffix == ".png")
    for layer in (0, 1):
        # There are two clips, and all that the class token gets of other tokens comes from the backward scan.
        forward, backward = (result.curve("class_row", d, layer) for d in ("forward", "backward"))
        assert forward.value[1] == 0
        assert backward.value[1] > 0
        assert sum(forward.value) + sum(backward.value) == pytest.approx(100)
        assert (forward.n_clips, forward.high is not None) == (2, True)
    endless = replace(result, findings=(replace(result.findings[0], deviation=float("inf")),))
    endless.save(out)
    assert TheoryResult.load(out / "result.json") == endless
    for name in ("theory.csv", "nowhere.json"):
        with pytest.raises(ResultError, match=f"{name}: cannot be read"):
            TheoryResult.load(out / name)


def symmetric(case: Case, dropped: str | None) -> float:
    alpha = case.responses()
    return apart(alpha, alpha.transpose(-2, -1))


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (Claim("symmetry", "alpha is symmetric", {}, symmetric, "a lie"), "FAILS; it has to hold"),
        (replace(CLAIMS["class-first"], assumptions={"luck": "the day is good"}), "HOLDS; it has to fail"),
    ],
    ids=["a false claim", "an assumption that nothing rests on"],
)
def test_what_is_not_as_claimed_ends_in_exit_code_1(monkeypatch, capsys, claim, said):
    monkeypatch.setitem(CLAIMS, claim.id, claim)
    assert main(["theory", "--cases", "1"]) == 1
    shown = capsys.readouterr().out
    assert said in shown
    assert f"NOT AS CLAIMED: {claim.id}" in shown


@pytest.mark.parametrize(
    ("checkpoint", "arguments", "said"),
    [
        (None, ["--ckpt", "nowhere.pt"], "nowhere.pt"),
        (None, ["--layers", "0"], "without --ckpt"),
        (None, ["--clips", "3"], "without --ckpt"),
        (None, ["--cases", "0"], "--cases"),
        ("attention", [], "its mixers are self-attention; the claims are about scans"),
        ("videomamba", ["--layers", "7"], "7 is out of range"),
        ("videomamba", ["--steps", "5"], "--steps"),
        ("nan", ["--allow-nonfinite"], "layer 0 forward: delta is not finite"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(tmp_path, capsys, checkpoint, arguments, said):
    given = ["--ckpt", str(saved(tmp_path, checkpoint))] if checkpoint else []
    assert main(["theory", "--cases", "1", *given, *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_a_scan_that_meets_every_assumption_is_read_as_stated():
    case = Case.random(0, batch=1, states=1)
    constant = {x: getattr(case, x)[..., :1].expand_as(getattr(case, x)) for x in ("delta", "B", "C")}
    case = replace(case, **constant)
    readings = {claim: reading(claim, case, TokenLayout.video(11, (1, 1), "first")) for claim in CLAIMS}
    unmet = {claim for claim, found in readings.items() if isinstance(found, str)}
    assert unmet == {"double-diagonal", "initial-column"}
    assert all(found.deviation(case) <= 1e-10 for claim, found in readings.items() if claim not in unmet)


def test_spectra_are_those_of_the_block_by_numpy():
    case = Case.random(4, batch=1, channels=1, states=2, length=10, reverse=True)
    curves = {(c.quantity, c.direction): c.value for c in spectra(case, 0)}
    for residual in ("none", "initial", "elemental"):
        alpha = replace(case, residual=residual).operator().dense()[0, 0].numpy()[::-1, ::-1]
        expected = np.linalg.svd(alpha[5:, :5], compute_uv=False)
        assert np.allclose(curves["spectrum", residual], expected / expected[0], rtol=0, atol=1e-12)
        assert expected[2] < 1e-12 * expected[0]
        profile = [np.abs(np.diag(alpha, -k)).mean() for k in range(10)]
        assert np.allclose(curves["residual_profile", residual], profile, rtol=1e-10, atol=0)
    assert curves["spectrum", "attention"][-1] > 1e-6


def test_an_interrupted_run_promises_nothing_that_it_does_not_keep(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    assert main(["theory", "--cases", "1"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
