"""Training on video files: everything on, killed, continued, judged; bad files; a full disk; two processes."""

import json
import pathlib
import resource
import signal
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vmp
from analysis.files import write_text
from experiments.data import VideoViews, read_list
from experiments.evaluate import evaluate
from experiments.train import Stopped, TrainConfig, app, train
from tests.experiments.commands import assert_refused, run_command
from tests.experiments.training.small import (
    CONFIG,
    ENVIRONMENT,
    LAUNCH,
    TINY,
    interrupt,
    metrics,
    run_in_a_process,
    same_bits,
    train_and_be_killed,
)
from tests.experiments.videos import write_list, write_pans
from vmp.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of 12 pans over photographs, of which one was cut short and one is not there, and the list of them."""
    folder = tmp_path_factory.mktemp("videos")
    labels = write_pans(folder, 12, num_frames=8, size=32)
    whole = (folder / "pan-3.mp4").read_bytes()
    (folder / "pan-3.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "pan-7.mp4").unlink()
    write_list(folder / "list.txt", labels)
    return folder


@pytest.fixture(scope="module")
def everything(videos):
    """A configuration that leaves nothing out."""
    return TrainConfig(
        task="list",
        train_list=str(videos / "list.txt"),
        root=str(videos),
        fields={**TINY, "drop_path": 0.2},
        variant="paper",
        steps=8,
        batch_size=8,
        accumulate=2,
        warmup_steps=2,
        layer_decay=0.8,
        ema_decay=0.8,
        precision="bfloat16",
        recompute=True,
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
        repeats=2,
        randaugment=2,
        max_bad=0.2,
        save_every=3,
        log_every=1,
        workers=0,
    )


@pytest.fixture(scope="module")
def whole(everything, tmp_path_factory):
    """A run of everything that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    train(everything, out)
    return out


def same_run(first: pathlib.Path, second: pathlib.Path) -> bool:
    names = [sorted(path.name for path in folder.iterdir()) for folder in (first, second)]
    return (
        names[0] == names[1]
        and metrics(first) == metrics(second)
        and all(same_bits(first / name, second / name) for name in names[0] if name.endswith(".safetensors"))
    )


def test_everything_on_trains_counts_bad_videos_and_is_judged(whole, videos):
    assert sorted(path.name for path in whole.iterdir()) == [
        "bad_videos.json",
        "config.json",
        "last_step.safetensors",
        "metrics.jsonl",
        "weights.safetensors",
    ]
    bad = json.loads((whole / "bad_videos.json").read_text())
    assert bad.keys() == {"3", "7"}
    assert "pan-3.mp4: cut short" in bad["3"] or "pan-3.mp4: damaged" in bad["3"]
    assert bad["7"].endswith("pan-7.mp4: no such file or folder")
    lines = metrics(whole)
    assert [line["step"] for line in lines] == list(range(1, 9))
    # 4 draws a step of 12 videos: 3 steps are an epoch, after which each was met.
    counts = [line["bad_videos"] for line in lines]
    assert counts == sorted(counts)
    assert counts[2:] == [2] * 6
    model = vmp.load_checkpoint(whole / "weights.safetensors")
    samples = [sample for k, sample in enumerate(read_list(videos / "list.txt", videos)) if k not in (3, 7)]
    judged = evaluate(model, VideoViews(samples, tuple("012345"), 2, 16, clips=2, crops=3))
    assert judged.logits.shape == (10, 6)
    assert list(judged.labels) == [sample.label for sample in samples]
    assert np.isfinite(judged.logits).all()


def test_killed_and_continued_it_ends_with_the_same_bits(everything, whole, tmp_path):
    config, out = everything.model_copy(update={"workers": 2}), tmp_path / "run"
    assert run_in_a_process(train_and_be_killed, config, out, 5)[0] == -signal.SIGKILL
    assert torch.load(out / "checkpoint.pt")["step"] == 3
    assert not (out / "weights.safetensors").exists()
    train(everything, out)
    assert same_run(out, whole)


def test_another_file_of_initial_weights_does_not_go_on(everything, whole, tmp_path, monkeypatch):
    start = tmp_path / "start.safetensors"
    start.write_bytes((whole / "weights.safetensors").read_bytes())
    config = everything.model_copy(update={"init": str(start)})
    with monkeypatch.context() as patch:
        interrupt(patch, 1, "signal")
        with pytest.raises(Stopped):
            train(config, tmp_path / "run")
    start.write_bytes((whole / "last_step.safetensors").read_bytes())
    with pytest.raises(
        ValueError, match=r"the run began from other weights than .*start\.safetensors now holds"
    ):
        train(config, tmp_path / "run")
    start.write_bytes((whole / "weights.safetensors").read_bytes())
    written = read_checkpoint(train(config, tmp_path / "run"))
    assert written.metadata["init_weights_sha256"] == read_checkpoint(start).weights_sha256
    assert written.metadata["ema_decay"] == "0.8"


