"""Every format of the field, crafted with its real names, is recognised and read weight for weight."""

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.vmp import crafted, naive
from vmp.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from vmp.checkpoint.adapt import inflate, resize_frames, resize_positions
from vmp.checkpoint.files import StoredWeights
from vmp.checkpoint.recognise import recognise
from vmp.config import named_config
from vmp.layout import TokenLayout
from vmp.model import LanguageModel, build_model


def written(tmp_path, stored):
    path = tmp_path / "checkpoint.pth"
    torch.save(stored, path)
    return path


def assert_holds(model, tensors):
    """The model's weights are these, none more and none fewer."""
    state = model.state_dict()
    assert state.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(state[name], tensor), name


def test_videomamba_image(tmp_path):
    weights = crafted.noise(crafted.image())
    distill = crafted.noise({"distill_head.weight": (5, 8), "distill_head.bias": (5,)})
    loaded = read_checkpoint(written(tmp_path, {"model": weights | distill}))
    config = loaded.config
    assert (config.kind, config.class_token, config.variant) == ("image", "first", "videomamba")
    assert (config.d_model, config.depth, config.d_state, config.d_conv, config.expand) == (8, 2, 4, 4, 2)
    assert (config.image_size, config.patch_size, config.num_frames, config.num_classes) == (16, 4, 1, 5)
    assert config.deviations == {}
    assert config.halve_output is False
    assert loaded.ignored == ("distill_head.weight", "distill_head.bias")
    assert_holds(loaded.model, weights)
    line = loaded.recognised
    assert line.startswith("VideoMamba image model (2 layers of width 8, 4 states, 16 x 16 pixels in patches")
    assert "torch file, entry model" in line
    assert "2 entries distill_head.* ignored (a distillation head)" in line
    assert 'other families have the same names: family="vim" where it is Vim with the class token' in line


def test_videomamba_video(tmp_path):
    weights = crafted.noise(crafted.video(tubelet=2))
    loaded = read_checkpoint(written(tmp_path, weights))
    config = loaded.config
    assert (config.kind, config.num_frames, config.tubelet_size) == ("video", 12, 2)
    assert config.token_layout() == TokenLayout((0,), 6, (4, 4))
    assert "12 frames" in loaded.recognised
    assert_holds(loaded.model, weights)


@pytest.mark.parametrize("wrap", [lambda w: {"model": w}, lambda w: {"module": w}, lambda w: w])
@pytest.mark.parametrize("prefix", ["", "encoder.", "module.encoder."])
def test_videomamba_masked_pretraining(tmp_path, wrap, prefix):
    weights = crafted.noise(crafted.pretraining())
    stored = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    loaded = read_checkpoint(written(tmp_path, wrap(stored)))
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("clip_decoder")}
    kept["norm_f.weight"] = kept.pop("norm.weight")
    assert_holds(loaded.model, kept)
    assert loaded.config.num_classes == 0
    assert len(loaded.ignored) == 4
    assert "4 entries clip_decoder.* ignored" in loaded.recognised
    assert "masked pretraining, no head" in loaded.recognised
    assert ("prefix" in loaded.recognised) == bool(prefix)


def test_videomambapro_with_one_set_of_projections(tmp_path):
    weights = crafted.noise(crafted.video(directions="v1"))
    loaded = read_checkpoint(written(tmp_path, weights))
    assert (loaded.config.variant, loaded.config.deviations) == ("released", {})
    assert loaded.recognised.startswith("VideoMambaPro video model")
    assert (
        'read as VideoMambaPro\'s released code (variant="videomamba" for a plain scan)' in loaded.recognised
    )
    assert_holds(loaded.model, weights)
    plain = read_checkpoint(written(tmp_path, weights), variant="videomamba", backward_skip=False).config
    assert (plain.residual, plain.scan_input, plain.mask_backward) == ("none", "convolved", False)
    assert plain.deviations == {"backward_skip": False, "shared_projections": True}


