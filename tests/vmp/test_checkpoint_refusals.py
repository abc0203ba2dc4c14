"""Files that are not read: each says what it is, and none of them runs anything."""

import json
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from tests.vmp import crafted
from vmp import create_model
from vmp.checkpoint import CheckpointError, read_checkpoint
from vmp.commands import main


class Writes:
    """Unpickled in the usual way, this makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def refusal(path, **options):
    """The message with which a file is refused: one line that begins with the file."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def saved(path, stored, **options):
    torch.save(stored, path, **options)
    return path


def weights(**changes):
    return crafted.noise(crafted.video() | changes)


@pytest.mark.parametrize("how", ["zip", "before zips", "plain pickle", "old protocol", "beside weights"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, how):
    marker, path = tmp_path / "ran", tmp_path / "model.pth"
    if how == "zip":
        torch.save({"model": Writes(marker)}, path)
    elif how == "before zips":
        torch.save({"model": Writes(marker)}, path, _use_new_zipfile_serialization=False)
    elif how == "plain pickle":
        path.write_bytes(pickle.dumps({"model": Writes(marker)}))
    elif how == "old protocol":
        path.write_bytes(pickle.dumps(Writes(marker), protocol=2))
    else:
        torch.save({"model": weights(), "note": Writes(marker)}, path)
    message = refusal(path)
    assert "is refused: reading this pickle would run code, as it asks for " in message
    assert "open" in message
    assert "safetensors" in message
    assert not marker.exists()
    # The file is what it claims to be: an ordinary reader would have run it.
    if how == "plain pickle":
        pickle.loads(path.read_bytes())["model"].close()
        assert marker.exists()


def test_a_whole_model_is_refused_with_what_would_do(tmp_path):
    message = refusal(saved(tmp_path / "model.pth", torch.nn.Linear(2, 2)))
    assert "would run code, as it asks for torch.nn.modules.linear.Linear" in message
    assert "torch.save(model.state_dict(), ...)" in message


def test_a_torchscript_program_is_refused(tmp_path):
    # What torch.jit.save writes beside a pickle: code and its constants.
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for entry in ("model/data.pkl", "model/code/__torch__.py", "model/constants.pkl"):
            archive.writestr(entry, b"")
    assert " is a TorchScript program, and reading it would run code" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", " is empty (0 bytes)"),
        ("notes.txt", b"accuracy: 80.1\n" * 50, " is text that begins 'accuracy: 80.1"),
        ("page.pth", b"<!DOCTYPE html><html>", " is a web page, not a checkpoint"),
        ("lfs.pth", b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
        ("photo.pth", b"\x89PNG\r\n\x1a\n" + bytes(64), " is a PNG image, not a checkpoint"),
        ("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(64), " is a JPEG image, not a checkpoint"),
        ("clip.mp4", b"\0\0\0\x20ftypisom" + bytes(64), " is a video, not a checkpoint"),
        ("model.gz", b"\x1f\x8b\x08" + bytes(64), " is a gzip archive; unpack it first, not a checkpoint"),
        ("noise.pth", b"\x01\x02\xfe\xff" * 20, " is a file that begins with the bytes 01 02 fe ff"),
        ("text.json", b'{"weights": {"a": 1}}', " is text that begins"),
        ("short.safetensors", (500).to_bytes(8, "little") + b'{"a"', "its header of 500 bytes is cut off"),
        ("bad.safetensors", (8).to_bytes(8, "little") + b'{"a":7}}', "damaged safetensors file: its header"),
        ("none.safetensors", (2).to_bytes(8, "little") + b"{}", " is a safetensors file without tensors"),
        ("stub.pkl", b"\x80\x04\x95", " is a truncated or damaged pickle, and not one that torch.save wrote"),
        ("values.pkl", pickle.dumps({"a": [1, 2]}), " is a pickle that torch.save did not write"),
    ],
)
def test_files_that_are_no_checkpoints_are_named_for_what_they_are(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_a_zip_archive_of_other_things(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("one.txt", "1")
    assert " is a zip archive, not a checkpoint: its first entry is one.txt" in refusal(
        tmp_path / "photos.zip"
    )
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "it has no entries" in refusal(tmp_path / "empty.zip")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_pickles(tmp_path, share, zipped):
    path = saved(tmp_path / "model.pth", weights(), _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("missing", [1, 1000])
def test_truncated_safetensors(tmp_path, missing):
    path = tmp_path / "model.safetensors"
    save_file(weights(), path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-missing])
    assert refusal(path) == f" is a truncated safetensors file: {size - missing} bytes of {size}"


def test_safetensors_whose_header_contradicts_its_data(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert " is a damaged safetensors file: " in refusal(path)


def test_a_damaged_pickle_inside_a_whole_zip(tmp_path):
    path = saved(tmp_path / "model.pth", weights())
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content[:-20] if name.endswith("data.pkl") else content)
    assert "damaged" in refusal(path)


def test_a_folder_names_the_files_that_would_do(tmp_path):
    for name in ("model.safetensors", "pytorch_model.bin", "config.json"):
        (tmp_path / name).touch()
    assert refusal(tmp_path) == " is a folder; name a file in it: model.safetensors, pytorch_model.bin"
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == " is a folder; no file in it is a checkpoint by name"


def test_a_file_that_is_not_there(tmp_path):
    assert refusal(tmp_path / "model.pth") == ": there is no such file"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([torch.zeros(2)], " holds a list, not named weights"),
        (torch.zeros(2), " holds a Tensor, not named weights"),
        ({"epoch": 3, "lr": 0.1}, " holds no named weights; its entries: epoch, lr"),
        ({}, " holds no named weights; its entries: nothing"),
    ],
)
def test_pickles_without_named_weights(tmp_path, stored, message):
    assert refusal(saved(tmp_path / "model.pth", stored)) == message


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], "a ResNet"),
        (["cls_token", "blocks.0.attn.qkv.weight"], "a Vision Transformer"),
        (["model.layers.0.self_attn.q_proj.weight"], "a transformer"),
        (["backbone.layers.0.mixer.A_log", "backbone.layers.0.mixer.dt_bias"], "a Mamba-2 model"),
        (["features.0.weight", "classifier.1.bias"], "a convolutional network"),
    ],
)
def test_other_models_are_named_by_their_entries(tmp_path, names, what):
    message = refusal(saved(tmp_path / "model.pth", {name: torch.zeros(2) for name in names}))
    assert f" is not a model read here but, by its names, {what}" in message
    assert names[0] in message


