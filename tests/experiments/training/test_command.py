"""The command: its flags, its errors in one line, and what it does when it is asked to stop."""

import signal

import pytest
import torch

import vmp
from analysis.files import write_text
from experiments.train import TrainConfig, app
from tests.experiments.commands import assert_refused, run_command
from tests.experiments.training.small import CONFIG, interrupt, run_in_a_process, train_by_command


def test_command_line_trains_and_flags_go_before_the_file(tmp_path):
    write_text(tmp_path / "given.json", CONFIG.model_dump_json())
    out = tmp_path / "run"
    flags = ("--steps", "3", "--variant", "mask", "--task", "digits-digit", "--set", "label_smoothing=0.1")
    result = run_command(app, "--config", str(tmp_path / "given.json"), "--out", str(out), *flags)
    assert result.exit_code == 0, result
    assert result.stdout.strip() == str(out / "weights.safetensors")
    chosen = TrainConfig.read(out / "config.json")
    assert chosen == CONFIG.model_copy(
        update={"steps": 3, "variant": "mask", "task": "digits-digit", "label_smoothing": 0.1}
    )
    assert vmp.load_checkpoint(out / "weights.safetensors").config.num_classes == 10


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config", "{tmp}/none.json"), "none.json: the configuration cannot be read: No such file"),
        (("--config", "{tmp}/list.json"), "list.json: not a configuration in JSON: it must hold an object"),
        (("--config", "{tmp}/broken.json"), "broken.json: not a configuration in JSON"),
        (("--steps", "0"), "steps: Input should be greater than or equal to 1"),
        (("--set", "stpes=3"), "stpes: there is no such field; do you mean steps?"),
        (("--set", "steps=0"), "steps: Input should be greater than or equal to 1"),
        (("--set", "path=3"), "path: there is no such field; there are task, model, variant, "),
        (("--set", "steps"), "--set steps: it must have the form name=value"),
        (("--task", "cats"), "task: there is no task 'cats'; there are recall, "),
        (("--model", "resnet"), "no model 'resnet'"),
        (("--variant", "none"), "no variant 'none'"),
        (("--set", 'fields={"depht": 2}'), "no field depht"),
        (("--set", 'fields={"num_classes": 3}'), "num_classes is 3, but the task photo-pan has 6 classes"),
        (("--set", 'fields={"num_classes": 0}'), "num_classes is 0, but the task photo-pan has 6 classes"),
        (
            ("--set", 'fields={"variant": "paper"}'),
            "fields: variant cannot be among them; give it as variant",
        ),
        (("--set", 'fields={"name": "mine"}'), "fields: name cannot be among them; give it as model"),
        (("--set", "betas=[0.9, 1.5]"), "betas.1: Input should be less than 1"),
        (("--set", "betas=[-0.1, 0.9]"), "betas.0: Input should be greater than or equal to 0"),
        (("--train-list", "{tmp}/list.json"), "train_list is for lists of videos"),
        (("--out", "{tmp}/list.json"), "list.json: the folder cannot be used"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, flags, message):
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    flags = tuple(flag.replace("{tmp}", str(tmp_path)) for flag in flags)
    out = () if "--out" in flags else ("--out", str(tmp_path / "run"))
    assert_refused(run_command(app, *out, *flags), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_list_that_cannot_be_read_is_one_line_and_ends_the_command(tmp_path, workers):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text("bad.mp4 0\nbad.mp4 1\n")
    flags = f"--task list --train-list {tmp_path}/list.txt --root {tmp_path} --out {tmp_path}/o".split()
    code, errors = run_in_a_process(train_by_command, [*flags, "--set", f"workers={workers}"])
    assert code == 2
    assert errors.startswith(
        "error: 16 videos of the list in a row cannot be read; the first of them: "
        f"{tmp_path / 'bad.mp4'}: damaged, or not a video"
    )
    assert len(errors.splitlines()) == 1


def test_terminating_all_processes_of_a_run_lets_it_save(tmp_path):
    write_text(tmp_path / "given.json", CONFIG.model_copy(update={"workers": 1}).model_dump_json())
    flags = ["--config", f"{tmp_path}/given.json", "--out", f"{tmp_path}/run"]
    code, errors = run_in_a_process(train_by_command, flags, 3)
    assert code == 128 + signal.SIGTERM
    assert errors.strip() == "stopped after step 3; the same command goes on from there"
    assert torch.load(tmp_path / "run" / "checkpoint.pt")["step"] == 3


def test_interrupting_the_command_saves_and_says_so(tmp_path, monkeypatch):
    write_text(tmp_path / "given.json", CONFIG.model_dump_json())
    interrupt(monkeypatch, 7, "signal")
    result = run_command(app, "--config", str(tmp_path / "given.json"), "--out", str(tmp_path / "run"))
    assert result.exit_code == 128 + signal.SIGINT
    assert result.stderr.strip() == "stopped after step 7; the same command goes on from there"
    assert torch.load(tmp_path / "run" / "checkpoint.pt")["step"] == 7