@pytest.mark.parametrize("override", [{"variant": "paper"}, {"family": "videomambapro"}])
def test_videomambapro_with_two_sets_keeps_the_skip_that_its_weights_hold(tmp_path, override):
    weights = crafted.noise(crafted.video())
    loaded = read_checkpoint(written(tmp_path, weights), **override)
    config = loaded.config
    assert (config.variant, config.deviations) == ("paper", {"backward_skip": True})
    assert (config.mask_backward, config.residual) == (True, "elemental")
    assert "variant paper but backward_skip=True" in loaded.recognised
    assert_holds(loaded.model, weights)


def test_a_backward_direction_without_a_skip_of_its_own(tmp_path):
    weights = crafted.noise(crafted.video())
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith("D_b")}
    loaded = read_checkpoint(written(tmp_path, weights))
    assert loaded.config.deviations == {"backward_skip": False}
    assert_holds(loaded.model, weights)
    assert read_checkpoint(written(tmp_path, weights), variant="paper").config.deviations == {}


def test_projections_that_weights_fix_are_kept_whatever_the_variant(tmp_path):
    loaded = read_checkpoint(written(tmp_path, crafted.noise(crafted.video())), variant="released")
    assert loaded.config.deviations == {"shared_projections": False}
    assert "variant released has shared_projections=True, but the weights fix False" in loaded.recognised


def test_vim_with_one_class_token_when_told(tmp_path):
    weights = crafted.noise(crafted.image())
    loaded = read_checkpoint(written(tmp_path, {"model": weights}), family="vim")
    assert (loaded.config.class_token, loaded.config.halve_output) == ("middle", True)
    assert loaded.model.token_layout().class_positions == (8,)
    assert loaded.recognised.startswith("Vim image model")
    assert "output halved as in Vim's published models" in loaded.recognised
    assert_holds(loaded.model, weights)
    whole = read_checkpoint(written(tmp_path, weights), family="vim", halve_output=False)
    assert whole.config.halve_output is False


def test_vim_with_two_class_tokens(tmp_path):
    gammas = {f"layers.{i}.mixer.gamma": (8,) for i in range(2)}
    weights = crafted.noise(crafted.vim_two_tokens() | gammas)
    loaded = read_checkpoint(written(tmp_path, {"model": weights}))
    config = loaded.config
    assert (config.class_token, config.halve_output, config.layer_scale) == ("both_ends", True, True)
    assert config.name == "vim"
    assert_holds(loaded.model, weights)


@pytest.mark.parametrize("tied", ["stored", "left out"])
@pytest.mark.parametrize("embedding", ["embedding", "embeddings"])
def test_mamba_language_models(tmp_path, embedding, tied):
    weights = crafted.noise(crafted.language(embedding))
    head = {"lm_head.weight": weights[f"backbone.{embedding}.weight"].clone()} if tied == "stored" else {}
    loaded = read_checkpoint(written(tmp_path, weights | head))
    config = loaded.config
    assert isinstance(loaded.model, LanguageModel)
    assert (config.kind, config.vocab_size, config.variant, config.tied_head) == (
        "language",
        11,
        "mamba",
        True,
    )
    assert "head tied to the embedding" in loaded.recognised
    names = {name: name.removeprefix("backbone.").replace("embeddings", "embedding") for name in weights}
    assert_holds(loaded.model, {names[name]: tensor for name, tensor in weights.items()})


def test_a_language_models_own_head(tmp_path):
    weights = crafted.noise(crafted.language() | {"lm_head.weight": (11, 8)})
    loaded = read_checkpoint(written(tmp_path, weights))
    assert loaded.config.tied_head is False
    assert torch.equal(loaded.model.lm_head.weight, weights["lm_head.weight"])
    assert "head of its own" in loaded.recognised