def test_a_full_disk_is_one_line_and_the_earlier_checkpoint_goes_on(everything, whole, tmp_path, monkeypatch):
    kind, sizes = resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (whole / "weights.safetensors").stat().st_size
    # Checkpoints hold the weights four times over, with moments and average: they do not fit, and the metrics do.
    try:
        resource.setrlimit(kind, (2 * size, sizes[1]))
        with pytest.raises(
            ValueError, match=r"checkpoint\.pt: cannot be written: File too large; what was there"
        ):
            train(everything, tmp_path)
        assert not (tmp_path / "checkpoint.pt").exists()
        resource.setrlimit(kind, sizes)
        with monkeypatch.context() as patch:
            interrupt(patch, 4, "signal")
            with pytest.raises(Stopped):
                train(everything, tmp_path)
        before = (tmp_path / "checkpoint.pt").read_bytes()
        resource.setrlimit(kind, (2 * size, sizes[1]))
        with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be written"):
            train(everything, tmp_path)
        assert (tmp_path / "checkpoint.pt").read_bytes() == before
        assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
        resource.setrlimit(kind, (size - 1, sizes[1]))
        with pytest.raises(ValueError, match=r"weights\.safetensors: cannot be written: File too large"):
            train(everything.model_copy(update={"save_every": 100}), tmp_path)
        assert (tmp_path / "checkpoint.pt").read_bytes() == before
        assert not (tmp_path / "weights.safetensors").exists()
    finally:
        resource.setrlimit(kind, sizes)
    train(everything, tmp_path)
    assert same_run(tmp_path, whole)


def test_too_many_bad_videos_end_the_command_in_a_line_and_a_higher_limit_goes_on(
    everything, whole, tmp_path
):
    write_text(tmp_path / "given.json", everything.model_dump_json())
    arguments = ("--config", str(tmp_path / "given.json"), "--out", str(tmp_path / "run"))
    # A checkpoint every 100 steps, so that none is due before the second bad video is met.
    result = run_command(app, *arguments, "--set", "max_bad=0.1", "--set", "save_every=100")
    assert_refused(result, "2 of 12 videos of the list are missing or damaged, and max_bad allows 1: ")
    assert "pan-3.mp4" in result.stderr
    assert "pan-7.mp4" in result.stderr
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    met = next(line["step"] for line in metrics(whole) if line["bad_videos"] == 2)
    assert met > 1
    assert torch.load(tmp_path / "run" / "checkpoint.pt")["step"] == met - 1  # no step that was done is lost
    result = run_command(app, *arguments)
    assert result.exit_code == 0
    assert result.stderr.startswith("2 videos of the list could not be read and were replaced: ")
    assert same_run(tmp_path / "run", whole)


def test_two_processes_do_the_same_as_one(everything, tmp_path):
    # Mixtures are within a process's share and stochastic depth is drawn for it: these are left out of what is alike.
    fixed = {"fields": TINY, "precision": "float32", "mixup": 0.0, "cutmix": 0.0, "steps": 4, "save_every": 9}
    configs = {
        "clips": CONFIG.model_copy(update={"fields": TINY, "log_every": 1, "steps": 7}),
        "videos": everything.model_copy(update=fixed),
        "all": everything.model_copy(update={"steps": 4}),
    }
    for name, config in configs.items():
        write_text(tmp_path / f"{name}.json", config.model_dump_json())
    script = tmp_path / "both.py"
    script.write_text(
        "import pathlib, sys, torch\n"
        "from experiments.train import TrainConfig, train\n"
        "from experiments.training.state import TrainingState\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "finish = TrainingState.finish\n"
        "def finish_and_show(run, weights):\n"
        "    torch.save(run.unwrapped.state_dict(), f'{weights.parent}-{run.accelerator.process_index}.pt')\n"
        "    assert run.accelerator.num_processes == 2\n"
        "    finish(run, weights)\n"
        "TrainingState.finish = finish_and_show\n"
        "for name in sys.argv[2:]:\n"
        "    train(TrainConfig.read(folder / f'{name}.json'), folder / name)\n"
        "torch.distributed.destroy_process_group()\n"
    )
    command = [*LAUNCH, str(script), str(tmp_path), *configs]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=240)
    for name, last in (("clips", "weights"), ("videos", "last_step"), ("all", "last_step")):
        saved = load_file(tmp_path / name / f"{last}.safetensors")
        for rank in (0, 1):
            kept = torch.load(tmp_path / f"{name}-{rank}.pt")
            assert all(torch.equal(kept[key], value) for key, value in saved.items())
    for name in ("clips", "videos"):
        alone = tmp_path / f"{name}-alone"
        train(configs[name], alone)
        for path in alone.glob("*.safetensors"):
            both = load_file(tmp_path / name / path.name)
            for key, value in load_file(path).items():
                # Adam divides by the size of the gradient, and so makes much of rounding where that is next to nothing.
                torch.testing.assert_close(both[key], value, rtol=0, atol=2e-4)
        for one, two in zip(metrics(alone), metrics(tmp_path / name), strict=True):
            assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
            assert (two["accuracy"], two.get("bad_videos")) == (one["accuracy"], one.get("bad_videos"))
    assert metrics(tmp_path / "all")[-1]["bad_videos"] == 2
