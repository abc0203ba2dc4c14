"""Training: the schedule, the order of clips, and runs that end with the same bits however they were cut up."""

import contextlib
import json
import math
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

import vmp
from experiments.data import PhotoPan
from experiments.runs import RunFolder, write_text
from experiments.train import Stopped, TrainConfig, main, train
from experiments.training import loop
from experiments.training.batches import StepBatches
from experiments.training.optimiser import parameter_groups
from experiments.training.run import Run
from experiments.training.start import make_model
from experiments.training.stopping import StopSignal

TINY = {
    "num_frames": 2,
    "tubelet_size": 1,
    "image_size": 16,
    "patch_size": 8,
    "d_model": 16,
    "depth": 2,
    "d_state": 4,
}
CONFIG = TrainConfig(
    fields={**TINY, "drop_path": 0.2},
    variant="paper",
    steps=14,
    batch_size=4,
    warmup_steps=3,
    save_every=5,
    log_every=2,
    workers=0,
)
# A script is no module: the working directory is put on its path by hand.
ENVIRONMENT = {
    **os.environ,
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(pathlib.Path(vmp.__file__).parents[1]),
}


def metrics(out: pathlib.Path) -> list[dict[str, float]]:
    """The lines of metrics without the time they took."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def same_bits(first: pathlib.Path, second: pathlib.Path) -> bool:
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    train(CONFIG, out)
    return out


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, how: str) -> None:
    """Let training be interrupted right after a step: by a signal, or by dying without a word."""
    update = Run.update

    def update_and_interrupt(run, *batch):
        update(run, *batch)
        if run.step == step and how == "signal":
            signal.raise_signal(signal.SIGINT)
        if run.step == step and how == "death":
            raise MemoryError

    monkeypatch.setattr(Run, "update", update_and_interrupt)


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
            assert (caught.value.signal, caught.value.step) == (signal.SIGINT, step)
            assert torch.load(tmp_path / "checkpoint.pt")["step"] == step
        assert not (tmp_path / "weights.safetensors").exists()
    train(CONFIG, tmp_path)
    assert same_bits(tmp_path / "weights.safetensors", whole / "weights.safetensors")
    assert metrics(tmp_path) == metrics(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_a_run_killed_while_it_writes_a_checkpoint_ends_with_the_same_bits(whole, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        "import io, os, pathlib, signal, sys, torch\n"
        "from experiments.train import TrainConfig, train\n"
        "save = torch.save\n"
        "def save_half_and_die(state, file):\n"
        "    if state['step'] < 10:\n"
        "        return save(state, file)\n"
        "    buffer = io.BytesIO()\n"
        "    save(state, buffer)\n"
        "    file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.save = save_half_and_die\n"
        "train(TrainConfig.read(pathlib.Path(sys.argv[1]), {'workers': 1}), pathlib.Path(sys.argv[2]))\n"
    )
    out = tmp_path / "run"
    command = [sys.executable, str(script), str(whole / "config.json"), str(out)]
    assert subprocess.run(command, env=ENVIRONMENT, timeout=240).returncode == -signal.SIGKILL
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
    RunFolder(tmp_path, CONFIG.model_dump(mode="json"))
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: damaged; delete it"):
        train(CONFIG, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    wild = CONFIG.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30, "warmup_steps": 0})
    with pytest.raises(
        ValueError, match=r"the loss is (nan|inf) at step \d+: try a learning_rate below 1e\+30"
    ):
        train(wild, tmp_path)


def test_two_processes_do_the_same_as_one(tmp_path):
    config = CONFIG.model_copy(update={"fields": TINY, "log_every": 1})
    train(config, tmp_path / "one")
    script = tmp_path / "both.py"
    script.write_text(
        "import pathlib, sys, torch\n"
        "from experiments.train import TrainConfig, train\n"
        "from experiments.training.run import Run\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "finish = Run.finish\n"
        "def finish_and_show(run, weights):\n"
        "    torch.save(run.unwrapped.state_dict(), folder / f'rank{run.accelerator.process_index}.pt')\n"
        "    assert run.accelerator.num_processes == 2\n"
        "    finish(run, weights)\n"
        "Run.finish = finish_and_show\n"
        "train(TrainConfig.read(folder / 'one' / 'config.json'), folder / 'two')\n"
        "torch.distributed.destroy_process_group()\n"
    )
    # Without --multi_gpu, accelerate starts a single process on a machine that has no mpirun.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    options = [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    ]
    subprocess.run([*launch, *options, str(script), str(tmp_path)], env=ENVIRONMENT, check=True, timeout=240)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    saved, alone = (load_file(tmp_path / name / "weights.safetensors") for name in ("two", "one"))
    for name, value in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        assert torch.equal(ranks[0][name], saved[name])
        # Adam divides by the size of the gradient, and so makes much of rounding where that is next to nothing.
        torch.testing.assert_close(saved[name], value, rtol=0, atol=2e-4)
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert two["accuracy"] == one["accuracy"]


def test_a_batch_must_divide_among_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Accelerator, "num_processes", 3)
    with pytest.raises(ValueError, match="batch_size 4 does not divide among 3 processes"):
        train(CONFIG, tmp_path)


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    config = TrainConfig(steps=110, warmup_steps=10, learning_rate=0.5, final_rate=0.1)
    assert [config.rate(step) for step in range(10)] == pytest.approx([0.05 * k for k in range(1, 11)])
    assert config.rate(10) == pytest.approx(0.5)
    assert config.rate(60) == pytest.approx((0.5 + 0.05) / 2)
    assert config.rate(35) == pytest.approx(0.05 + 0.45 * (1 + math.sqrt(0.5)) / 2)
    assert config.rate(110) == pytest.approx(0.05)
    assert all(config.rate(step) > config.rate(step + 1) for step in range(10, 109))


def test_batches_cover_every_epoch_once_and_split_over_processes():
    config = TrainConfig(steps=15, batch_size=4, seed=3)
    batches = [[draw[0] for draw in batch] for batch in StepBatches(config, size=20, start=0)]
    assert [len(batch) for batch in batches] == [4] * 15
    flat = [index for batch in batches for index in batch]
    epochs = [flat[k : k + 20] for k in (0, 20, 40)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert epochs[0] != epochs[1] != epochs[2]
    assert [[draw[0] for draw in batch] for batch in StepBatches(config, 20, start=6)] == batches[6:]
    halves = [
        [[draw[0] for draw in batch] for batch in StepBatches(config, 20, 0, rank, 2)] for rank in (0, 1)
    ]
    for whole_batch, first, second in zip(batches, *halves, strict=True):
        assert sorted(first + second) == sorted(whole_batch)
        assert len(first) == len(second) == 2
    drawn = [draw for batch in StepBatches(config, size=7, start=0) for draw in batch]
    assert [epoch for _, epoch in drawn] == [place // 7 for place in range(60)]
    odd = [index for index, _ in drawn]
    assert all(sorted(odd[k : k + 7]) == list(range(7)) for k in range(0, 56, 7))


def test_weight_decay_is_for_matrices_alone():
    model = vmp.create_model("vmp_micro", "videomamba", **TINY, num_classes=3)
    decayed, exempt = parameter_groups(model, 0.05)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    names = [{name_of[id(p)] for p in group["params"]} for group in (decayed, exempt)]
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.05, 0)
    assert names[0] | names[1] == set(name_of.values())
    assert not names[0] & names[1]
    assert {name.removeprefix("layers.0.mixer.") for name in names[0] if "layers.1" not in name} == {
        "patch_embed.proj.weight",
        "in_proj.weight",
        "conv1d.weight",
        "conv1d_b.weight",
        "x_proj.weight",
        "x_proj_b.weight",
        "dt_proj.weight",
        "dt_proj_b.weight",
        "out_proj.weight",
        "head.weight",
    }


@pytest.fixture
def interrupts():
    """SIGINT raises as in a terminal: a shell starts background jobs with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_stop_signal_notes_the_first_and_lets_the_second_through(interrupts):
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def run_cli(*arguments: str):
    application = typer.Typer()
    application.command()(main)
    return CliRunner().invoke(application, arguments)