def test_a_language_models_logits_are_the_recurrence_written_out(tmp_path):
    weights = crafted.noise(crafted.language("embeddings"), torch.float64)
    model = read_checkpoint(written(tmp_path, weights)).model
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
    arrays = {name.removeprefix("backbone."): tensor.numpy() for name, tensor in weights.items()}
    table = arrays["embeddings.weight"]
    states = naive.stack_output(arrays, table[ids[0].numpy()], 2, naive.VARIANTS["mamba"])
    np.testing.assert_allclose(model(ids)[0].detach().numpy(), states @ table.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("directions", "override", "row", "halve"),
    [
        ("v2", {}, "videomamba", False),
        ("v1", {}, "released", False),
        ("v2", {"family": "vim"}, "videomamba", True),
        ("v2", {"variant": "mask"}, "mask", False),
    ],
)
def test_a_videos_logits_are_the_recurrence_written_out(tmp_path, directions, override, row, halve):
    weights = crafted.noise(crafted.video(side=2, frames=2, directions=directions), torch.float64)
    loaded = read_checkpoint(written(tmp_path, weights), **override)
    video = torch.randn(1, 3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    positions, tokens = arrays["pos_embed"][0], []
    place = 2 if halve else 0
    others = [i for i in range(5) if i != place]
    for t in range(2):
        for patch in range(4):
            y, x = 4 * (patch // 2), 4 * (patch % 2)
            pixels = video[0, :, t, y : y + 4, x : x + 4].numpy()
            token = (arrays["patch_embed.proj.weight"][:, :, 0] * pixels).sum((1, 2, 3))
            token = token + arrays["patch_embed.proj.bias"] + positions[others[patch]]
            tokens.append(token + arrays["temporal_pos_embedding"][0, t])
    at = 4 if halve else 0
    tokens.insert(at, arrays["cls_token"][0, 0] + positions[place])
    states = naive.stack_output(arrays, np.stack(tokens), 2, naive.VARIANTS[row], halve)
    logits = states[at] @ arrays["head.weight"].T + arrays["head.bias"]
    np.testing.assert_allclose(loaded.model(video)[0].detach().numpy(), logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("sizes", "fields"),
    [
        ({"depth": 3}, {"depth": 3}),
        ({"N": 7}, {"d_state": 7}),
        ({"W": 3}, {"d_conv": 3}),
        ({"D": 24}, {"expand": 3}),
        ({"R": 2}, {"dt_rank": 2}),
        ({"patch": 2, "side": 5}, {"patch_size": 2, "image_size": 10}),
        ({"classes": 174}, {"num_classes": 174}),
        ({"directions": None}, {"directions": "forward", "variant": "mamba"}),
    ],
)
def test_sizes_are_told_from_shapes(tmp_path, sizes, fields):
    weights = crafted.noise(crafted.video(**sizes))
    loaded = read_checkpoint(written(tmp_path, weights))
    assert {name: getattr(loaded.config, name) for name in fields} == fields
    assert_holds(loaded.model, weights)


def test_layer_norm_is_told_from_its_bias(tmp_path):
    biases = {f"layers.{i}.norm.bias": (8,) for i in range(2)} | {"norm_f.bias": (8,)}
    weights = crafted.noise(crafted.video() | biases)
    loaded = read_checkpoint(written(tmp_path, weights))
    assert loaded.config.norm == "layer"
    assert_holds(loaded.model, weights)


def test_biases_of_the_projections_are_told(tmp_path):
    ends = {f"layers.{i}.mixer.in_proj.bias": (32,) for i in range(2)}
    ends |= {f"layers.{i}.mixer.out_proj.bias": (8,) for i in range(2)}
    shapes = {name: shape for name, shape in crafted.language().items() if "conv1d.bias" not in name}
    weights = crafted.noise(shapes | {f"backbone.{name}": shape for name, shape in ends.items()})
    config = read_checkpoint(written(tmp_path, weights)).config
    assert (config.projection_bias, config.conv_bias) == (True, False)


def test_no_class_token_is_told_from_its_absence(tmp_path):
    shapes = crafted.video()
    del shapes["cls_token"]
    weights = crafted.noise(shapes | {"pos_embed": (1, 16, 8)})
    loaded = read_checkpoint(written(tmp_path, weights))
    assert loaded.config.class_token == "none"
    assert_holds(loaded.model, weights)


def test_a_published_size_is_named():
    """Only shapes are needed to name it, so the tensors take no memory."""
    shapes = crafted.image(M=192, side=14, patch=16, classes=1000, depth=24, D=384, N=16, R=12)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    config = recognise(StoredWeights(Path("x"), "pickle", tensors, "model", (), {})).config
    expected = named_config("videomamba_tiny", kind="image", num_classes=1000)
    assert config == expected


def test_a_training_save_with_flags_and_optimiser(tmp_path):
    weights = crafted.noise(crafted.video())
    stored = {
        "model": OrderedDict(weights),
        "model_ema": {name: tensor + 1 for name, tensor in weights.items()},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 1e-3, "params": [0]}],
        },
        "args": argparse.Namespace(lr=1e-3, batch_size=64),
        "epoch": 12,
    }
    path = written(tmp_path, stored)
    loaded = read_checkpoint(path)
    assert_holds(loaded.model, weights)
    assert "entry model (also there: model_ema)" in loaded.recognised
    averaged = read_checkpoint(path, container="model_ema")
    assert_holds(averaged.model, stored["model_ema"])
    with pytest.raises(
        CheckpointError, match="no container 'module' that holds weights; found: model, model_ema"
    ):
        read_checkpoint(path, container="module")


