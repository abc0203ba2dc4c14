"""The command line: every command is listed, decay from every format to a whole report, and errors in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import analysis
from analysis.cli import command_names, main
from analysis.result import WRITTEN
from tests.analysis.models import TINY
from tests.vmp import crafted
from vmp import create_model
from vmp.checkpoint import save_checkpoint

COMMANDS = (
    "decay",
    "probe",
    "contradiction",
    "compare",
    "theory",
    "inspect",
    "sizes",
    "evaluate",
    "grid",
    "report",
    "train",
)


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


def decay(*arguments: object) -> int:
    return main(["decay", *map(str, arguments)])


class Printed:
    """What a run with --json prints, in this process."""

    def __init__(self, capsys, *arguments: object):
        code = decay(*arguments, "--json")
        shown = capsys.readouterr()
        assert code == 0, shown.err
        self.text = shown.out
        parsed = json.loads(shown.out)
        self.provenance, self.numbers = parsed["provenance"], pd.DataFrame(parsed["summary"], dtype=object)
        (self.model,) = self.provenance["models"].values()
        self.layout = self.model["layout"]
        self.curves = pd.DataFrame(parsed["curves"], dtype=object)

    def number(self, layer, direction, scope, quantity):
        at = {"layer": layer, "direction": direction, "scope": scope, "quantity": quantity}
        (row,) = self.numbers[(self.numbers[list(at)] == list(at.values())).all(axis=1)].itertuples()
        return row

    def unique(self, column):
        return tuple(dict.fromkeys(self.numbers[column]))


def error(capsys) -> str:
    """The one line that a failed command said."""
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def said(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_every_command_is_listed_and_has_help(capsys):
    assert set(command_names()) == set(COMMANDS)
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        listed = {
            line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ") and line.split()
        }
        assert set(COMMANDS) <= set(listed)
        assert all(listed[name] for name in COMMANDS)  # Each with what it does.
    assert main(["decoy"]) == 2
    assert "decoy" in error(capsys)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("inspect", "sizes")])
def test_help_of_each_command_names_it_and_its_options(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"vmp {name}" in text
    assert "--help" in text
    if name == "decay":
        flags = (
            "--ckpt",
            "--video",
            "--data",
            "--layers",
            "--scope",
            "--device",
            "--seed",
            "--out",
            "--json",
        )
        assert all(flag in text for flag in flags)


def test_commands_of_vmp_pass_their_own_options_on(checkpoint, capsys):
    assert main(["inspect", str(checkpoint)]) == 0
    assert "weights sha256" in capsys.readouterr().out
    assert main(["inspect", str(checkpoint.parent / "none.pt")]) == 2
    assert "none.pt" in error(capsys)


def test_a_command_loads_nothing_that_another_needs():
    code = (
        "import sys; from analysis.cli import main; main(['decay', '--help']); "
        "print(*sorted({m.partition('.')[2].split('.')[0] for m in sys.modules if m.startswith('analysis.')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert not {"compare", "contradiction", "relevance", "theory"} & set(done.stdout.splitlines()[-1].split())
    assert "decay" in done.stdout.splitlines()[-1].split()


def test_another_package_named_analysis_is_told_apart(tmp_path):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("")
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(analysis.__file__).parents[1])])}
    code = "import sys; from vmp.commands import console; sys.exit(console())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env={**os.environ, **paths},
    )
    assert (done.returncode, done.stdout) == (2, "")
    there = tmp_path / "analysis" / "__init__.py"
    assert f"error: the package analysis is another package, {there}, which shadows" in done.stderr
    assert done.stderr.count("\n") == 1


def test_video_files_in_a_whole_report_out(checkpoint, films, tmp_path):
    out = tmp_path / "report"
    flags = ["--scope", "contribution", "--layers", "-1", "--bootstrap", 200, "--json", "--out", out]
    command = [sys.executable, "-m", "analysis.decay", "--ckpt", checkpoint, "--video", *films, *flags]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # Test workers share the cores.
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, env=alone)
    assert done.returncode == 0, done.stderr
    assert f"written: {out}/data.nc, provenance.json, summary.csv" in done.stderr
    result = analysis.load(out)
    assert result.to_json() == done.stdout
    origin, shown = result.provenance.models["tiny"], result.provenance.clips
    assert (shown.source, shown.names) == ("video", ("slow.mp4", "fast.mp4"))
    assert (origin.frames, origin.size, origin.layout.length) == (4, 32, 1 + 4 * 16)
    assert (result.layers, result.scopes) == ((1,), ("contribution",))
    assert result.directions("decay") == ("forward", "backward")
    assert result.provenance.command.startswith(f"python -m analysis.decay --ckpt {checkpoint} --video")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*WRITTEN, "figures"])
    figures = {path.name for path in (out / "figures").iterdir()}
    drawn = ("lag_profile", "frame_lag_profile", "half_life", "frame_matrix", "class_row", "by_layer")
    names = [*(f"{name}_contribution" for name in drawn), "attention_contribution_layer01"]
    assert figures == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for path in (out / "figures").glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.std() > 5
    for direction in ("forward", "backward"):
        assert result.curve("weight_matrix", 1, direction, "contribution").value.shape == (65, 65)


def test_the_table_fits_and_names_scope_units_backend_and_input(checkpoint, capsys):
    assert decay("--ckpt", checkpoint, "--clips", 2, "--scope", "mixer") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    shown = " ".join(text.split())
    for part in (
        "scope mixer",
        "tokens",
        "1/token",
        "2 x photo-pan, seed 0",
        "scan backend",
        "Note: The residual",
    ):
        assert part in shown
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
    found = Printed(capsys, "--ckpt", path, "--clips", 2, "--bootstrap", 100, "--scope", "all", *flags)
    assert recognised in found.model["recognised"]
    assert (found.layout["frames"], int(np.prod(found.layout["grid"]))) == (frames, patches)
    assert (found.unique("scope"), found.unique("layer")) == (("ssm", "mixer", "contribution"), (0, 1))
    for scope in found.unique("scope"):
        for direction in found.unique("direction"):
            index = found.number(1, direction, scope, "decay_index_tokens")
            assert index.low <= index.value <= index.high
            assert index.value < 1
            frame = found.number(1, direction, scope, "decay_index_frames")
            expected = {0: "a plain sequence has no frames", 1: "one frame"}.get(frames, "")
            assert (frame.value is None, frame.note) == (frames < 2, expected)
            kept = found.number(1, direction, scope, "class_self")
            assert (kept.value is None) == (frames == 0)


def test_a_language_model_says_that_it_saw_random_tokens(tmp_path, capsys):
    path = tmp_path / "lm.pth"
    torch.save(crafted.noise(crafted.language()), path)
    found = Printed(capsys, "--ckpt", path, "--clips", 1, "--layers", "0")
    assert found.provenance["clips"]["source"] == "random tokens"
    assert found.layout["plain"] == 512
    assert found.unique("direction") == ("forward",)
    assert any(
        "token ids drawn uniformly at random, which are no text" in n for n in found.provenance["notes"]
    )
    # The largest seed that torch takes.
    assert decay("--ckpt", path, "--clips", 1, "--layers", 0, "--length", 9, "--seed", 2**63 - 1) == 0
    assert "drawn uniformly at random" in said(capsys)


def test_the_first_class_token_sees_only_itself_forward(checkpoint, capsys):
    found = Printed(capsys, "--ckpt", checkpoint, "--clips", 1)
    assert found.number(0, "forward", "ssm", "class_self").value == 1
    rows = found.curves[(found.curves.quantity == "class_row") & (found.curves.layer == 0)]
    row = {direction: some["value"].tolist() for direction, some in rows.groupby("direction")}
    assert row["forward"] == [0, 0, 0, 0]
    kept = found.number(0, "backward", "ssm", "class_self")
    assert kept.value + sum(row["backward"]) == pytest.approx(1)
    assert kept.note.endswith("one clip: no interval")


def test_the_seed_decides_clips_and_intervals(checkpoint, capsys):
    flags = ("--ckpt", checkpoint, "--clips", 2, "--layers", "0", "--data", "digits")
    first, again, other = (Printed(capsys, *flags, "--seed", seed) for seed in (3, 3, 4))
    assert first.numbers.equals(again.numbers)
    assert not first.numbers.equals(other.numbers)
    assert first.provenance["seed"] == 3


def test_clips_take_the_shape_and_precision_that_are_asked_for(checkpoint, tmp_path, capsys):
    found = Printed(capsys, "--ckpt", checkpoint, "--clips", 1, "--frames", 2, "--size", 16)
    assert (found.layout["frames"], found.layout["grid"]) == (2, [2, 2])
    torch.save(crafted.noise(crafted.image(), torch.float16), tmp_path / "half.pth")
    # Half precision is a way to store weights.
    assert Printed(capsys, "--ckpt", tmp_path / "half.pth", "--clips", 1).model["dtype"] == "float32"


def test_weights_with_nan_are_refused_unless_allowed(tmp_path, capsys):
    weights = crafted.noise(crafted.image())
    weights["layers.0.mixer.A_log"][0, 0] = torch.nan
    torch.save(weights, tmp_path / "nan.pth")
    flags = ("--ckpt", tmp_path / "nan.pth", "--clips", 1)
    assert decay(*flags) == 2
    assert "NaN" in error(capsys)
    found = Printed(capsys, *flags, "--allow-nonfinite", "--out", tmp_path / "report")
    half = found.number(1, "forward", "ssm", "half_life_tokens")
    assert (half.value, half.note) == (None, "weights are not finite")
    assert (tmp_path / "report" / "figures" / "lag_profile_ssm.png").exists()


def test_self_attention_is_probed_with_the_gaps_of_what_only_a_scan_has(tmp_path, capsys):
    path, out = tmp_path / "attention.safetensors", tmp_path / "report"
    save_checkpoint(create_model("vmp_micro", variant="attention", num_classes=2, **TINY), path)
    flags = ("--layers", "1", "--bootstrap", 100)
    found = Printed(capsys, "--ckpt", path, "--clips", 2, "--scope", "all", "--out", out, *flags)
    result = analysis.load(out)
    assert result.directions("decay") == ("both", "both j<=i", "both j>=i")
    units = [result.weight_unit(scope) for scope in result.scopes]
    assert units == ["fraction of the row", "layer output", "mixer output"]
    assert any("Self-attention has no scan" in note for note in result.provenance.notes)
    for direction in result.directions("decay"):
        predicted = found.number(1, direction, "contribution", "predicted_half_life_tokens")
        why = "self-attention has no step to predict a half-life from"
        assert (predicted.value, predicted.note) == (None, why)
        index = found.number(1, direction, "contribution", "decay_index_tokens")
        assert index.low <= index.value <= index.high < 1
    names = {figure.stem for figure in (out / "figures").glob("*.png")}
    assert {"attention_ssm_layer01", "lag_profile_contribution", "class_row_mixer"} <= names
    assert not any(name.startswith("half_life") for name in names)


def test_a_short_video_is_noted(checkpoint, films, tmp_path, capsys):
    for name in ("2", "4"):
        (tmp_path / name).mkdir()
        for t in range(int(name)):
            grey = np.full((32, 32, 3), 60 * t, dtype=np.uint8)
            Image.fromarray(grey).save(tmp_path / name / f"{t}.png")
    videos = (tmp_path / "2", tmp_path / "4", films[0])
    found = Printed(capsys, "--ckpt", checkpoint, "--layers", "0", "--video", *videos)
    (note,) = [note for note in found.provenance["notes"] if "distinct frames" in note]
    assert note == "Clip 2 shows 2 distinct frames of 4; lags between copies say nothing of motion."


# Errors.


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
    flags = [checkpoint if part == "CKPT" else part for part in arguments]
    assert decay(*flags, "--out", "report") == 2
    assert message in error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_wrong_files_are_named(checkpoint, films, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "notes.txt").write_text("not weights")
    assert decay("--ckpt", tmp_path / "no.pt", "--out", tmp_path / "report") == 2
    assert "no.pt" in error(capsys)
    assert decay("--ckpt", tmp_path / "notes.txt") == 2
    assert "notes.txt" in error(capsys)
    two = ("--video", films[0], "--video", tmp_path / "broken.mp4", "--layers", 0)
    assert decay("--ckpt", checkpoint, *two, "--out", tmp_path / "report") == 2
    assert "broken.mp4" in error(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "notes.txt"]


@pytest.mark.parametrize(
    "flag", [("--data", "photo-pan"), ("--frames", 8), ("--frames", 4), ("--size", 224), ("--size", 32)]
)
def test_a_language_model_takes_no_clips(flag, tmp_path, capsys):
    torch.save(crafted.noise(crafted.language()), tmp_path / "lm.pth")
    assert decay("--ckpt", tmp_path / "lm.pth", *flag) == 2
    assert f"is a language model, which takes no clips; drop {flag[0]}\n" in error(capsys)


@pytest.mark.parametrize("device", ["meta", "xla", "vulkan", "hpu", "nonsense"])
def test_a_device_that_cannot_be_used_is_said_in_a_sentence(device, checkpoint, capsys):
    assert decay("--ckpt", checkpoint, "--device", device) == 2
    shown = error(capsys)
    assert shown.startswith(f"error: --device '{device}' cannot be used: ")
    assert device == "nonsense" or len(shown) < 200


@pytest.mark.parametrize("out", ["", ".", "/proc/foo", "x" * 245, "x" * 300, "link", "foreign"])
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
    out, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("analysis.command.run", lambda *_, **__: pytest.fail("the probe ran"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    Path("../link").symlink_to("nowhere")
    Path("../foreign").mkdir()
    Path("../foreign/thesis.tex").write_text("")
    assert decay("--ckpt", checkpoint, "--out", f"../{out}" if out in ("link", "foreign") else out) == 2
    assert ("holds 'thesis.tex'" in error(capsys)) == (out == "foreign")


def test_what_the_system_refuses_later_is_one_line(checkpoint, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "report/data.nc")

    monkeypatch.setattr("analysis.command.run", full)
    assert decay("--ckpt", checkpoint, "--out", tmp_path / "report") == 2
    assert error(capsys) == "error: report/data.nc: No space left on device\n"


def test_an_interrupt_keeps_the_clips_that_were_done(checkpoint, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    out, unfinished = tmp_path / "report", tmp_path / "report.unfinished"
    flags = ("--clips", 1, "--layers", 0, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr("analysis.draw.write_figures", interrupt)
        assert decay("--ckpt", checkpoint, *flags) == 130
    assert "interrupted; with --out, the same command" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.unfinished"]
    # A wrong request leaves it, and so do files of others.
    (unfinished / "thesis.tex").write_text("years of work")
    before = sorted(unfinished.rglob("*"))
    assert decay("--ckpt", tmp_path / "typo.pt", *flags) == 2
    assert decay("--ckpt", checkpoint, "--video", tmp_path / "typo.mp4", *flags) == 2
    assert sorted(unfinished.rglob("*")) == before
    with monkeypatch.context() as patch:  # What was kept is used: no matrix is reduced again.
        patch.setattr("analysis.decay.measure.reduce", lambda *_, **__: pytest.fail("a clip was done again"))
        assert decay("--ckpt", checkpoint, *flags) == 0
    assert [path.name for path in unfinished.iterdir()] == ["thesis.tex"]
    (unfinished / "thesis.tex").unlink()
    unfinished.rmdir()
    unfinished.write_text("a file")
    capsys.readouterr()
    assert decay("--ckpt", checkpoint, *flags) == 2
    assert "report.unfinished: is a file" in error(capsys)
