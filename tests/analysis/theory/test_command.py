"""`python -m analysis.theory`: random scans both ways, a checkpoint's own scans, exit codes, what is written."""

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

from analysis._theory import cli
from analysis._theory.captured import reading
from analysis._theory.case import Case, apart
from analysis._theory.consequences import spectra
from analysis._theory.result import TheoryResult
from analysis.results import from_json, load
from analysis.theory import CLAIMS, Claim
from tests.analysis.models import TINY
from vmp import create_model
from vmp.checkpoint import save_checkpoint
from vmp.layout import TokenLayout


def saved(folder: Path, variant: str, **fields) -> Path:
    torch.manual_seed(0)
    path = folder / f"{variant}.safetensors"
    save_checkpoint(create_model("vmp_micro", variant=variant, num_classes=6, **{**TINY, **fields}), path)
    return path


def result_of(capsys, *arguments: object) -> TheoryResult:
    code = cli.main([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return from_json(TheoryResult, shown.out)


def test_the_module_runs_and_every_claim_holds_and_fails_as_it_must():
    command = [sys.executable, "-m", "analysis.theory", "--cases", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
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
    path = saved(tmp_path, variant)
    result = result_of(capsys, "--ckpt", path, "--cases", 1, "--clips", 1, "--layers", "-1")
    found = [finding for finding in result.findings if finding.layer is not None]
    assert {finding.claim for finding in found} == set(CLAIMS)
    assert {(finding.layer, finding.direction) for finding in found} == {(1, "forward"), (1, "backward")}
    out = [finding for finding in found if finding.verdict == "not applicable"]
    assert {finding.claim for finding in out} == unmet
    assert all(finding.note and finding.deviation is None for finding in out)
    assert all(finding.deviation <= 1e-10 for finding in found if finding not in out)
    assert result.provenance.dtype == "float64"


def test_out_holds_the_result_a_table_and_two_figures(tmp_path, capsys):
    out = tmp_path / "out"
    path = saved(tmp_path, "videomamba")
    assert cli.main(["--ckpt", str(path), "--cases", "1", "--out", str(out)]) == 0
    assert "put to them" in capsys.readouterr().out
    result = load(TheoryResult, out / "result.json")
    with (out / "theory.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(result.findings)
    figures = sorted((out / "figures").iterdir())
    assert [path.name for path in figures] == ["class_row.png", "class_row.svg", "rank.png", "rank.svg"]
    assert all(np.asarray(Image.open(p).convert("L")).std() > 5 for p in figures if p.suffix == ".png")
    for layer in (0, 1):
        # Two clips, and all that the class token gets of others comes from the backward scan.
        forward, backward = (result.curve("class_row", d, layer) for d in ("forward", "backward"))
        assert forward.value[1] == 0
        assert backward.value[1] > 0
        assert (forward.value.sum() + backward.value.sum()) == pytest.approx(100)
        assert (forward.n_clips, forward.high is not None) == (2, True)


def test_a_false_claim_ends_in_exit_code_1(monkeypatch, capsys):
    def symmetric(case: Case, dropped: str | None) -> float:
        alpha = case.responses()
        return apart(alpha, alpha.transpose(-2, -1))

    monkeypatch.setitem(CLAIMS, "symmetry", Claim("symmetry", "alpha is symmetric", {}, symmetric, "a lie"))
    assert cli.main(["--cases", "1"]) == 1
    shown = capsys.readouterr().out
    assert "FAILS; it has to hold" in shown
    assert "NOT AS CLAIMED: symmetry" in shown


def test_an_assumption_that_nothing_rests_on_ends_in_exit_code_1(monkeypatch, capsys):
    idle = replace(CLAIMS["class-first"], assumptions={"luck": "the day is a good one"})
    monkeypatch.setitem(CLAIMS, "class-first", idle)
    assert cli.main(["--cases", "1"]) == 1
    assert "HOLDS; it has to fail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ckpt", "nowhere.pt"], "nowhere.pt"),
        (["--layers", "0"], "without --ckpt"),
        (["--clips", "3"], "without --ckpt"),
        (["--cases", "0"], "--cases"),
        (["--ckpt", "{attention}"], "its mixers are self-attention; the claims are about scans"),
        (["--ckpt", "{videomamba}", "--layers", "7"], "7 is out of range"),
        (["--ckpt", "{videomamba}", "--steps", "5"], "--steps"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, said):
    made = {
        "{attention}": lambda: saved(tmp_path, "attention", num_heads=2),
        "{videomamba}": lambda: saved(tmp_path, "videomamba"),
    }
    given = [str(made[part]()) if part in made else part for part in arguments]
    assert cli.main([*given, *(() if "--cases" in given else ("--cases", "1"))]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, capsys):
    path = tmp_path / "nan.safetensors"
    model = create_model("vmp_micro", variant="videomamba", num_classes=6, **TINY)
    with torch.no_grad():
        model.layers[0].mixer.dt_proj.bias[0] = torch.nan
    save_checkpoint(model, path)
    assert cli.main(["--ckpt", str(path), "--cases", "1", "--allow-nonfinite"]) == 2
    assert "layer 0 forward: delta is not finite" in capsys.readouterr().err


def test_a_scan_that_meets_every_assumption_is_read_as_stated():
    case = Case.random(0, batch=1, states=1)
    constant = {
        name: getattr(case, name)[..., :1].expand(*getattr(case, name).shape) for name in ("delta", "B", "C")
    }
    case = replace(case, **constant)
    layout = TokenLayout.video(11, (1, 1), "first")
    readings = {claim: reading(claim, case, layout) for claim in CLAIMS}
    assert {c for c, found in readings.items() if isinstance(found, str)} == {
        "double-diagonal",
        "initial-column",
    }
    assert all(r.deviation(case) <= 1e-10 for r in readings.values() if not isinstance(r, str))


def test_spectra_are_those_of_the_block_by_numpy():
    case = Case.random(4, batch=1, channels=1, states=2, length=10, reverse=True)
    curves = {(c.quantity, c.direction): c for c in spectra(case, 0)}
    for residual in ("none", "initial", "elemental"):
        alpha = replace(case, residual=residual).matrix()[0, 0].numpy()[::-1, ::-1]
        expected = np.linalg.svd(alpha[5:, :5], compute_uv=False)
        assert np.allclose(curves["spectrum", residual].value, expected / expected[0], rtol=0, atol=1e-12)
        assert expected[2] < 1e-12 * expected[0]
        profile = [np.abs(np.diag(alpha, -k)).mean() for k in range(10)]
        assert np.allclose(curves["residual_profile", residual].value, profile, rtol=1e-10, atol=0)
    assert curves["spectrum", "attention"].value[-1] > 1e-6


def test_an_interrupted_run_promises_nothing_that_it_does_not_keep(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert cli.main(["--cases", "1"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