@pytest.mark.parametrize("container", ["model", "module", "model_ema", "state_dict"])
@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder.", "module.backbone."])
def test_every_container_and_prefix(tmp_path, container, prefix):
    weights = crafted.noise(crafted.video())
    stored = {container: {f"{prefix}{name}": tensor for name, tensor in weights.items()}, "epoch": 3}
    loaded = read_checkpoint(written(tmp_path, stored))
    assert_holds(loaded.model, weights)
    assert f"entry {container}" in loaded.recognised


def test_two_entries_that_become_one_are_refused(tmp_path):
    weights = crafted.noise(crafted.video())
    weights |= {"module.cls_token": weights["cls_token"]}
    with pytest.raises(CheckpointError, match="two entries are cls_token once prefixes are stripped"):
        read_checkpoint(written(tmp_path, weights))


def test_foreign_safetensors_are_recognised_too(tmp_path):
    weights = crafted.noise(crafted.language("embeddings"))
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = read_checkpoint(tmp_path / "model.safetensors")
    assert loaded.recognised.startswith("Mamba language model")
    assert "; safetensors; " in loaded.recognised
    with pytest.raises(CheckpointError, match="is a safetensors file, which has no container 'model'"):
        read_checkpoint(tmp_path / "model.safetensors", container="model")


def test_files_of_before_torch_wrote_zips(tmp_path):
    weights = crafted.noise(crafted.video())
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_holds(read_checkpoint(tmp_path / "old.pth").model, weights)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.float16,), torch.float16),
        ((torch.bfloat16, torch.float32), torch.float32),
        ((torch.float64,), torch.float64),
    ],
)
def test_the_dtype_is_the_files_or_float32_where_it_has_several(tmp_path, dtypes, expected):
    weights = crafted.noise(crafted.video())
    stored = {name: t.to(dtypes[i % len(dtypes)]) for i, (name, t) in enumerate(weights.items())}
    model = read_checkpoint(written(tmp_path, stored)).model
    assert_holds(model, {name: tensor.to(expected) for name, tensor in stored.items()})


def test_an_image_model_becomes_a_video_model(tmp_path):
    weights = crafted.noise(crafted.image())
    loaded = read_checkpoint(written(tmp_path, weights), num_frames=6, tubelet_size=3)
    config, state = loaded.config, loaded.model.state_dict()
    assert (config.kind, config.num_frames, config.num_classes) == ("video", 6, 0)
    kernel = state["patch_embed.proj.weight"]
    assert torch.equal(kernel[:, :, 1], weights["patch_embed.proj.weight"])
    assert not kernel[:, :, [0, 2]].any()
    assert torch.equal(state["temporal_pos_embedding"], torch.zeros(1, 2, 8))
    assert "head.weight" not in state
    assert "inflated to video of 6 frames, temporal positions 0, head dropped" in loaded.recognised
    others = {n: t for n, t in weights.items() if not n.startswith(("head", "patch_embed.proj.weight"))}
    assert all(torch.equal(state[name], tensor) for name, tensor in others.items())
    # A clip of a still image gives, at each of its frames, the image's own tokens.
    image = torch.randn(1, 3, 1, 16, 16)
    still = read_checkpoint(written(tmp_path, weights)).model.embed(image)
    clip = loaded.model.embed(image.expand(-1, -1, 6, -1, -1))
    torch.testing.assert_close(clip, torch.cat([still, still[:, 1:]], dim=1))