def test_command_line_trains_and_flags_go_before_the_file(tmp_path):
    write_text(tmp_path / "given.json", CONFIG.model_dump_json())
    out = tmp_path / "run"
    flags = ("--steps", "3", "--variant", "mask", "--task", "digits-digit", "--set", "label_smoothing=0.1")
    result = run_cli("--config", str(tmp_path / "given.json"), "--out", str(out), *flags)
    assert result.exit_code == 0, result.output
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
        (("--set", "stpes=3"), "stpes: Extra inputs are not permitted"),
        (("--set", "steps=0"), "steps: Input should be greater than or equal to 1"),
        (("--set", "path=3"), "path: Extra inputs are not permitted"),
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
        (("--task", "video"), "needs a list of files"),
        (("--task", "video", "--train-list", "{tmp}/none.txt"), "none.txt: the list cannot be read"),
        (("--out", "{tmp}/list.json"), "list.json: the folder cannot be used"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, flags, message):
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    flags = tuple(flag.replace("{tmp}", str(tmp_path)) for flag in flags)
    out = () if "--out" in flags else ("--out", str(tmp_path / "run"))
    result = run_cli(*out, *flags)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_cannot_be_read_is_one_line_and_ends_the_command(tmp_path, workers):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text("bad.mp4 0\nbad.mp4 1\n")
    flags = (
        "--task",
        "video",
        "--train-list",
        tmp_path / "list.txt",
        "--root",
        tmp_path,
        "--out",
        tmp_path / "o",
    )
    command = [sys.executable, "-m", "experiments.train", *flags, "--set", f"workers={workers}"]
    with subprocess.Popen(
        [*map(str, command)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            _, errors = process.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 2
    assert errors.startswith(f"error: {tmp_path / 'bad.mp4'}: damaged, or not a video")
    assert len(errors.splitlines()) == 1


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


def test_terminating_all_processes_of_a_run_lets_it_save(tmp_path):
    write_text(tmp_path / "given.json", CONFIG.model_copy(update={"workers": 1}).model_dump_json())
    script = tmp_path / "terminated.py"
    script.write_text(
        "import os, signal\n"
        "import typer\n"
        "from experiments.train import main\n"
        "from experiments.training.run import Run\n"
        "update = Run.update\n"
        "def update_and_terminate(run, *batch):\n"
        "    update(run, *batch)\n"
        "    if run.step == 3:\n"
        "        os.killpg(0, signal.SIGTERM)\n"
        "Run.update = update_and_terminate\n"
        "typer.run(main)\n"
    )
    command = [
        sys.executable,
        str(script),
        "--config",
        str(tmp_path / "given.json"),
        "--out",
        str(tmp_path / "run"),
    ]
    ended = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, start_new_session=True
    )
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr.strip() == "stopped after step 3; the same command goes on from there"
    assert torch.load(tmp_path / "run" / "checkpoint.pt")["step"] == 3


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


def test_interrupting_the_command_saves_and_says_so(tmp_path, monkeypatch):
    write_text(tmp_path / "given.json", CONFIG.model_dump_json())
    interrupt(monkeypatch, 7, "signal")
    result = run_cli("--config", str(tmp_path / "given.json"), "--out", str(tmp_path / "run"))
    assert result.exit_code == 128 + signal.SIGINT
    assert result.stderr.strip() == "stopped after step 7; the same command goes on from there"
    assert torch.load(tmp_path / "run" / "checkpoint.pt")["step"] == 7
