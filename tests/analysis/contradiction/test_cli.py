"""`python -m analysis.contradiction` on small files: whole outputs, going on after a kill, gaps, wrong requests."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.contradiction import __main__ as cli
from analysis.contradiction.example import load_example
from analysis.contradiction.layer import measure_layer
from analysis.contradiction.result import ContradictionResult
from analysis.results import from_json, load, to_json
from tests.analysis.models import TINY
from tests.vmp import crafted
from vmp import create_model
from vmp.checkpoint import save_checkpoint


def saved(folder: Path, name: str, **fields) -> Path:
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_checkpoint(create_model("vmp_micro", num_classes=6, **{**TINY, **fields}), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ckpt")


@pytest.fixture(scope="module")
def checkpoint(folder) -> Path:
    return saved(folder, "paper", variant="paper")


@pytest.fixture(scope="module")
def attention(folder) -> Path:
    return saved(folder, "attention", variant="attention")


FEW = ("--clips", "2", "--layers", "-1", "--mediators", "3", "--bootstrap", "100")


def result_of(capsys, *arguments: object) -> ContradictionResult:
    """The result that a run with --json prints, in this process."""
    code = cli.main([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return from_json(ContradictionResult, shown.out)


def test_a_whole_report_out_beside_a_control_from_a_file(checkpoint, attention, tmp_path):
    out = tmp_path / "report"
    flags = [*FEW, "--scope", "contribution", "--control", attention, "--json", "--out", out]
    command = [sys.executable, "-m", "analysis.contradiction", "--ckpt", checkpoint, *flags]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # Test workers share the cores.
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=240, env=alone
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "result.json").read_text())
    result = load(ContradictionResult, out / "result.json")
    assert result.provenance.command.startswith(f"python -m analysis.contradiction --ckpt {checkpoint}")
    assert (result.layers, result.scopes, result.mediators) == ((1,), ("contribution",), 3)
    assert result.probed.directions == ("forward", "backward")
    assert result.control.directions == ("both",)
    assert result.control.label == "self-attention, attention.safetensors"
    assert len(result.control.checkpoint.weights_sha256) == 64
    assert {path.name for path in out.iterdir()} == {
        "contradiction.csv",
        "control.csv",
        "example.npz",
        "figures",
        "result.json",
    }
    names = [
        f"{name}_contribution" for name in ("distributions", "by_layer", "sensitivity_by_lag", "transitivity")
    ]
    assert {path.name for path in (out / "figures").iterdir()} == {
        f"{name}.{kind}" for name in [*names, "example"] for kind in ("png", "svg")
    }
    for path in (out / "figures").glob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 5
    for name, side in (("contradiction", result.probed), ("control", result.control)):
        with (out / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        m = side.measurement(1, side.directions[0], "contribution", "block_rank")
        (row,) = [r for r in rows if (r["direction"], r["quantity"]) == (m.direction, "block_rank")]
        assert float(row["value"]) == m.value
        assert m.low <= m.value <= m.high
    example = load_example(out / "example.npz")
    assert example.frames.shape == (4, 32, 32, 3)
    assert example.frames.std() > 10
    i, k = example.row, example.column
    assert (i > k) == (example.direction == "forward")
    assert abs(i - k) >= 16
    assert (example.places[[i, k]] >= 0).all()
    assert min(i, k) + 4 <= example.between.min() <= example.between.max() <= max(i, k) - 4
    assert (example.sensitivity > 0).all()
    masses = {
        d: result.probed.measurement(1, d, "contribution", "contradictory_mass").value
        for d in result.probed.directions
    }
    assert masses[example.direction] == max(masses.values())


def test_the_table_fits_and_says_what_the_control_is(checkpoint, capsys):
    assert cli.main(["--ckpt", str(checkpoint), *FEW]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    said = " ".join(text.split())
    for part in ("scope ssm", "2 x photo-pan, seed 0", "self-attention, untrained, seed 0", "fresh weights"):
        assert part in said
    assert "…" not in text
    # Of its own size, to three digits.
    assert cli.main(["--ckpt", str(checkpoint), *FEW, "--json"]) == 0
    result = from_json(ContradictionResult, capsys.readouterr().out)
    m = result.control.measurement(1, "both", "ssm", "mediator_sensitivity")
    (line,) = [line for line in text.splitlines() if line.split()[:2] == ["1", "both"]]
    assert float(line.split()[2]) == pytest.approx(1000 * m.value, rel=0.005)
    assert "both, and logits, in 0.001 nats" in said


def test_an_interrupted_run_goes_on_and_ends_alike(checkpoint, tmp_path, capsys, monkeypatch):
    flags = ["--ckpt", str(checkpoint), *FEW]
    wanted = result_of(capsys, *flags)
    out = tmp_path / "report"
    measured = []

    def stopping(*arguments):
        if len(measured) == 3:  # Both clips of the checkpoint are done, and one of the control.
            raise KeyboardInterrupt
        measured.append(arguments)
        return measure_layer(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("analysis.contradiction.probe.measure_layer", stopping)
        assert cli.main([*flags, "--out", str(out)]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["report.unfinished"]
    again = []
    monkeypatch.setattr(
        "analysis.contradiction.probe.measure_layer", lambda *a: again.append(a) or measure_layer(*a)
    )
    capsys.readouterr()
    found = result_of(capsys, *flags, "--out", out)
    assert len(again) == 1
    assert to_json(found.probed) == to_json(wanted.probed)
    assert to_json(found.control) == to_json(wanted.control)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_self_attention_checkpoint_is_probed_itself(attention, capsys):
    result = result_of(capsys, "--ckpt", attention, *FEW, "--scope", "all")
    assert result.control is None
    assert any("self-attention itself" in note for note in result.notes)
    for scope in result.scopes:
        logits = result.probed.measurement(1, "both", scope, "mediator_logits")
        assert (logits.value, logits.low, logits.high) == (0, 0, 0)
        assert result.probed.measurement(1, "both", scope, "mediator_sensitivity").value > 0
        bound = result.probed.measurement(1, "both", scope, "block_rank_bound")
        assert bound.value is None
        assert "no such bound" in bound.note or "the softmax leaves no bound" in bound.note


def test_gaps_are_said(checkpoint, capsys, folder):
    # 2 frames of 4 patches and a class token: 9 tokens, as many as a triple out of the convolution's reach takes.
    shape = ("--frames", 2, "--size", 16, "--clips", 1, "--layers", 0, "--no-control")
    result = result_of(capsys, "--ckpt", checkpoint, *shape)
    assert result.control is None
    enough = result.probed.measurement(0, "forward", "ssm", "mediator_sensitivity")
    assert enough.value is not None
    assert (enough.low, enough.note) == (None, "one clip: no interval")
    assert "One clip was shown: there are no intervals over clips." in result.notes
    logits = result.probed.measurement(0, "forward", "ssm", "mediator_logits")
    assert (logits.value, logits.note) == (None, "a scan has no softmax, and so no logits")
    residual = result.probed.measurement(0, "backward", "ssm", "transitivity_residual")
    assert residual.value == pytest.approx(1)
    assert residual.note.startswith("1 by structure, as the mask makes alpha_jj 0")
    short = result_of(capsys, "--ckpt", checkpoint, "--frames", 1, *shape[2:])
    for quantity in ("mediator_sensitivity", "mediator_relative"):
        m = short.probed.measurement(0, "forward", "ssm", quantity)
        assert m.value is None
        assert m.note == "5 tokens: a triple takes 9, as a mediator's convolution is to reach neither token"
    assert short.probed.measurement(0, "forward", "ssm", "transitivity_residual").value is not None
    forward = saved(folder, "forward", variant="mamba")
    one_way = result_of(capsys, "--ckpt", forward, *shape)
    assert one_way.probed.directions == ("forward",)
    assert "The model scans forward only: there is no backward direction." in one_way.notes


def test_a_language_model_has_a_control_and_no_example(tmp_path, capsys):
    torch.save(crafted.noise(crafted.language()), tmp_path / "lm.pth")
    flags = ("--ckpt", tmp_path / "lm.pth", "--length", 3, "--out", tmp_path / "report", *FEW)
    result = result_of(capsys, *flags)
    assert result.control.directions == ("forward",)
    assert result.probed.measurement(1, "forward", "ssm", "contradictory_mass").note == (
        "no row with 4 keys or more and a sum above 0"
    )
    assert not (tmp_path / "report" / "example.npz").exists()
    one = result_of(capsys, *flags[:2], "--length", 1, *FEW)
    for quantity, note in (
        ("mediator_sensitivity", "1 token: a triple takes 9"),
        ("transitivity_residual", "1 token: a triple takes 3"),
        ("block_rank", "1 token: no block"),
    ):
        m = one.probed.measurement(1, "forward", "ssm", quantity)
        assert m.value is None
        assert m.note.startswith(note)


def test_the_seed_decides(checkpoint, capsys):
    flags = ("--ckpt", checkpoint, *FEW, "--no-control")
    first, again = (result_of(capsys, *flags, "--seed", 3) for _ in range(2))
    other = result_of(capsys, *flags, "--seed", 4)
    assert first.probed.measurements == again.probed.measurements
    assert first.probed.measurements != other.probed.measurements


WRONG = {
    "no checkpoint": ([], "--ckpt"),
    "layer out of range": (["--ckpt", "CKPT", "--layers", "7"], "7 is out of range; there are 0 to 1"),
    "unknown scope": (["--ckpt", "CKPT", "--scope", "scan"], "'scan': there are ssm, mixer, contribution"),
    "both": (["--ckpt", "CKPT", "--control", "a", "--no-control"], "--control and --no-control"),
    "no mediators": (["--ckpt", "CKPT", "--mediators", "0"], "--mediators"),
    "a control of scans": (["--ckpt", "CKPT", "--control", "CKPT"], "a self-attention checkpoint is needed"),
    "no control there": (["--ckpt", "CKPT", "--control", "none.pt"], "none.pt"),
    "a shallow control": (["--ckpt", "CKPT", "--control", "SHALLOW"], "has layers 0 to 0; layer 1 is probed"),
    "missing video": (["--ckpt", "CKPT", "--video", "a.mp4"], "a.mp4"),
    "unknown family": (["--ckpt", "OTHER"], "other.pth"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_name_what_is_wrong_in_one_line(
    name, checkpoint, folder, tmp_path, capsys, monkeypatch
):
    arguments, message = WRONG[name]
    files = {
        "CKPT": checkpoint,
        "SHALLOW": saved(folder, "shallow", variant="attention", depth=1),
        "OTHER": folder / "other.pth",
    }
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(3, 3)}, files["OTHER"])
    monkeypatch.chdir(tmp_path)
    assert cli.main([*(str(files.get(part, part)) for part in arguments), "--out", "report"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
