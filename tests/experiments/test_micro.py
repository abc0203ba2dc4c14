"""The small checkpoints: how they are made, and that those in the repository are what their card says."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

import vmp
from experiments import micro
from experiments.data import PhotoPan
from experiments.evaluate import evaluate
from experiments.training.start import make_model
from experiments.training.state import TrainingState
from tests.experiments.commands import run_command
from vmp.checkpoint import read_checkpoint
from vmp.config import ModelConfig

TINY = {
    "num_frames": 2,
    "tubelet_size": 1,
    "image_size": 16,
    "patch_size": 8,
    "d_model": 16,
    "depth": 1,
    "d_state": 4,
}


@pytest.fixture
def tiny(monkeypatch):
    changes = {"fields": TINY, "batch_size": 4, "warmup_steps": 1, "workers": 0}
    monkeypatch.setattr(micro, "SETTINGS", micro.SETTINGS.model_copy(update=changes))


def test_making_them_writes_checkpoints_results_and_card(tiny, tmp_path):
    flags = ("--out", tmp_path / "out", "--work", tmp_path / "work", "--steps", 12, "--clips", 24)
    result = run_command(micro.app, *flags)
    assert result.exit_code == 0, result
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == [
        "README.md",
        *("vmp_micro_attention.json", "vmp_micro_attention.safetensors"),
        *("vmp_micro_paper.json", "vmp_micro_paper.safetensors"),
        *("vmp_micro_videomamba.json", "vmp_micro_videomamba.safetensors"),
    ]
    told = json.loads(written["vmp_micro_paper.json"])
    model = vmp.load_checkpoint(tmp_path / "out" / "vmp_micro_paper.safetensors")
    evaluation = evaluate(model, PhotoPan("held-out", 2, 16, seed=1000, size=24))
    assert told["accuracy"] == evaluation.accuracy
    assert told["confusion"] == evaluation.confusion.tolist()
    by_hand = [
        evaluation.predictions[k] == k % 6 for k in range(24) if evaluation.names[k].startswith("moon-")
    ]
    assert told["accuracy_by_photograph"]["moon"] == pytest.approx(sum(by_hand) / len(by_hand))
    card = written["README.md"].decode()
    assert f"| `vmp_micro_paper.safetensors` | {100 * evaluation.accuracy:.1f} |" in card
    assert "12 steps of 4 clips" in card
    assert (
        run_command(micro.app, *flags).exit_code == 0
    )  # finished runs are not run again, and the same is written
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == written


def test_both_scans_start_from_the_same_draw():
    starts = []
    for variant in ("paper", "videomamba"):
        torch.manual_seed(micro.SETTINGS.seed)
        starts.append(make_model(micro.SETTINGS.model_copy(update={"variant": variant}))[0].state_dict())
    shared = starts[0].keys() & starts[1].keys()
    assert {name.rpartition(".")[2] for name in starts[0].keys() ^ starts[1].keys()} == {"D_b"}
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in shared)


def test_interrupted_it_says_so_and_goes_on(tiny, tmp_path, monkeypatch):
    update = TrainingState.update

    def update_and_interrupt(run, *batch):
        update(run, *batch)
        if run.step == 2 and run.config.variant == "videomamba":
            signal.raise_signal(signal.SIGTERM)

    flags = ("--out", tmp_path / "out", "--work", tmp_path / "work", "--steps", 4, "--clips", 6)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "update", update_and_interrupt)
        result = run_command(micro.app, *flags)
    assert result.exit_code == 128 + signal.SIGTERM
    assert result.stderr.strip() == "stopped after step 2; the same command goes on from there"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "vmp_micro_paper.json",
        "vmp_micro_paper.safetensors",
    ]
    assert run_command(micro.app, *flags).exit_code == 0
    assert (tmp_path / "out" / "README.md").exists()


@pytest.mark.parametrize("variant", micro.VARIANTS)
def test_the_checkpoints_in_the_repository_are_as_told(variant):
    path = micro.CHECKPOINTS / f"vmp_micro_{variant}.safetensors"
    told = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size == told["bytes"] < 2_000_000
    loaded = read_checkpoint(path)
    assert loaded.weights_sha256 == told["weights_sha256"]
    assert loaded.config == ModelConfig.from_dict(told["model"])
    assert loaded.config.variant == told["training"]["variant"] == variant
    assert sum(value.numel() for value in load_file(path).values()) == told["parameters"]
    assert told["clips"] >= 900
    assert sum(map(sum, told["confusion"])) == told["clips"]
    assert sum(told["confusion"][k][k] for k in range(6)) == round(told["accuracy"] * told["clips"])
    assert told["interval"][0] < told["accuracy"] < told["interval"][1]
    assert not set(told["accuracy_by_photograph"]) & set(told["training_photographs"])


@pytest.mark.parametrize("variant", micro.VARIANTS)
def test_the_checkpoints_in_the_repository_tell_motion_on_photographs_they_have_not_seen(variant):
    path = micro.CHECKPOINTS / f"vmp_micro_{variant}.safetensors"
    told = json.loads(path.with_suffix(".json").read_text())
    model = vmp.load_checkpoint(path)
    clips = PhotoPan("held-out", model.config.num_frames, model.config.image_size, seed=99, size=144)
    accuracy = evaluate(model, clips).accuracy
    assert accuracy > 0.6  # chance is 1/6
    # Other clips of the same photographs: 144 of them scatter by less than this in all but one of 1000 draws.
    assert accuracy == pytest.approx(told["accuracy"], abs=3.3 * (0.25 / 144) ** 0.5)


def test_the_card_in_the_repository_is_made_of_the_results_in_it(tmp_path):
    for variant in micro.VARIANTS:
        name = f"vmp_micro_{variant}.json"
        (tmp_path / name).write_bytes((micro.CHECKPOINTS / name).read_bytes())
    micro.write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == (micro.CHECKPOINTS / "README.md").read_text()
    first, *others = (
        json.loads((tmp_path / f"vmp_micro_{variant}.json").read_text())["training"]
        for variant in micro.VARIANTS
    )
    for other in others:
        assert {name for name in first if first[name] != other[name]} == {"variant"}


def test_parameters_match_within_2_percent():
    told = [json.loads((micro.CHECKPOINTS / f"vmp_micro_{v}.json").read_text()) for v in micro.VARIANTS]
    counts = [result["parameters"] for result in told]
    assert max(counts) < 1.02 * min(counts)
