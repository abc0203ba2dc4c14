"""`python -m analysis.compare` on small checkpoints: whole outputs, and every kind of wrong request in one line."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.compare import __main__ as cli
from analysis.compare import faithful, plots
from analysis.compare.result import CompareResult
from analysis.compare.run import model_names
from analysis.decay import __main__ as decay
from analysis.decay.result import DecayResult
from analysis.results import from_json, load, to_json
from analysis.tables import number
from tests.analysis.models import TINY
from tests.analysis.test_families import timesformer, videomae
from tests.vmp import crafted
from vmp import create_model
from vmp.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ckpt")
    paths = {}
    for variant, fields in (("paper", {}), ("attention", {}), ("short", {"num_frames": 2})):
        torch.manual_seed(0)
        kind = "paper" if variant == "short" else variant
        model = create_model("vmp_micro", variant=kind, num_classes=6, **{**TINY, **fields})
        paths[variant] = folder / f"tiny_{variant}.safetensors"
        save_checkpoint(model, paths[variant])
    return paths


def run(*arguments):
    return cli.main([*map(str, arguments)])


RESIDUALS = ("transitivity_residual", "transitivity_unmasked")
FAST = ("--bootstrap", 100, "--random-orders", 2)


def test_a_scan_beside_self_attention(checkpoints, tmp_path, capsys):
    out = tmp_path / "both"
    flags = ("--ckpt", checkpoints["paper"], "--ckpt", checkpoints["attention"], "--clips", 2, *FAST)
    assert run(*flags, "--out", out) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    result = load(CompareResult, out / "result.json")
    assert [model.name for model in result.models] == ["paper", "attention"]
    assert len(result.clips) == 2
    scan, attention = result.models
    assert scan.decay.scopes == attention.decay.scopes == ("contribution",)
    assert attention.decay.directions == ("both", "both j<=i", "both j>=i")
    assert attention.contradiction.probed.directions == ("both",)
    # Masked, 1 by structure: what stands beside the others is of the same scan without its mask.
    masked = [
        scan.contradiction.probed.measurement(1, "backward", "contribution", q).value for q in RESIDUALS
    ]
    assert masked[0] == pytest.approx(1)
    assert masked[1] < 0.99
    (line,) = [line for line in text.splitlines() if line.split()[:3] == ["1", "paper", "backward"]]
    assert number(masked[1]) in line.split()
    assert number(masked[0]) not in line.split()
    assert "control" not in " ".join(result.notes)
    with (out / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    half = scan.decay.measurement(1, "forward", "contribution", "decay_index_tokens")
    (found,) = [
        row
        for row in rows
        if (row["model"], row["layer"], row["direction"], row["quantity"])
        == ("paper", "1", "forward", "decay_index_tokens")
    ]
    assert float(found["value"]) == half.value
    area = attention.faithfulness.measurement("tube", "gradient", "deletion_area").value
    assert any(row["model"] == "attention" and row["value"] == repr(area) for row in rows)
    figures = {path.stem for path in (out / "figures").glob("*.png")}
    assert {"decay_index_tokens", "contradictory_mass", "faithfulness", "deletion_tube"} <= figures
    for path in (out / "figures").glob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both"]


def test_one_clip_and_clips_of_different_shape_are_said(checkpoints, capsys):
    flags = ("--ckpt", checkpoints["paper"], "--ckpt", checkpoints["short"], "--clips", 1, *FAST)
    assert run(*flags) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "One clip was shown: there are no intervals over clips." in said
    assert "paper 4 frames of 32 pixels, short 2 frames of 32 pixels" in said


def test_folders_of_transformers_of_other_grids_and_divided_attention(checkpoints, tmp_path, capsys):
    made = {"videomae": videomae(), "divided": timesformer("divided_space_time")}
    for name, model in made.items():
        model.float().save_pretrained(tmp_path / name)
    capsys.readouterr()
    names = [checkpoints["paper"], *(tmp_path / name for name in made)]
    flags = [part for path in names for part in ("--ckpt", path)]
    assert run(*flags, "--clips", 2, "--layers", 1, *FAST, "--json") == 0
    result = from_json(CompareResult, capsys.readouterr().out)
    _, joint, divided = result.models
    assert divided.contradiction.probed.directions == ("time", "space")
    assert "tiny_paper 16 in each of 4, videomae 4 in each of 2, divided 4 in each of 3." in result.notes[1]
    # Beside another model a folder's numbers are those that it has alone.
    flags = ["--ckpt", str(tmp_path / "videomae"), "--clips", "2", "--scope", "contribution", "--layers", "1"]
    assert decay.main([*flags, "--bootstrap", "100", "--json"]) == 0
    assert from_json(DecayResult, capsys.readouterr().out).measurements == joint.decay.measurements
    # Time relates a patch with itself in other frames: no pair of neighbours, and a gap in place of its half-life.
    half = divided.decay.measurement(1, "time", "contribution", "half_life_tokens")
    assert (half.value, half.note) == (None, "no weight at lag 1")
    # Of divided attention the measure is of triples that it relates, where it is no 1 by structure.
    residual = divided.contradiction.probed.measurement(
        1, "time", "contribution", "transitivity_residual"
    ).value
    assert 0 < residual < 0.99
    drawn = {direction for direction, _ in plots._rows(divided, "transitivity_unmasked", "forward")}
    assert drawn == {"time", "space"}


def test_an_interrupted_comparison_goes_on_and_ends_alike(checkpoints, tmp_path, capsys, monkeypatch):
    flags = ("--ckpt", checkpoints["paper"], "--ckpt", checkpoints["attention"], "--clips", 2, "--layers", 1)
    flags = (*flags, *FAST, "--json")
    assert run(*flags) == 0
    wanted = from_json(CompareResult, capsys.readouterr().out)
    out, done, again = tmp_path / "both", [], []

    def stopping(*arguments):
        if len(done) == 3:  # Both clips of the first model are done, and one of the second.
            raise KeyboardInterrupt
        done.append(arguments)
        return one_clip(*arguments)

    one_clip = faithful._one_clip
    with monkeypatch.context() as patch:
        patch.setattr(faithful, "_one_clip", stopping)
        assert run(*flags, "--out", out) == 130
    assert "the same command goes on" in capsys.readouterr().err
    probes = ("contradiction", "decay", "deletion")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"both.unfinished-{index}-{probe}" for index in (0, 1) for probe in probes
    ]
    monkeypatch.setattr(faithful, "_one_clip", lambda *a: again.append(a) or one_clip(*a))
    assert run(*flags, "--out", out) == 0
    found = from_json(CompareResult, capsys.readouterr().out)
    assert len(again) == 1
    for one, other in zip(found.models, wanted.models, strict=True):
        assert to_json(one.faithfulness) == to_json(other.faithfulness)
        assert one.decay.measurements == other.decay.measurements
        assert one.contradiction.probed.measurements == other.contradiction.probed.measurements
    assert [path.name for path in tmp_path.iterdir()] == ["both"]


def test_a_folder_of_others_is_left_alone(checkpoints, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    both = ("--ckpt", checkpoints["paper"], "--ckpt", checkpoints["attention"])
    error = wrong(capsys, *both, "--clips", 1, *FAST, "--out", tmp_path / "mine")
    assert "holds 'thesis.tex', which no earlier run wrote" in error
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def wrong(capsys, *arguments):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_wrong_requests_are_one_line(checkpoints, tmp_path, capsys):
    paper = checkpoints["paper"]
    assert "a comparison needs two" in wrong(capsys, "--ckpt", paper)
    assert "no.pt" in wrong(capsys, "--ckpt", paper, "--ckpt", tmp_path / "no.pt")
    torch.save(crafted.noise(crafted.language()), tmp_path / "lm.pth")
    assert "is a language model" in wrong(capsys, "--ckpt", paper, "--ckpt", tmp_path / "lm.pth")
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "resnet.pth")
    assert "resnet.pth" in wrong(capsys, "--ckpt", paper, "--ckpt", tmp_path / "resnet.pth")
    assert "--layers '7'" in wrong(capsys, "--ckpt", paper, "--ckpt", paper, "--layers", "7", "--clips", 1)
    assert "scope" in wrong(capsys, "--ckpt", paper, "--ckpt", paper, "--scope", "ssm")


def test_a_model_without_a_head_has_a_stated_gap(checkpoints, tmp_path, capsys):
    headless = tmp_path / "features.safetensors"
    save_checkpoint(create_model("vmp_micro", variant="paper", num_classes=0, **TINY), headless)
    flags = ("--ckpt", checkpoints["paper"], "--ckpt", headless, "--clips", 1, *FAST)
    assert run(*flags, "--out", tmp_path / "out") == 0
    assert "features: no head" in " ".join(capsys.readouterr().out.split())


def test_names_drop_what_all_begin_with(tmp_path):
    def names(*paths):
        return model_names([Path(path) for path in paths])

    assert names("a/vmp_micro_paper.pt", "vmp_micro_attention.pt") == ["paper", "attention"]
    assert names("a/x.pt", "b/x.pt") == ["x (1)", "x (2)"]
    assert names("best.pt", "last.pt") == ["best", "last"]
    assert names("run_a.pt", "run.pt") == ["run_a", "run"]
    (tmp_path / "videomae-v1.5").mkdir()
    assert names(tmp_path / "videomae-v1.5", "vivit.b") == [
        "videomae-v1.5",
        "vivit",
    ]  # A folder has no ending.