def test_an_unknown_model_shows_its_entries(tmp_path):
    message = refusal(saved(tmp_path / "model.pth", {"theta": torch.zeros(2)}))
    assert message == " is no Mamba model: no layers.*.mixer.A_log of a selective scan among theta"


def test_missing_and_unexpected_entries_are_listed(tmp_path):
    stored = weights(**{"rope.freqs": (3,)})
    del stored["head.bias"], stored["layers.1.mixer.D_b"]
    path = saved(tmp_path / "model.pth", stored)
    assert refusal(path) == (
        ": 2 missing: layers.1.mixer.D_b, head.bias (allow_missing); 1 unexpected: rope.freqs (allow_unexpected)"
    )


def test_missing_and_unexpected_entries_can_be_allowed_by_name_or_prefix(tmp_path):
    stored = weights(**{"rope.freqs": (3,)})
    del stored["head.bias"], stored["layers.1.mixer.D_b"]
    path = saved(tmp_path / "model.pth", stored)
    allowed = {"allow_missing": ("layers.1.mixer.", "head.bias"), "allow_unexpected": "rope"}
    loaded = read_checkpoint(path, **allowed)
    assert loaded.missing == ("layers.1.mixer.D_b", "head.bias")
    assert loaded.unexpected == ("rope.freqs",)
    assert torch.equal(loaded.model.layers[1].mixer.D_b, torch.ones(16))
    assert "1 missing: head.bias" in refusal(path, **(allowed | {"allow_missing": ["layers.1.mixer"]}))
    # A name allows no other that merely begins alike.
    assert "1 missing" in refusal(path, **(allowed | {"allow_missing": ["layers.1.mixer.D_b", "head.b"]}))


def test_a_long_list_is_cut(tmp_path):
    stored = {name: tensor for name, tensor in weights().items() if not name.startswith("layers.0.mixer.")}
    message = refusal(saved(tmp_path / "m.pth", stored))
    assert message.startswith(": 16 missing: layers.0.mixer.A_log, layers.0.mixer.D, ")
    assert " and 8 more" in message


def test_a_video_file_without_temporal_positions(tmp_path):
    stored = weights()
    del stored["temporal_pos_embedding"]
    path = saved(tmp_path / "model.pth", stored)
    assert "1 missing: temporal_pos_embedding" in refusal(path)
    loaded = read_checkpoint(path, allow_missing="temporal_pos_embedding", num_frames=4)
    assert torch.equal(loaded.model.temporal_pos_embedding, torch.zeros(1, 4, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layers.1.mixer.out_proj.weight": (8, 15)},
            "layers.1.mixer.out_proj.weight is (8, 15), wanted (8, 16)",
        ),
        ({"layers.0.mixer.A_log": (15, 4)}, "15 channels, not a multiple of the model's width 8"),
        ({"layers.0.mixer.A_log": (16,)}, "layers.0.mixer.A_log has shape (16,); 2 axes were expected"),
        (
            {"pos_embed": (1, 16, 8)},
            "pos_embed has 16 positions, which less 1 class tokens is no square grid",
        ),
        ({"patch_embed.proj.weight": (8, 3, 1, 4, 2)}, "patches of 4 x 2 pixels; only square ones are read"),
        ({"cls_token": (1, 1, 9)}, "1 of another shape: cls_token is (1, 1, 9), wanted (1, 1, 8)"),
    ],
)
def test_shapes_that_make_no_model(tmp_path, changes, message):
    assert message in refusal(saved(tmp_path / "model.pth", weights(**changes)))


