"""Folders of transformers: read from disk, shown clips as they were trained on, refused in one line."""

import json

import pandas as pd
import pytest
import torch
import transformers

from analysis.capture import family_of
from analysis.cli import main
from analysis.inputs import MEAN, STD
from analysis.pretrained import load_hf
from tests.analysis.test_families import mamba, pixels, timesformer, videomae, vivit
from vmp.checkpoint import CheckpointError

MODELS = {
    "videomae": (videomae, "VideoMAEForVideoClassification", ("both",)),
    "vivit": (vivit, "VivitForVideoClassification", ("both",)),
    "timesformer": (lambda: timesformer("divided_space_time"), "TimesformerFor", ("time", "space")),
    "timesformer space": (lambda: timesformer("space_only"), "TimesformerFor", ("space",)),
    "mamba": (mamba, "MambaForCausalLM", ("forward",)),
}


def decay(*arguments):
    return main(["decay", *map(str, arguments)])


@pytest.mark.parametrize("name", MODELS)
def test_decay_of_a_folder(name, tmp_path, capsys):
    make, said, whole = MODELS[name]
    make().float().save_pretrained(tmp_path / "model")
    flags = ["--length", "9"] if name == "mamba" else []
    assert decay("--ckpt", tmp_path / "model", "--clips", 2, "--json", *flags) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert said in parsed["provenance"]["models"]["model"]["recognised"]
    table = pd.DataFrame(parsed["summary"])
    directions = list(dict.fromkeys(table["direction"]))
    assert [name for name in directions if " " not in name] == list(whole)
    assert len(directions) == (1 if name == "mamba" else 3 * len(whole))
    context = table[table["quantity"] == "effective_context_tokens"]
    assert len(context) == 2 * len(directions)
    assert (context["low"] >= 1).all()
    assert (context["low"] <= context["value"]).all()
    assert (context["value"] <= context["high"]).all()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            {"image_mean": [0.45] * 3, "image_std": [0.225] * 3},
            lambda pixel: (pixel - 0.45) / 0.225,
        ),
        (
            {
                "rescale_factor": 1 / 127.5,
                "offset": True,
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.5] * 3,
            },
            lambda pixel: (
                (2 * pixel - 1 - torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64)[:, None, None]) / 0.5
            ),
        ),
        ({"do_normalize": False}, lambda pixel: pixel),
    ],
    ids=["timesformer", "vivit", "pixels alone"],
)
def test_clips_are_rescaled_as_the_folder_asks(asked, expected, tmp_path):
    plain = vivit()
    plain.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(asked))
    loaded = load_hf(tmp_path)
    model = loaded.model.double()
    pixel = pixels(4).abs().clamp(max=1)
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None, None] for x in (MEAN, STD))
    with torch.no_grad():
        got = family_of(model).run(model, (pixel - mean) / std)
        want = plain(pixel_values=expected(pixel.transpose(1, 2))).logits
    # The folder's numbers pass through float32.
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert "rescaled as preprocessor_config.json asks" in loaded.recognised


def test_what_is_read_is_what_was_saved(tmp_path):
    model = videomae()
    model.save_pretrained(tmp_path)
    loaded = load_hf(tmp_path)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor.double(), model.state_dict()[name])
    assert not loaded.model.training
    assert load_hf(tmp_path).weights_sha256 == loaded.weights_sha256
    config = loaded.config
    assert (config.depth, config.num_frames, config.tubelet_size, config.image_size) == (2, 4, 2, 8)
    assert config.num_classes == model.classifier.out_features


def test_pretraining_is_read_as_its_encoder(tmp_path):
    config = transformers.VideoMAEConfig(
        **{**videomae().config.to_dict(), "decoder_hidden_size": 12, "decoder_num_attention_heads": 3}
    )
    transformers.VideoMAEForPreTraining(config).save_pretrained(tmp_path)
    assert type(load_hf(tmp_path).model).__name__ == "VideoMAEModel"


def broken(tmp_path, *, change=None, drop=None, **fields):
    model = vivit(**fields).float()
    state = model.state_dict()
    if drop:
        del state[drop]
    model.save_pretrained(tmp_path, state_dict=state)
    if change:
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


WRONG = {
    "another model": (
        {"change": {"model_type": "bert"}},
        "model_type 'bert' is not known; there are videomae",
    ),
    "missing": (
        {"drop": "vivit.layers.1.attention.k_proj.weight"},
        "missing weights for VivitForVideoClassification: vivit.layers.1.attention.k_proj.weight",
    ),
    "another width": ({"change": {"hidden_size": 24}}, "mismatched weights for VivitForVideoClassification"),
    "oblong": ({"image_size": [8, 16]}, "image_size is [8, 16]; clips here are square"),
}


@pytest.mark.parametrize("name", WRONG)
def test_folders_that_will_not_do_are_refused_in_one_line(name, tmp_path, capsys):
    how, message = WRONG[name]
    broken(tmp_path, **how)
    capsys.readouterr()
    assert decay("--ckpt", tmp_path) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert str(tmp_path) in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_weights_flags_and_settings_that_do_not_fit(tmp_path, capsys):
    model = vivit().float()
    with torch.no_grad():
        model.classifier.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights in classifier\.weight"):
        load_hf(tmp_path)
    assert load_hf(tmp_path, allow_nonfinite=True).config.depth == 2
    assert decay("--ckpt", tmp_path, "--frames", 8, "--variant", "paper", "--allow-nonfinite") == 2
    assert "whose configuration holds; drop --variant, --frames\n" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("not json")
    assert decay("--ckpt", tmp_path) == 2
    assert "config.json: cannot be read" in capsys.readouterr().err


def test_a_layer_that_cannot_be_captured_is_one_line_on_the_command_line(tmp_path, capsys):
    mamba(hidden_act="gelu").float().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    assert decay("--ckpt", tmp_path / "model", "--length", 9) == 2
    shown = capsys.readouterr().err
    assert shown == "error: layer 0: the activation of MambaMixer is 'gelu'; 'silu' is known\n"


def test_contradiction_of_folders(tmp_path, capsys):
    flags = ["--clips", "1", "--scope", "contribution", "--bootstrap", "100", "--mediators", "2"]
    videomae().float().save_pretrained(tmp_path / "joint")
    timesformer("divided_space_time").float().save_pretrained(tmp_path / "divided")
    capsys.readouterr()
    assert main(["contradiction", "--ckpt", str(tmp_path / "joint"), *flags]) == 0
    shown = capsys.readouterr().out
    assert "VideoMAEForVideoClassification" in shown
    assert "Element contradiction of joint, " in shown
    assert main(["contradiction", "--ckpt", str(tmp_path / "divided"), *flags]) == 0
    shown = capsys.readouterr().out
    assert "TimesformerForVideoClassification" in shown
    assert "Element contradiction of divided, " in shown
    assert " time " in shown
    assert " space " in shown


def test_clips_of_the_folders_own_shape_may_be_named(tmp_path, capsys):
    videomae().float().save_pretrained(tmp_path)
    flags = ["--ckpt", tmp_path, "--clips", 1, "--size", 8, "--frames"]
    assert decay(*flags, 4) == 0
    capsys.readouterr()
    assert decay(*flags, 8) == 2
    assert capsys.readouterr().err.endswith("whose configuration holds; drop --frames\n")


def test_an_unknown_folder_is_as_before(tmp_path, capsys):
    assert decay("--ckpt", tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1
