"""`python -m analysis.decay` on real small files: every format, every kind of wrong request, whole outputs."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from analysis.decay import __main__ as cli
from analysis.decay.heatmaps import load_heatmaps
from analysis.decay.result import DecayResult
from analysis.results import from_json, load
from tests.analysis.models import TINY
from tests.vmp import crafted
from vmp import create_model
from vmp.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ckpt") / "tiny.safetensors"
    save_checkpoint(create_model("vmp_micro", variant="paper", num_classes=6, **TINY), path)
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[Path]:
    """Two short films of a drifting gradient, as mp4."""
    folder = tmp_path_factory.mktemp("films")
    paths = []
    for name, speed in (("slow", 2), ("fast", 5)):
        paths.append(folder / f"{name}.mp4")
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for t in range(12):
                across = (np.arange(64) * 4 + speed * t) % 256
                pixels = np.stack([np.tile(across, (48, 1))] * 3, axis=-1).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return paths


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analysis.decay", *map(str, arguments)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # Test workers share the cores.
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=alone)


def result_of(capsys, *arguments: object) -> DecayResult:
    """The result that a run with --json prints, in this process."""
    code = cli.main([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return from_json(DecayResult, shown.out)


def test_video_files_in_a_whole_report_out(checkpoint, films, tmp_path):
    out = tmp_path / "report"
    flags = ["--scope", "contribution", "--layers", "-1", "--bootstrap", 200, "--json", "--out", out]
    done = process("--ckpt", checkpoint, "--video", *films, *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "result.json").read_text())
    result = load(DecayResult, out / "result.json")
    shown = result.provenance.input
    assert (shown.source, shown.names, shown.count) == ("video", ("slow.mp4", "fast.mp4"), 2)
    assert (shown.frames, shown.size, shown.length) == (4, 32, 1 + 4 * 16)
    assert (result.layers, result.scopes) == ((1,), ("contribution",))
    assert result.directions == ("forward", "backward")
    assert result.provenance.command.startswith(f"python -m analysis.decay --ckpt {checkpoint} --video")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]
    assert sorted(path.name for path in out.iterdir()) == [
        "decay.csv",
        "figures",
        "heatmaps.npz",
        "lag_profiles.csv",
        "result.json",
    ]
    figures = {path.name for path in (out / "figures").iterdir()}
    drawn = ("lag_profile", "frame_lag_profile", "half_life", "frame_matrix", "class_row", "by_layer")
    names = [*(f"{name}_contribution" for name in drawn), "attention_contribution_layer01"]
    assert figures == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for path in (out / "figures").glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.std() > 5
    heatmaps = load_heatmaps(out / "heatmaps.npz")
    assert {(h.layer, h.direction, h.scope, h.values.shape) for h in heatmaps} == {
        (1, direction, "contribution", (65, 65)) for direction in ("forward", "backward")
    }
    with (out / "decay.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["scope"] for row in rows} == {"contribution"}
    half = result.measurement(1, "forward", "contribution", "half_life_tokens")
    found = [row for row in rows if (row["direction"], row["quantity"]) == ("forward", half.quantity)]
    assert [float(row["value"]) for row in found] == [half.value]


def test_a_wrong_request_is_one_line_and_exit_code_2(tmp_path):
    done = process("--ckpt", tmp_path / "no.pt", "--out", tmp_path / "report")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "no.pt" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_table_fits_and_names_scope_units_backend_and_input(checkpoint, capsys):
    assert cli.main(["--ckpt", str(checkpoint), "--clips", "2", "--scope", "mixer"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    said = " ".join(text.split())
    for part in (
        "scope mixer",
        "tokens",
        "1/token",
        "2 x photo-pan, seed 0",
        "scan backend",
        "Note: The residual",
    ):
        assert part in said
    assert "…" not in text


FORMATS = {
    "videomamba image": ({"model": crafted.image()}, [], "VideoMamba image", (1, 16)),
    "videomamba video": (crafted.video(frames=3), [], "VideoMamba video", (3, 16)),
    "masked pretraining": ({"module": crafted.pretraining(frames=3)}, [], "pretraining", (3, 16)),
    "videomambapro v1": (crafted.video(frames=3, directions="v1"), [], "VideoMambaPro", (3, 16)),
    "videomambapro v2": (crafted.video(frames=3), ["--variant", "paper"], "paper", (3, 16)),
    "vim, one class token": ({"model": crafted.image()}, ["--family", "vim"], "Vim", (1, 16)),
    "vim, two class tokens": ({"model": crafted.vim_two_tokens()}, [], "Vim", (1, 16)),
    "mamba_ssm": (crafted.language(), ["--length", "20"], "language", (0, 0)),
    "hugging face": (crafted.language("embeddings"), ["--length", "20"], "language", (0, 0)),
}


def with_noise(shapes):
    if all(isinstance(value, dict) for value in shapes.values()):
        return {name: with_noise(inner) for name, inner in shapes.items()}
    return crafted.noise(shapes)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_probed(name, tmp_path, capsys):
    shapes, flags, recognised, (frames, patches) = FORMATS[name]
    path = tmp_path / "file.pth"
    torch.save(with_noise(shapes), path)
    result = result_of(capsys, "--ckpt", path, "--clips", 2, "--bootstrap", 100, "--scope", "all", *flags)
    assert recognised in result.provenance.checkpoint.recognised
    assert (result.layout.frames, result.layout.patches) == (frames, patches)
    assert result.scopes == ("ssm", "mixer", "contribution")
    assert result.layers == (0, 1)
    for scope in result.scopes:
        for direction in result.directions:
            index = result.measurement(1, direction, scope, "decay_index_tokens")
            assert index.value < 1
            assert index.low <= index.value <= index.high
            frame = result.measurement(1, direction, scope, "decay_index_frames")
            expected = {0: "a plain sequence has no frames", 1: "one frame"}.get(frames, "")
            assert (frame.value is None, frame.note) == (frames < 2, expected)
            kept = result.measurement(1, direction, scope, "class_self")
            assert (kept.value is None) == (frames == 0)


def test_a_language_model_says_that_it_saw_random_tokens(tmp_path, capsys):
    torch.save(crafted.noise(crafted.language()), tmp_path / "lm.pth")
    result = result_of(capsys, "--ckpt", tmp_path / "lm.pth", "--clips", 1, "--layers", "0")
    assert result.provenance.input.source == "random tokens"
    assert result.provenance.input.length == 512
    assert result.directions == ("forward",)
    assert "token ids drawn uniformly at random, which are no text" in result.notes[0]
    flags = ["--clips", "1", "--layers", "0", "--length", "9"]
    assert cli.main(["--ckpt", str(tmp_path / "lm.pth"), *flags]) == 0
    # The largest seed that torch takes.
    assert cli.main(["--ckpt", str(tmp_path / "lm.pth"), *flags, "--seed", str(2**63 - 1)]) == 0
    assert "drawn uniformly at random" in " ".join(capsys.readouterr().out.split())


def test_the_first_class_token_sees_only_itself_forward(checkpoint, capsys):
    result = result_of(capsys, "--ckpt", checkpoint, "--clips", 1)
    assert result.measurement(0, "forward", "ssm", "class_self").value == 1
    assert result.curve(0, "forward", "ssm", "class_row").value.tolist() == [0, 0, 0, 0]
    backward = result.measurement(0, "backward", "ssm", "class_self").value
    assert backward + result.curve(0, "backward", "ssm", "class_row").value.sum() == pytest.approx(1)
    assert result.measurement(0, "backward", "ssm", "half_life_tokens").note.endswith("one clip: no interval")


def test_the_seed_decides_clips_and_intervals(checkpoint, capsys):
    flags = ("--ckpt", checkpoint, "--clips", 2, "--layers", "0", "--data", "digits")
    first, again = (result_of(capsys, *flags, "--seed", 3) for _ in range(2))
    other = result_of(capsys, *flags, "--seed", 4)
    assert first.measurements == again.measurements
    assert first.measurements != other.measurements
    assert first.provenance.input.seed == 3


def test_frames_and_size_resize_the_model(checkpoint, capsys):
    result = result_of(capsys, "--ckpt", checkpoint, "--clips", 1, "--frames", 2, "--size", 16)
    assert (result.layout.frames, result.layout.patches, result.layout.length) == (2, 4, 9)


def test_half_precision_weights_are_computed_in_float32(tmp_path, capsys):
    torch.save(crafted.noise(crafted.image(), torch.float16), tmp_path / "half.pth")
    assert result_of(capsys, "--ckpt", tmp_path / "half.pth", "--clips", 1).provenance.dtype == "float32"


def test_weights_with_nan_are_refused_unless_allowed(tmp_path, capsys):
    weights = crafted.noise(crafted.image())
    weights["layers.0.mixer.A_log"][0, 0] = torch.nan
    torch.save(weights, tmp_path / "nan.pth")
    flags = ("--ckpt", tmp_path / "nan.pth", "--clips", 1)
    assert cli.main([*map(str, flags)]) == 2
    assert "NaN" in capsys.readouterr().err
    result = result_of(capsys, *flags, "--allow-nonfinite", "--out", tmp_path / "report")
    half = result.measurement(1, "forward", "ssm", "half_life_tokens")
    assert (half.value, half.note) == (None, "weights are not finite")
    assert (tmp_path / "report" / "figures" / "lag_profile_ssm.png").exists()


WRONG = {
    "no checkpoint": ([], "--ckpt"),
    "unknown flag": (["--ckpt", "CKPT", "--speed", "9"], "--speed"),
    "not a number": (["--ckpt", "CKPT", "--clips", "many"], "--clips"),
    "seed beyond 63 bits": (["--ckpt", "CKPT", "--seed", str(2**63)], "--seed"),
    "no clips": (["--ckpt", "CKPT", "--clips", "0"], "--clips"),
    "layer out of range": (["--ckpt", "CKPT", "--layers", "0,7"], "7 is out of range; there are 0 to 1"),
    "negative layer out of range": (["--ckpt", "CKPT", "--layers", "-3"], "-3 is out of range"),
    "no layer": (["--ckpt", "CKPT", "--layers", "first"], "'first' is no layer"),
    "backward range": (["--ckpt", "CKPT", "--layers", "1-0"], "ends before it begins"),
    "unknown scope": (
        ["--ckpt", "CKPT", "--scope", "scan"],
        "'scan': there are ssm, mixer, contribution and all",
    ),
    "unknown data": (
        ["--ckpt", "CKPT", "--data", "imagenet"],
        "no clips named 'imagenet'; there are: digits",
    ),
    "unknown device": (["--ckpt", "CKPT", "--device", "abacus"], "--device 'abacus' cannot be used"),
    "unknown variant": (["--ckpt", "CKPT", "--variant", "best"], "best"),
    "two inputs": (["--ckpt", "CKPT", "--data", "digits", "--video", "a.mp4"], "were both given"),
    "missing video": (["--ckpt", "CKPT", "--video", "a.mp4"], "a.mp4"),
    "more clips than videos": (["--ckpt", "CKPT", "--video", "a.mp4", "--clips", "2"], "1 were given"),
    "stray argument": (["--ckpt", "CKPT", "a.mp4"], "'a.mp4'"),
    "tokens for a video model": (["--ckpt", "CKPT", "--length", "9"], "only language models"),
    "odd size": (["--ckpt", "CKPT", "--size", "33"], "33"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_name_what_is_wrong_in_one_line(name, checkpoint, tmp_path, capsys, monkeypatch):
    arguments, message = WRONG[name]
    monkeypatch.chdir(tmp_path)
    flags = [str(checkpoint) if part == "CKPT" else part for part in arguments]
    assert cli.main([*flags, "--out", "report"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_files_are_named(checkpoint, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "notes.txt").write_text("not weights")
    assert cli.main(["--ckpt", str(checkpoint), "--video", str(tmp_path / "broken.mp4")]) == 2
    assert "broken.mp4" in capsys.readouterr().err
    assert cli.main(["--ckpt", str(tmp_path / "notes.txt")]) == 2
    assert "notes.txt" in capsys.readouterr().err


def test_a_language_model_takes_no_clips(tmp_path, capsys):
    torch.save(crafted.noise(crafted.language()), tmp_path / "lm.pth")
    assert cli.main(["--ckpt", str(tmp_path / "lm.pth"), "--data", "photo-pan"]) == 2
    assert "is a language model, which takes no clips" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [("--frames", "8"), ("--frames", "4"), ("--size", "224"), ("--size", "32")])
def test_a_language_model_takes_no_shape_of_clips(flag, tmp_path, capsys):
    torch.save(crafted.noise(crafted.language()), tmp_path / "lm.pth")
    assert cli.main(["--ckpt", str(tmp_path / "lm.pth"), *flag]) == 2
    assert f"is a language model, which takes no clips; drop {flag[0]}\n" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["meta", "xla", "vulkan", "hpu", "nonsense"])
def test_a_device_that_cannot_be_used_is_said_in_a_sentence(device, checkpoint, capsys):
    assert cli.main(["--ckpt", str(checkpoint), "--device", device]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: --device '{device}' cannot be used: ")
    assert shown.count("\n") == 1
    if device != "nonsense":
        assert len(shown) < 200


def test_a_short_video_is_noted(checkpoint, films, tmp_path, capsys):
    for name in ("2", "4"):
        (tmp_path / name).mkdir()
        for t in range(int(name)):
            grey = np.full((32, 32, 3), 60 * t, dtype=np.uint8)
            Image.fromarray(grey).save(tmp_path / name / f"{t}.png")
    result = result_of(
        capsys, "--ckpt", checkpoint, "--layers", "0", "--video", tmp_path / "2", tmp_path / "4", films[0]
    )
    (note,) = [note for note in result.notes if "distinct frames" in note]
    assert note == "Clip 2 shows 2 distinct frames of 4; lags between copies say nothing of motion."


def test_a_folder_of_someone_else_is_refused_before_any_work(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "run", lambda *_: pytest.fail("the probe ran"))
    (tmp_path / "thesis.tex").write_text("")
    assert cli.main(["--ckpt", str(checkpoint), "--out", str(tmp_path)]) == 2
    assert "holds 'thesis.tex'" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["", ".", "/proc/foo", "x" * 245, "x" * 300, "link"])
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
    out, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(cli, "run", lambda *_: pytest.fail("the probe ran"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    if out == "link":
        Path("link").symlink_to("nowhere")
    assert cli.main(["--ckpt", str(checkpoint), "--out", out]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1


def test_what_the_system_refuses_later_is_one_line(checkpoint, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "report/result.json")

    monkeypatch.setattr(cli, "run", full)
    assert cli.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "report")]) == 2
    assert capsys.readouterr().err == "error: report/result.json: No space left on device\n"


def test_self_attention_is_probed_with_the_gaps_of_what_only_a_scan_has(tmp_path, capsys):
    path, out = tmp_path / "attention.safetensors", tmp_path / "report"
    save_checkpoint(create_model("vmp_micro", variant="attention", num_classes=2, **TINY), path)
    result = result_of(capsys, "--ckpt", path, "--clips", 2, "--scope", "all", "--out", out)
    assert result.directions == ("both", "both j<=i", "both j>=i")
    assert [result.weight_unit(scope) for scope in result.scopes] == [
        "fraction of the row",
        "layer output",
        "mixer output",
    ]
    assert any("Self-attention has no scan" in note for note in result.notes)
    for direction in result.directions:
        predicted = result.measurement(1, direction, "contribution", "predicted_half_life_tokens")
        assert (predicted.value, predicted.note) == (
            None,
            "self-attention has no step to predict a half-life from",
        )
        index = result.measurement(1, direction, "contribution", "decay_index_tokens")
        assert index.low <= index.value <= index.high < 1
    names = {figure.stem for figure in (out / "figures").glob("*.png")}
    assert {"attention_ssm_layer00", "lag_profile_contribution", "class_row_mixer"} <= names
    assert not any(name.startswith("half_life") for name in names)


def test_an_interrupt_while_drawing_leaves_the_clips_that_were_done(
    checkpoint, tmp_path, capsys, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    out = tmp_path / "report"
    command = ["--ckpt", str(checkpoint), "--clips", "1", "--layers", "0", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr("analysis.decay.run.write_figures", interrupt)
        assert cli.main(command) == 130
    assert "the same command goes on where this one stopped" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.unfinished"]
    # What was kept is used: no capture is reduced again.
    monkeypatch.setattr("analysis.decay.probe.reduce", lambda *_, **__: pytest.fail("a clip was done again"))
    assert cli.main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_wrong_request_keeps_an_interrupted_run_and_files_of_others(
    checkpoint, tmp_path, capsys, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    out, unfinished = tmp_path / "report", tmp_path / "report.unfinished"
    flags = ["--clips", "1", "--layers", "0", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr("analysis.decay.run.write_figures", interrupt)
        assert cli.main(["--ckpt", str(checkpoint), *flags]) == 130
    (unfinished / "thesis.tex").write_text("years of work")
    before = sorted(unfinished.rglob("*"))
    assert cli.main(["--ckpt", str(tmp_path / "typo.pt"), *flags]) == 2
    assert cli.main(["--ckpt", str(checkpoint), "--video", str(tmp_path / "typo.mp4"), *flags]) == 2
    assert sorted(unfinished.rglob("*")) == before
    assert cli.main(["--ckpt", str(checkpoint), *flags]) == 0
    assert [path.name for path in unfinished.iterdir()] == ["thesis.tex"]
    monkeypatch.setattr(cli, "run", lambda *_: pytest.fail("the probe ran"))
    (unfinished / "thesis.tex").unlink()
    unfinished.rmdir()
    unfinished.write_text("a file")
    capsys.readouterr()
    assert cli.main(["--ckpt", str(checkpoint), *flags]) == 2
    assert "report.unfinished: is a file" in capsys.readouterr().err


def test_a_broken_second_video_leaves_nothing(checkpoint, films, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    out = tmp_path / "report"
    command = ["--ckpt", str(checkpoint), "--video", str(films[0]), "--video", str(broken), "--out", str(out)]
    assert cli.main(command) == 2
    assert "broken.mp4" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.mp4"]


def test_help_lists_every_flag(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for flag in (
        "--ckpt",
        "--video",
        "--data",
        "--layers",
        "--scope",
        "--device",
        "--seed",
        "--out",
        "--json",
    ):
        assert flag in text
