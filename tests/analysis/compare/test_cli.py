"""`vmp compare` on small checkpoints: whole outputs, interruption, and every kind of wrong request in one line."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import analysis
from analysis import cli
from analysis.compare.compare import short_names
from analysis.draw import plot_side
from analysis.relevance import relevance
from analysis.tables import number
from tests.analysis.models import TINY
from tests.analysis.test_families import timesformer, videomae
from tests.vmp import crafted
from vmp import create_model
from vmp.checkpoint import save_checkpoint

RESIDUALS = ("transitivity_residual", "transitivity_unmasked")
FAST = ("--bootstrap", 100, "--random-orders", 2)
TWO_CLIPS = ("--clips", 2, *FAST)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ckpt")
    kinds = {
        "paper": {"variant": "paper"},
        "attention": {"variant": "attention"},
        "short": {"variant": "paper", "num_frames": 2},
        "headless": {"variant": "paper", "num_classes": 0},
    }
    for name, fields in kinds.items():
        torch.manual_seed(0)
        model = create_model("vmp_micro", **{"num_classes": 6, **TINY, **fields})
        save_checkpoint(model, folder / f"tiny_{name}.safetensors")
    return {name: folder / f"tiny_{name}.safetensors" for name in kinds}


def run(*paths, flags=()):
    given = [part for path in paths for part in ("--ckpt", path)]
    return cli.main(["compare", *map(str, (*given, *flags))])


@pytest.fixture(scope="module")
def whole(checkpoints, tmp_path_factory):
    """A comparison's folder, alone in another, and what was printed."""
    out, printed = tmp_path_factory.mktemp("compare") / "whole", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(checkpoints["paper"], checkpoints["attention"], flags=(*TWO_CLIPS, "--out", out)) == 0
    return out, printed.getvalue()


