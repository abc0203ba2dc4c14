"""The own format: written whole or not at all, read back bit for bit, with the configuration inside."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vmp
from vmp.checkpoint import CheckpointError, load_checkpoint, read_checkpoint, save_checkpoint, weights_sha256
from vmp.config import ModelConfig, named_config
from vmp.model import LanguageModel, build_model

SMALL = {"d_model": 8, "depth": 2, "image_size": 8, "patch_size": 4, "num_classes": 3}
SMALL |= {"num_frames": 2, "tubelet_size": 1}


def drawn(variant, **fields):
    torch.manual_seed(0)
    model = build_model(named_config("vmp_micro", variant, **(SMALL | fields)))
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    return model


def same(first, second):
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["paper", "released", "attention"])
def test_a_model_comes_back_bit_for_bit(tmp_path, variant, dtype):
    model = drawn(variant, drop_path=0.1).to(dtype)
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = read_checkpoint(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert same(loaded.model.state_dict(), model.state_dict())
    assert (loaded.missing, loaded.unexpected, loaded.ignored) == ((), (), ())
    assert not loaded.model.training


@pytest.mark.parametrize(
    "fields",
    [
        {"class_token": "both_ends", "halve_output": True, "layer_scale": True},
        {"class_token": "none", "norm": "layer", "projection_bias": True, "conv_bias": False},
        {"kind": "image", "num_frames": 1, "dt_rank": 3, "expand": 3, "d_state": 5, "d_conv": 2},
        {"num_classes": 0, "tubelet_size": 2, "channels": 1, "norm_epsilon": 1e-6},
        {"inner_width": 13},
    ],
)
def test_every_field_comes_back(tmp_path, fields):
    model = drawn("paper", **fields)
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert same(loaded.state_dict(), model.state_dict())


def test_a_file_from_before_a_field_was_added_is_read_with_its_default(tmp_path):
    model, path = drawn("paper"), tmp_path / "model.safetensors"
    before = {name: value for name, value in model.config.to_dict().items() if name != "inner_width"}
    save_file(dict(model.state_dict()), path, {"vmp_config": json.dumps(before), "vmp_version": "0.0.1"})
    loaded = load_checkpoint(path)
    assert (loaded.config, loaded.config.inner_width) == (model.config, None)
    assert same(loaded.state_dict(), model.state_dict())


def test_a_language_model_comes_back(tmp_path):
    fields = {"kind": "language", "vocab_size": 11, "d_model": 8, "depth": 1, "tied_head": False}
    model = LanguageModel(ModelConfig.from_variant("mamba", name="lm", **fields))
    save_checkpoint(model, tmp_path / "lm.safetensors")
    loaded = load_checkpoint(tmp_path / "lm.safetensors")
    assert loaded.config == model.config
    assert same(loaded.state_dict(), model.state_dict())


def test_the_file_is_plain_safetensors_with_readable_metadata(tmp_path):
    model, path = drawn("paper"), tmp_path / "model.safetensors"
    save_checkpoint(model, path, metadata={"task": "pans"})
    assert same(load_file(path), model.state_dict())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["vmp_config"]) == model.config.to_dict()
    assert metadata["vmp_version"] == vmp.__version__
    assert read_checkpoint(path).metadata["task"] == "pans"


def test_metadata_may_not_replace_the_formats_own(tmp_path):
    with pytest.raises(ValueError, match="vmp_config is written by the format itself"):
        save_checkpoint(drawn("paper"), tmp_path / "m.safetensors", metadata={"vmp_config": "{}"})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_checkpoint(drawn("paper"), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(drawn("videomamba"), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_provenance_says_which_weights(tmp_path):
    model, path = drawn("paper"), tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    loaded = read_checkpoint(path)
    digest = weights_sha256(model.state_dict())
    assert loaded.weights_sha256 == digest
    assert loaded.model.provenance == {
        "path": str(path),
        "weights_sha256": digest,
        "recognised": loaded.recognised,
    }
    assert loaded.recognised.startswith("vmp_micro video model (2 layers of width 8, ")
    assert "; variant paper; safetensors" in loaded.recognised
    assert "\n" not in loaded.recognised


def test_the_hash_tells_one_weight_name_shape_and_dtype_apart():
    weights = {"a": torch.arange(4.0), "b": torch.zeros(2)}
    others = [
        {"a": torch.tensor([0.0, 1, 2, 4]), "b": torch.zeros(2)},
        {"c": torch.arange(4.0), "b": torch.zeros(2)},
        {"a": torch.arange(4.0).reshape(2, 2), "b": torch.zeros(2)},
        {"a": torch.arange(4.0).double(), "b": torch.zeros(2)},
    ]
    digests = {weights_sha256(tensors) for tensors in [weights, *others]}
    assert len(digests) == 5
    assert weights_sha256(dict(reversed(weights.items()))) == weights_sha256(weights)


def test_reading_leaves_the_random_generator_alone(tmp_path):
    save_checkpoint(drawn("paper"), tmp_path / "model.safetensors")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_checkpoint(tmp_path / "model.safetensors", num_classes=9)
    assert torch.equal(torch.rand(4), expected)


def test_the_dtype_can_be_chosen(tmp_path):
    model = drawn("paper")
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors", dtype=torch.float64)
    assert same(loaded.state_dict(), model.double().state_dict())


def test_a_switch_can_be_changed_and_the_line_says_so(tmp_path):
    model = drawn("paper")
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = read_checkpoint(tmp_path / "model.safetensors", residual="none", drop_path=0.2)
    assert (loaded.config.residual, loaded.config.drop_path) == ("none", 0.2)
    assert "variant paper but residual=none" in loaded.recognised


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"d_model": 16}, "d_model=16: the weights fix it at 8"),
        ({"backward_skip": True}, "backward_skip=True: the weights fix it at False"),
        ({"variant": "mamba"}, "variant='mamba' has directions 'forward'; the weights fix 'both'"),
        ({"variant": "attention"}, "variant='attention' has mixer 'attention'; the weights fix 'mamba'"),
        ({"family": "vim"}, "holds its own configuration; leave family out"),
        ({"colour": "red"}, "no field colour"),
        ({"image_size": 10}, "image_size 10 is not a multiple of patch_size 4"),
        ({"variant": "vmp"}, "no variant 'vmp'"),
    ],
)
def test_overrides_that_cannot_be_are_refused(tmp_path, overrides, message):
    save_checkpoint(drawn("paper"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "model.safetensors", **overrides)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("not json", "is not understood"),
        ('{"name": "x", "d_model": 8, "depth": 1, "spin": 2}', "version 9.*no field spin"),
        ('{"name": "x", "d_model": 0, "depth": 1}', "d_model is 0"),
        ("[]", "an object of fields is needed"),
    ],
)
def test_a_configuration_that_is_not_understood_is_named(tmp_path, config, message):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"vmp_config": config, "vmp_version": "9"})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
