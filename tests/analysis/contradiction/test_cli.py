"""`python -m analysis.contradiction` on small files: whole outputs, resumption, gaps, wrong requests."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import cli, load
from analysis.contradiction.control import check_control
from analysis.contradiction.example import load_example
from analysis.request import RequestError
from tests.analysis.models import TINY, video_model
from tests.vmp import crafted
from vmp import create_model
from vmp.checkpoint import save_checkpoint
from vmp.config import attention_control

UNTRAINED = "self-attention, untrained, seed 0"
FEW = ("--clips", 2, "--layers", -1, "--mediators", 3, "--bootstrap", 100)


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


def run(*arguments: object) -> int:
    return cli.main(["contradiction", *map(str, arguments)], program="python -m analysis.contradiction")


class Printed:
    """What a run with --json prints, in this process."""

    def __init__(self, capsys, *arguments: object):
        code = run(*arguments, "--json")
        shown = capsys.readouterr()
        assert code == 0, shown.err
        self.all = json.loads(shown.out)
        self.notes, self.models = (self.all["provenance"][name] for name in ("notes", "models"))
        self.summary = self.all["summary"]

    def number(self, quantity, layer=1, direction="forward", scope="ssm", model=None) -> dict:
        place = (model or next(iter(self.models)), quantity, layer, direction, scope)
        names = ("model", "quantity", "layer", "direction", "scope")
        (row,) = [row for row in self.summary if tuple(row[name] for name in names) == place]
        return row

    def directions(self, model=None):
        return {
            row["direction"] for row in self.summary if row["model"] == (model or next(iter(self.models)))
        }


def test_a_whole_report_out_beside_a_control_from_a_file(checkpoint, attention, tmp_path):
    out = tmp_path / "report"
    flags = [*FEW, "--scope", "contribution", "--control", attention, "--json", "--out", out]
    command = [sys.executable, "-m", "analysis.contradiction", "--ckpt", checkpoint, *flags]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # Test workers share the cores.
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stderr
    result = load(out)
    assert done.stdout == result.to_json()
    origin, control = result.provenance, "self-attention, attention.safetensors"
    assert origin.command.startswith(f"python -m analysis.contradiction --ckpt {checkpoint}")
    assert result.models == ("paper", control)
    assert (result.layers, result.scopes) == ((1,), ("contribution",))
    assert origin.measures == {"contradiction": {"mediators": 3}}
    assert result.directions("contradiction") == ("forward", "backward")
    assert result.directions("contradiction", control) == ("both",)
    assert Path(origin.models[control].path) == attention
    names = ("distributions", "by_layer", "sensitivity_by_lag", "transitivity")
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        *("data.nc", "provenance.json", "example.npz"),
        *(f"{table}.{kind}" for table in ("summary", "curves") for kind in ("csv", "parquet")),
        *(f"figures/{name}_contribution.{kind}" for name in names for kind in ("png", "svg")),
        *(f"figures/example.{kind}" for kind in ("png", "svg")),
    }
    for path in (out / "figures").glob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 5
    table = pd.read_csv(out / "summary.csv").set_index(["model", "quantity", "direction"])
    for model in result.models:
        direction = result.directions("contradiction", model)[0]
        m = result.number("block_rank", 1, direction, "contribution", model)
        assert table["value"][model, "block_rank", direction] == m.value
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
        d: result.number("contradictory_mass", 1, d, "contribution").value for d in ("forward", "backward")
    }
    assert masses[example.direction] == max(masses.values())


def test_the_table_fits_and_says_what_the_control_is(checkpoint, capsys):
    assert run("--ckpt", checkpoint, *FEW) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    said = " ".join(text.split())
    for part in ("scope ssm", "2 x photo-pan, seed 0", UNTRAINED, "fresh weights", "logits, in 0.001 nats"):
        assert part in said
    # Of its own size, to three digits.
    m = Printed(capsys, "--ckpt", checkpoint, *FEW).number(
        "mediator_sensitivity", 1, "both", "ssm", UNTRAINED
    )
    (line,) = [line for line in text.splitlines() if line.split()[:2] == ["1", "both"]]
    assert float(line.split()[2]) == pytest.approx(1000 * m["value"], rel=0.005)


def test_a_self_attention_checkpoint_is_probed_itself(attention, capsys):
    shown = Printed(capsys, "--ckpt", attention, *FEW, "--scope", "all")
    assert list(shown.models) == ["attention"]
    assert any("self-attention itself" in note for note in shown.notes)
    for scope in ("ssm", "mixer", "contribution"):
        logits = shown.number("mediator_logits", 1, "both", scope)
        assert (logits["value"], logits["low"], logits["high"]) == (0, 0, 0)
        assert shown.number("mediator_sensitivity", 1, "both", scope)["value"] > 0
        bound = shown.number("block_rank_bound", 1, "both", scope)
        assert bound["value"] is None
        assert "no such bound" in bound["note"] or "the softmax leaves no bound" in bound["note"]


def test_gaps_are_said(checkpoint, capsys, folder):
    # 2 frames of 4 patches and a class token: 9 tokens, as many as a triple out of the convolution's reach takes.
    shape = ("--frames", 2, "--size", 16, "--clips", 1, "--layers", 0, "--no-control")
    shown = Printed(capsys, "--ckpt", checkpoint, *shape)
    assert list(shown.models) == ["paper"]
    enough = shown.number("mediator_sensitivity", 0)
    assert enough["value"] is not None
    assert (enough["low"], enough["note"]) == (None, "one clip: no interval")
    assert "One clip was shown: there are no intervals over clips." in shown.notes
    assert any("alpha_jj 0" in note for note in shown.notes)
    logits = shown.number("mediator_logits", 0)
    assert (logits["value"], logits["note"]) == (None, "a scan has no softmax, and so no logits")
    residual = shown.number("transitivity_residual", 0, "backward")
    assert residual["value"] == pytest.approx(1)
    assert residual["note"].startswith("1 by structure, as the mask makes alpha_jj 0")
    short = Printed(capsys, "--ckpt", checkpoint, "--frames", 1, *shape[2:])
    for quantity in ("mediator_sensitivity", "mediator_relative"):
        m = short.number(quantity, 0)
        assert m["value"] is None
        assert (
            m["note"] == "5 tokens: a triple takes 9, as a mediator's convolution is to reach neither token"
        )
    assert short.number("transitivity_residual", 0)["value"] is not None
    one_way = Printed(capsys, "--ckpt", saved(folder, "forward", variant="mamba"), *shape)
    assert one_way.directions() == {"forward"}
    assert "The model scans forward only: there is no backward direction." in one_way.notes
    assert not any("alpha_jj" in note for note in one_way.notes)


def test_a_language_model_has_a_control_and_no_example(tmp_path, capsys):
    torch.save(crafted.noise(crafted.language()), tmp_path / "lm.pth")
    flags = ("--ckpt", tmp_path / "lm.pth", "--length", 3, "--out", tmp_path / "report", *FEW)
    shown = Printed(capsys, *flags)
    assert shown.directions(UNTRAINED) == {"forward"}
    assert shown.number("contradictory_mass")["note"] == "no row with 4 keys or more and a sum above 0"
    assert (tmp_path / "report" / "data.nc").exists()
    assert not (tmp_path / "report" / "example.npz").exists()
    one = Printed(capsys, *flags[:2], "--length", 1, *FEW)
    for quantity, note in (
        ("mediator_sensitivity", "1 token: a triple takes 9"),
        ("transitivity_residual", "1 token: a triple takes 3"),
        ("block_rank", "1 token: no block"),
    ):
        m = one.number(quantity)
        assert m["value"] is None
        assert m["note"].startswith(note)


WRONG = {
    "both": (["--control", "a", "--no-control"], "--control and --no-control"),
    "no mediators": (["--mediators", "0"], "--mediators"),
    "a control of scans": (["--control", "CKPT"], "a self-attention checkpoint is needed"),
    "no control there": (["--control", "none.pt"], "none.pt"),
    "a shallow control": (["--control", "SHALLOW"], "has layers 0 to 0; layer 1 is probed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_control_that_will_not_do_is_named_in_one_line(
    name, checkpoint, folder, tmp_path, capsys, monkeypatch
):
    arguments, message = WRONG[name]
    files = {"CKPT": checkpoint, "SHALLOW": saved(folder, "shallow", variant="attention", depth=1)}
    monkeypatch.chdir(tmp_path)
    assert run("--ckpt", checkpoint, *(files.get(part, part) for part in arguments), "--out", "report") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kind": "language", "class_token": "none", "vocab_size": 11},
            "is a language model; video is needed",
        ),
        ({"num_frames": 4}, "takes 4 frames of 8 pixels; 3 of 8 are shown"),
    ],
)
def test_a_control_of_another_kind_or_clip_is_refused(fields, message):
    probed = video_model().config
    with pytest.raises(RequestError, match=f"--control c: {message}"):
        check_control(Path("c"), replace(attention_control(probed), **fields), probed, [0])