def wrong(capsys, *paths, flags=()):
    assert run(*paths, flags=flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_scan_beside_self_attention(whole):
    out, text = whole
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    result = analysis.load(out)
    assert result.models == ("paper", "attention")
    assert result.n_clips == 2
    assert result.scopes == ("contribution",)
    assert result.directions("decay", "attention") == ("both", "both j<=i", "both j>=i")
    assert result.directions("contradiction", "attention") == ("both",)
    # Masked, 1 by structure: what stands beside the others is of the same scan without its mask.
    masked = [result.number(q, 1, "backward", "contribution", "paper").value for q in RESIDUALS]
    assert masked[0] == pytest.approx(1)
    assert masked[1] < 0.99
    (line,) = [line for line in text.splitlines() if line.split()[:3] == ["1", "paper", "backward"]]
    assert number(masked[1]) in line.split()
    assert number(masked[0]) not in line.split()
    assert "control" not in " ".join(result.provenance.notes)
    table = (
        pd.read_csv(out / "summary.csv").set_index(["model", "quantity", "layer", "direction"]).sort_index()
    )
    index = result.number("decay_index_tokens", 1, "forward", "contribution", "paper")
    assert table.loc[("paper", "decay_index_tokens", 1, "forward"), "value"] == index.value
    area = result.number("deletion_area", model="attention", part="tube", ranking="gradient").value
    assert area in table.loc[("attention", "deletion_area"), "value"].tolist()
    figures = {path.stem for path in (out / "figures").glob("*.png")}
    assert {"decay_index_tokens", "contradictory_mass", "faithfulness", "deletion_tube"} <= figures
    for path in (out / "figures").glob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 5
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_one_clip_another_shape_and_no_head_are_said(checkpoints, tmp_path, capsys):
    names = ("paper", "short", "headless")
    flags = ("--clips", 1, *FAST, "--out", tmp_path / "out")
    assert run(*(checkpoints[name] for name in names), flags=flags) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "One clip was shown: there are no intervals over clips." in said
    assert "paper 4 frames of 32 pixels, short 2 frames of 32 pixels" in said
    assert "Relevance of headless has gaps: no head" in said
    assert (tmp_path / "out" / "figures" / "deletion_tube.png").exists()


def test_folders_of_transformers_of_other_grids_and_divided_attention(checkpoints, tmp_path, capsys):
    made = {"videomae": videomae(), "divided": timesformer("divided_space_time")}
    for name, model in made.items():
        model.float().save_pretrained(tmp_path / name)
    capsys.readouterr()
    flags = ("--clips", 2, "--layers", 1, "--bootstrap", 100)
    folders = [tmp_path / name for name in made]
    more = ("--random-orders", 2, "--out", tmp_path / "out")
    assert run(checkpoints["paper"], *folders, flags=(*flags, *more)) == 0
    result = analysis.load(tmp_path / "out")
    assert result.directions("contradiction", "divided") == ("time", "space")
    (grids,) = [note for note in result.provenance.notes if note.startswith("Tokens a frame")]
    assert "tiny_paper 16 in each of 4, videomae 4 in each of 2, divided 4 in each of 3." in grids
    # Beside another model a folder's numbers are those that it has alone.
    alone = ["--ckpt", folders[0], *flags, "--scope", "contribution", "--out", tmp_path / "alone"]
    assert cli.main(["decay", *map(str, alone)]) == 0
    mine, its = (
        each.summary(measure="decay").query("model == 'videomae'").reset_index(drop=True)
        for each in (result, analysis.load(tmp_path / "alone"))
    )
    pd.testing.assert_frame_equal(mine, its, check_exact=True)
    # Time relates a patch with itself in other frames: no pair of neighbours, and a gap in place of its half-life.
    half = result.number("half_life_tokens", 1, "time", "contribution", "divided")
    assert np.isnan(half.value)
    assert half.note == "no weight at lag 1"
    # Of divided attention the measure is of triples that it relates, where it is no 1 by structure.
    assert 0 < result.number(RESIDUALS[0], 1, "time", "contribution", "divided").value < 0.99
    labels = plot_side(result, RESIDUALS[1], "forward").get_legend_handles_labels()[1]
    assert {label for label in labels if label.startswith("divided")} == {"divided, time", "divided, space"}


def test_an_interrupted_comparison_resumes_and_ends_alike(checkpoints, whole, tmp_path, capsys, monkeypatch):
    both = (checkpoints["paper"], checkpoints["attention"])
    out, seen, again = tmp_path / "both", [], []
    flags = (*TWO_CLIPS, "--out", out)
    target = "analysis.relevance.measure.relevance"

    def stopping(*arguments, **keywords):
        if len(seen) == 3:  # Both clips of the first model are done, and one of the second.
            raise KeyboardInterrupt
        seen.append(arguments)
        return relevance(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(target, stopping)
        assert run(*both, flags=flags) == 130
    assert "same command" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["both.unfinished"]
    monkeypatch.setattr(target, lambda *given, **named: again.append(given) or relevance(*given, **named))
    assert run(*both, flags=flags) == 0
    assert len(again) == 1
    assert analysis.load(out).data.equals(analysis.load(whole[0]).data)
    assert [path.name for path in tmp_path.iterdir()] == ["both"]


def test_a_folder_of_others_is_left_alone(checkpoints, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    flags = ("--clips", 1, *FAST, "--out", tmp_path / "mine")
    error = wrong(capsys, checkpoints["paper"], checkpoints["attention"], flags=flags)
    assert "holds 'thesis.tex', which no earlier run wrote" in error
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_wrong_requests_are_one_line(checkpoints, tmp_path, capsys):
    paper = checkpoints["paper"]
    assert "a comparison needs two" in wrong(capsys, paper)
    assert "no.pt" in wrong(capsys, paper, tmp_path / "no.pt")
    torch.save(crafted.noise(crafted.language()), tmp_path / "lm.pth")
    assert "is a language model" in wrong(capsys, paper, tmp_path / "lm.pth")
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "resnet.pth")
    assert "resnet.pth" in wrong(capsys, paper, tmp_path / "resnet.pth")
    assert "--layers '7'" in wrong(capsys, paper, paper, flags=("--layers", 7, "--clips", 1))
    assert "scope" in wrong(capsys, paper, paper, flags=("--scope", "ssm"))


def test_names_drop_what_all_begin_with(tmp_path):
    def names(*paths):
        return short_names([Path(path) for path in paths])

    assert names("a/vmp_micro_paper.pt", "vmp_micro_attention.pt") == ["paper", "attention"]
    assert names("a/x.pt", "b/x.pt") == ["x (1)", "x (2)"]
    assert names("best.pt", "last.pt") == ["best", "last"]
    assert names("run_a.pt", "run.pt") == ["run_a", "run"]
    # A folder has no ending.
    (tmp_path / "videomae-v1.5").mkdir()
    assert names(tmp_path / "videomae-v1.5", "vivit.b") == ["videomae-v1.5", "vivit"]