def test_an_inflated_model_can_have_a_fresh_head(tmp_path):
    path = written(tmp_path, crafted.noise(crafted.image()))
    loaded = read_checkpoint(path, kind="video", num_classes=7)
    assert (loaded.config.num_frames, loaded.config.num_classes) == (8, 7)
    assert "a fresh head for 7 classes" in loaded.recognised


@pytest.mark.parametrize(("tubelet", "centre"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_the_centre_of_the_temporal_axis(tubelet, centre):
    inflated = inflate(torch.ones(2, 3, 4, 4), tubelet)
    assert inflated.shape == (2, 3, tubelet, 4, 4)
    assert [bool(inflated[:, :, t].any()) for t in range(tubelet)] == [t == centre for t in range(tubelet)]


def cubic(x):
    """Keys' convolution kernel with a = -3/4, torch's bicubic."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def bicubic(grid, side):
    """A grid (h, w, M) resized to (side, side, M), sample by sample, edges repeated."""
    old, out = grid.shape[0], np.zeros((side, side, grid.shape[2]))
    for i in range(side):
        for j in range(side):
            y, x = (i + 0.5) * old / side - 0.5, (j + 0.5) * old / side - 0.5
            for m in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
                for n in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                    clamped = grid[min(max(m, 0), old - 1), min(max(n, 0), old - 1)]
                    out[i, j] += cubic(y - m) * cubic(x - n) * clamped
    return out


@pytest.mark.parametrize("side", [3, 6])
@pytest.mark.parametrize(
    ("class_token", "stored_at", "wanted_at"),
    [
        ("first", [0], lambda side: [0]),
        ("middle", [8], lambda side: [side * side // 2]),
        ("both_ends", [0, 17], lambda side: [0, side * side + 1]),
        ("none", [], lambda side: []),
    ],
)
def test_spatial_positions_are_resized_bicubically_and_class_tokens_kept(
    class_token, stored_at, wanted_at, side
):
    stored = torch.randn(1, 16 + len(stored_at), 3, dtype=torch.float64)
    resized = resize_positions(stored, side, class_token)[0].numpy()
    patches = np.delete(stored[0].numpy(), stored_at, axis=0).reshape(4, 4, 3)
    at = wanted_at(side)
    np.testing.assert_array_equal(resized[at], stored[0].numpy()[stored_at])
    np.testing.assert_allclose(
        np.delete(resized, at, axis=0), bicubic(patches, side).reshape(-1, 3), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("frames", [1, 3, 16])
def test_temporal_positions_are_resized_linearly(frames):
    stored = torch.randn(1, 8, 3, dtype=torch.float64)
    at = (np.arange(frames) + 0.5) * 8 / frames - 0.5
    expected = np.stack([np.interp(at, np.arange(8), stored[0, :, m].numpy()) for m in range(3)], axis=1)
    np.testing.assert_allclose(resize_frames(stored, frames)[0].numpy(), expected, rtol=0, atol=1e-12)


def test_a_file_is_fitted_to_another_size_and_length(tmp_path):
    weights = crafted.noise(crafted.video())
    path = written(tmp_path, weights)
    loaded = read_checkpoint(path, image_size=24, num_frames=3, num_classes=9)
    state = loaded.model.state_dict()
    assert torch.equal(state["pos_embed"], resize_positions(weights["pos_embed"], 6, "first"))
    assert torch.equal(state["temporal_pos_embedding"], resize_frames(weights["temporal_pos_embedding"], 3))
    assert state["head.weight"].shape == (9, 8)
    for words in ("resized from 4 x 4 to 6 x 6", "resized from 6 to 3", "a fresh head for 9 classes"):
        assert words in loaded.recognised
    assert loaded.model(torch.zeros(1, 3, 3, 24, 24)).shape == (1, 9)
    assert read_checkpoint(path).weights_sha256 == loaded.weights_sha256


def test_saved_again_in_the_own_format_a_foreign_file_is_the_same_model(tmp_path):
    loaded = read_checkpoint(written(tmp_path, crafted.noise(crafted.vim_two_tokens())))
    save_checkpoint(loaded.model, tmp_path / "own.safetensors")
    again = read_checkpoint(tmp_path / "own.safetensors")
    assert again.config == loaded.config == build_model(again.config).config
    assert again.weights_sha256 == loaded.weights_sha256
