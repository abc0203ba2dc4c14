"""Runs that end with the same bits however they were cut up, and what they leave and refuse."""

import io
import math
import multiprocessing
import os
import signal
import time

import pytest
import torch

import vmp
from experiments.data import PhotoPan
from experiments.train import Stopped, TrainConfig, train
from experiments.training import loop
from experiments.training.batches import StepBatches
from experiments.training.start import make_model
from tests.experiments.training.small import CONFIG, TINY, interrupt, metrics, run_in_a_process, same_bits


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    train(CONFIG, out)
    return out


def test_a_run_leaves_weights_metrics_and_configuration(whole):
    assert sorted(path.name for path in whole.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "weights.safetensors",
    ]
    assert TrainConfig.read(whole / "config.json") == CONFIG
    lines = metrics(whole)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14]
    for line in lines:
        assert math.isfinite(line["loss"])
        assert line["learning_rate"] == pytest.approx(CONFIG.rate(int(line["step"]) - 1))
        assert line["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    model = vmp.load_checkpoint(whole / "weights.safetensors")
    assert model.config.variant == "paper"
    assert model.config.num_classes == 6
    torch.manual_seed(CONFIG.seed)
    start = make_model(CONFIG)[0].state_dict()
    assert all(not torch.equal(start[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("how", "steps"), [("signal", (1, 6, 13)), ("death", (3, 5, 8))])
def test_an_interrupted_run_ends_with_the_same_bits(whole, tmp_path, monkeypatch, how, steps):
    for step in steps:
        with monkeypatch.context() as patch:
            interrupt(patch, step, how)
            with pytest.raises(Stopped if how == "signal" else MemoryError) as caught:
                train(CONFIG, tmp_path)
        if how == "signal":
            assert caught.value.signal == signal.SIGINT
            assert str(caught.value).startswith(f"stopped after step {step}; ")
            assert torch.load(tmp_path / "checkpoint.pt")["step"] == step
        assert not (tmp_path / "weights.safetensors").exists()
    train(CONFIG, tmp_path)
    assert same_bits(tmp_path / "weights.safetensors", whole / "weights.safetensors")
    assert metrics(tmp_path) == metrics(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in whole.iterdir())


def train_and_be_killed_while_writing(config, out):
    save = torch.save

    def save_half_and_die(state, file):
        if state["step"] == 10:
            buffer = io.BytesIO()
            save(state, buffer)
            file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, file)

    torch.save = save_half_and_die
    train(config, out)


def test_a_run_killed_while_it_writes_a_checkpoint_ends_with_the_same_bits(whole, tmp_path):
    config, out = CONFIG.model_copy(update={"workers": 1}), tmp_path / "run"
    assert run_in_a_process(train_and_be_killed_while_writing, config, out)[0] == -signal.SIGKILL
    assert torch.load(out / "checkpoint.pt")["step"] == 5
    assert [line["step"] for line in metrics(out)] == [2, 4, 6, 8, 10]
    assert any(path.name.endswith(".tmp") for path in out.iterdir())
    train(CONFIG, out)
    assert same_bits(out / "weights.safetensors", whole / "weights.safetensors")
    assert metrics(out) == metrics(whole)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_workers_and_seeds(whole, tmp_path):
    train(CONFIG.model_copy(update={"workers": 2}), tmp_path / "workers")
    assert same_bits(tmp_path / "workers/weights.safetensors", whole / "weights.safetensors")
    train(CONFIG.model_copy(update={"seed": 1}), tmp_path / "seed")
    assert not same_bits(tmp_path / "seed/weights.safetensors", whole / "weights.safetensors")


def test_a_finished_run_is_left_alone(whole):
    before = (whole / "weights.safetensors").stat().st_mtime_ns
    assert train(CONFIG, whole) == whole / "weights.safetensors"
    assert (whole / "weights.safetensors").stat().st_mtime_ns == before


def test_another_configuration_in_the_same_folder_is_refused(whole):
    with pytest.raises(ValueError, match="another configuration: steps was 14 and is now 15; name another"):
        train(CONFIG.model_copy(update={"steps": 15}), whole)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "config.json").write_text(CONFIG.model_dump_json())
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: damaged; delete it"):
        train(CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"steps"', r"config\.json: damaged: it must hold the fields of a run, in JSON"),
        ("config.json", "[]", r"config\.json: damaged: it must hold the fields of a run, in JSON"),
        ("metrics.jsonl", "epoch 1\n", r"metrics\.jsonl: not the metrics of a run; move it"),
        ("metrics.jsonl", '{"epoch": 1}\n', r"metrics\.jsonl: not the metrics of a run; move it"),
        ("checkpoint.pt", "another's", r"checkpoint\.pt: there is no config\.json beside it"),
    ],
)
def test_a_folder_of_another_s_files_is_refused_and_left_as_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        train(CONFIG, tmp_path)
    assert "\n" not in str(caught.value)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, content)]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    wild = CONFIG.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30, "warmup_steps": 0})
    with pytest.raises(
        ValueError,
        match=r"the (loss|norm of the gradient) is (nan|inf) at step \d+: try a learning_rate below 1e\+30",
    ):
        train(wild, tmp_path)


def test_a_batch_must_divide_among_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Accelerator, "num_processes", 3)
    with pytest.raises(ValueError, match="batch_size 4 does not divide among 3 processes"):
        train(CONFIG, tmp_path)


def test_a_single_clip_cannot_be_mixed(tmp_path):
    with pytest.raises(ValueError, match="batch_size 1 leaves each of 1 a single one; it must be larger"):
        train(CONFIG.model_copy(update={"batch_size": 1, "mixup": 0.8}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_worker_outlives_a_run_that_fails_even_one_that_a_clip_holds_up(tmp_path, monkeypatch):
    make_frames = PhotoPan.frames

    def frames_or_sleep(dataset, index):
        if index == slow:
            time.sleep(120)
        return make_frames(dataset, index)

    first, second = list(StepBatches(CONFIG, CONFIG.steps * CONFIG.batch_size, 0))[:2]
    slow, _ = second[0]
    assert slow not in [index for index, _ in first]
    monkeypatch.setattr(PhotoPan, "frames", frames_or_sleep)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    interrupt(monkeypatch, 1, "death")
    with pytest.raises(MemoryError):
        train(CONFIG.model_copy(update={"workers": 1}), tmp_path)
    for process in multiprocessing.active_children():
        process.join(timeout=5)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fields": {**TINY, "channels": 1}}, "the clip has 3 channels"),  # the first step fails
        ({"betas": (0.9, 1.5)}, "Invalid beta parameter"),  # making the optimiser fails
    ],
)
def test_a_run_that_fails_before_its_first_step_does_not_refuse_the_corrected_one(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        train(CONFIG.model_copy(update=wrong), tmp_path)
    assert not (tmp_path / "config.json").exists()
    train(CONFIG.model_copy(update={"steps": 1}), tmp_path)
    assert TrainConfig.read(tmp_path / "config.json").steps == 1


def test_a_folder_that_cannot_take_metrics_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"metrics\.jsonl: the folder cannot be used: Is a directory"):
        train(CONFIG, tmp_path)