@pytest.mark.parametrize("name", ["pos_embed", "patch_embed.proj.weight"])
def test_entries_that_tell_the_shape_cannot_be_missing(tmp_path, name):
    stored = weights()
    del stored[name]
    path = saved(tmp_path / "model.pth", stored)
    assert refusal(path) == f": {name} is missing, without which the model's shape is unknown"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    stored = weights()
    stored["layers.1.mixer.D"][3] = value
    stored["head.bias"][:2] = value
    path = saved(tmp_path / "model.pth", stored)
    message = refusal(path)
    assert ": 3 weights are NaN or infinite, in layers.1.mixer.D, head.bias" in message
    assert "allow_nonfinite" in message
    model = read_checkpoint(path, allow_nonfinite=True).model
    torch.testing.assert_close(model.head.bias.detach(), stored["head.bias"], equal_nan=True)


def test_weights_without_dense_values(tmp_path):
    sparse = weights()
    sparse["norm_f.weight"] = sparse["norm_f.weight"].to_sparse()
    assert refusal(saved(tmp_path / "a.pth", sparse)).startswith(
        ": norm_f.weight is of layout torch.sparse_coo"
    )
    empty = weights()
    empty["norm_f.weight"] = empty["norm_f.weight"].to("meta")
    assert "on the meta device, without values" in refusal(saved(tmp_path / "b.pth", empty))


def test_a_configuration_larger_than_its_weights_is_refused_before_it_is_built(tmp_path):
    """Built for real, this model would take a million times the memory there is."""
    model = create_model("vmp_micro", num_classes=2, depth=1)
    fields = model.config.to_dict() | {"d_model": 50_000_000}
    save_file(model.state_dict(), tmp_path / "a.safetensors", {"vmp_config": json.dumps(fields)})
    assert "of another shape" in refusal(tmp_path / "a.safetensors")


def test_a_name_that_is_too_long(tmp_path):
    assert "cannot be read: File name too long" in refusal(tmp_path / ("a" * 300))


def test_weights_that_are_whole_numbers(tmp_path):
    stored = weights()
    stored["head.weight"] = stored["head.weight"].to(torch.int8)
    path = saved(tmp_path / "model.pth", stored)
    assert refusal(path) == ": head.weight is torch.int8; floating point weights are needed"


@pytest.mark.parametrize(
    ("stored", "options", "message"),
    [
        (
            crafted.video(),
            {"family": "mixer"},
            "family is 'mixer'; it must be one of videomamba, videomambapro",
        ),
        (
            crafted.video(),
            {"family": "mamba"},
            "has no embedding of a vocabulary, so it is no language model",
        ),
        (crafted.language(), {"family": "vim"}, "is a language model, which can be read as mamba only"),
        (crafted.vim_two_tokens(), {"family": "videomamba"}, "two class tokens, which only Vim has"),
        (crafted.video(), {"num_frames": 6, "kind": "image"}, "kind='image': the weights fix it at 'video'"),
        (crafted.image(), {"kind": "image", "num_frames": 2}, 'num_frames is 2, but kind is "image"'),
        (crafted.language(), {"image_size": 32}, "image_size=32: the weights fix it"),
    ],
)
def test_requests_that_the_weights_cannot_meet(tmp_path, stored, options, message):
    path = saved(tmp_path / "model.pth", crafted.noise(stored))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        read_checkpoint(path, **options)


def test_the_command_that_counts_parameters(capsys):
    assert main(["sizes"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(row[0], row[2], row[4]) for row in rows[:3]] == [
        ("videomamba_tiny", "7,148,008", "7.1"),
        ("videomamba_small", "25,796,584", "25.8"),
        ("videomamba_middle", "74,217,448", "74.2"),
    ]


def test_the_command_that_inspects_a_file_and_can_pass_over_what_is_unexpected(tmp_path, capsys):
    path = saved(tmp_path / "model.pth", {"model": weights()})
    assert main(["inspect", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, count = out.splitlines()[:2]
    assert first.startswith("VideoMamba video model (2 layers of width 8")
    assert count == f"parameters      {sum(tensor.numel() for tensor in weights().values()):,}"
    path = saved(tmp_path / "more.pth", weights() | {"extra.bias": torch.zeros(2)})
    assert main(["inspect", str(path)]) == 2
    assert main(["inspect", str(path), "--allow-unexpected", "extra."]) == 0


def test_the_command_refuses_a_bad_file_in_one_line_with_code_2(tmp_path):
    marker = tmp_path / "ran"
    path = saved(tmp_path / "evil.pth", {"model": Writes(marker)})
    command = [sys.executable, "-m", "vmp", "inspect", path]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "would run code" in done.stderr
    assert not marker.exists()
