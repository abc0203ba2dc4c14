"""What a run starts from: initial weights fitted to the task, flips only where they keep the class, recipes."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import vmp
from experiments.data.draws import VideoDraws
from experiments.train import RECIPES, TrainConfig, app
from experiments.training.start import make_model
from tests.experiments.commands import assert_refused, run_command
from tests.experiments.training.small import TINY
from tests.experiments.videos import write_list, write_pans
from vmp.config import named_config
from vmp.model import VideoModel

HEAD = {"head.weight", "head.bias"}


def saved(tmp_path, **fields):
    """A checkpoint of a model of this shape, with no parameter at 0."""
    torch.manual_seed(3)
    model = vmp.create_model("vmp_micro", fields.pop("variant", "videomamba"), **{**TINY, **fields})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.rand_like(parameter)
    vmp.save_checkpoint(model, tmp_path / "start.safetensors")
    return str(tmp_path / "start.safetensors")


def started(seed: int = 0, **fields) -> dict[str, torch.Tensor]:
    config = TrainConfig(**{"variant": "videomamba", "seed": seed, **fields})
    torch.manual_seed(seed)
    model, _ = make_model(config)
    assert model.training
    return model.state_dict()


def test_initial_weights_of_the_same_classes_are_taken_whole(tmp_path):
    path = saved(tmp_path, num_classes=6)
    stored, got = load_file(path), started(init=path, fields={**TINY, "drop_path": 0.1})
    assert got.keys() == stored.keys()
    assert all(torch.equal(got[name], stored[name]) for name in stored)


def test_a_head_of_other_classes_is_drawn_anew_from_the_seed_and_positions_are_resized(tmp_path):
    path = saved(tmp_path, num_classes=4)
    fields = {**TINY, "num_frames": 4, "image_size": 32}
    stored, got = load_file(path), started(init=path, fields=fields)
    again, other = started(init=path, fields=fields), started(seed=1, init=path, fields=fields)
    assert got["head.weight"].shape == (6, 16)
    assert torch.equal(got["head.weight"], again["head.weight"])
    assert not torch.equal(got["head.weight"], other["head.weight"])
    positions = stored["pos_embed"][0, 1:].T.reshape(1, 16, 2, 2)
    resized = F.interpolate(positions, (4, 4), mode="bicubic", align_corners=False)[0].reshape(16, 16).T
    torch.testing.assert_close(got["pos_embed"][0, 1:], resized)
    # Centres of four frames lie at -1/4, 1/4, 3/4 and 5/4 of the way between those of two.
    first, second = stored["temporal_pos_embedding"][0]
    expected = torch.stack([first, 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second, second])
    torch.testing.assert_close(got["temporal_pos_embedding"][0], expected)
    changed = HEAD | {"pos_embed", "temporal_pos_embedding"}
    assert all(torch.equal(got[name], stored[name]) for name in stored.keys() - changed)


def test_weights_of_an_image_model_start_a_video_model(tmp_path):
    image = {"kind": "image", "num_frames": 1, "tubelet_size": 1, "num_classes": 10}
    path = saved(tmp_path, **image)
    stored, got = load_file(path), started(init=path, fields={**TINY, "num_frames": 4, "tubelet_size": 2})
    kernel = got["patch_embed.proj.weight"]
    assert kernel.shape[2] == 2
    assert torch.equal(kernel[:, :, 1], stored["patch_embed.proj.weight"])
    assert not kernel[:, :, 0].any()
    assert not got["temporal_pos_embedding"].any()
    assert torch.equal(got["pos_embed"], stored["pos_embed"])


@pytest.mark.parametrize(
    ("stored", "wanted", "message"),
    [
        (
            {},
            {"d_model": 32},
            r"init .*start\.safetensors: weights of another model: d_model 16 there, 32 here; ",
        ),
        ({"depth": 1}, {}, "weights of another model: depth 1 there, 2 here"),
        ({}, {"tubelet_size": 2}, "tubelet_size=2: the weights fix it at 1"),
        ({"variant": "attention"}, {}, "the weights fix"),
    ],
)
def test_initial_weights_of_another_model_are_refused(tmp_path, stored, wanted, message):
    path = saved(tmp_path, num_classes=6, **stored)
    with pytest.raises(ValueError, match=message):
        started(init=path, fields={**TINY, **wanted})


def test_a_switch_that_the_weights_fix_is_named_and_can_be_accepted(tmp_path):
    path = saved(tmp_path, num_classes=6)
    with pytest.raises(ValueError, match="backward_skip True there, False here; fields may change that"):
        started(variant="paper", init=path, fields=TINY)
    got = started(variant="paper", init=path, fields={**TINY, "backward_skip": True})
    assert torch.equal(got["layers.0.mixer.D_b"], load_file(path)["layers.0.mixer.D_b"])


def test_clips_are_flipped_at_random_but_for_something_something(tmp_path):
    (tmp_path / "1.mp4").touch()
    (tmp_path / "list.txt").write_text("1.mp4 0\n")
    (tmp_path / "labels.json").write_text(json.dumps({"Pushing something from left to right": "0"}))
    entry = {"id": "1", "template": "Pushing [something] from left to right"}
    (tmp_path / "train.json").write_text(json.dumps([entry]))
    flips = {}
    for task, listing in (("list", "list.txt"), ("ssv2", "train.json")):
        config = TrainConfig(
            task=task,
            train_list=str(tmp_path / listing),
            root=str(tmp_path),
            fields=TINY,
            crop_scale=(1.0, 1.0),
        )
        _, clips = make_model(config)
        assert isinstance(clips, VideoDraws)
        frames = np.zeros((2, 16, 16, 3), np.uint8)
        frames[:, :, :8] = 255
        views = [clips.augment(frames, seed) for seed in range(40)]
        flips[task] = sum(bool(view[..., :4].mean() < view[..., -4:].mean()) for view in views)
    assert 10 <= flips["list"] <= 30
    assert flips["ssv2"] == 0


# From the scripts that experiments/recipes/README.md names: epochs, videos, videos in a batch, rate a 256 clips.
@pytest.mark.parametrize(
    ("name", "classes", "epochs", "videos", "batch", "rate"),
    [
        ("k400_tiny_f8", 400, 70, 240_000, 8 * 64, 2e-4),
        ("k400_tiny_f16", 400, 70, 240_000, 8 * 64, 2e-4),
        ("k400_small_f16", 400, 50, 240_000, 16 * 32, 2e-4),
        ("ssv2_tiny_f8", 174, 35, 168_913, 8 * 64, 4e-4),
        ("ssv2_tiny_f16", 174, 35, 168_913, 8 * 64, 4e-4),
        ("ucf101_tiny_f16", 101, 100, 9_537, 8 * 16, 2.5e-4),
        ("hmdb51_tiny_f16", 51, 100, 3_570, 8 * 16, 2.5e-4),
    ],
)
def test_recipes_are_what_their_names_and_sources_say(name, classes, epochs, videos, batch, rate):
    recipe = TrainConfig.read(RECIPES / f"{name}.json", {"train_list": "list"})
    data, size, frames = name.split("_")
    assert recipe.task == {"k400": "kinetics400"}.get(data, data)
    with torch.device("meta"):
        model = VideoModel(named_config(recipe.model, recipe.variant, **recipe.fields, num_classes=classes))
    assert model.config.num_frames == int(frames.removeprefix("f"))
    assert model.config.image_size == 224
    assert model.config.variant == "paper"
    # Published: 7 and 26 million (VideoMamba, table 1).
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == {"tiny": 7, "small": 26}[size]
    assert recipe.steps == epochs * (videos // batch)
    assert recipe.warmup_steps == 5 * (videos // batch)
    assert recipe.batch_size == 2 * batch
    assert recipe.repeats == 2
    assert recipe.learning_rate == pytest.approx(rate * 2 * batch / 256)


def test_there_is_a_test_of_every_recipe():
    marks = test_recipes_are_what_their_names_and_sources_say.pytestmark
    assert {case[0] for case in marks[0].args[1]} == {path.stem for path in RECIPES.glob("*.json")}


def test_a_field_of_the_model_that_is_changed_leaves_the_recipe_s_others():
    changes = {"train_list": "list", "fields": {"drop_path": 0.3, "backward_skip": True}}
    fields = TrainConfig.read(RECIPES / "k400_tiny_f16.json", changes).fields
    assert fields == {"num_frames": 16, "image_size": 224, "drop_path": 0.3, "backward_skip": True}


def test_a_recipe_trains_from_the_command_line_and_flags_go_before_it(tmp_path):
    write_list(tmp_path / "train.txt", write_pans(tmp_path, 3, num_frames=8, size=32))
    flags = ["--train-list", tmp_path / "train.txt", "--root", tmp_path, "--out", tmp_path / "run"]
    settings = ["steps=1", "batch_size=4", "workers=0", "fields=" + json.dumps(TINY)]
    flags += [word for setting in settings for word in ("--set", setting)]
    result = run_command(app, "--recipe", "k400_tiny_f16", *map(str, flags))
    assert result.exit_code == 0, result
    chosen = TrainConfig.read(tmp_path / "run" / "config.json")
    assert (chosen.task, chosen.mixup, chosen.steps, chosen.precision) == ("kinetics400", 0.8, 1, "bfloat16")
    assert vmp.load_checkpoint(tmp_path / "run" / "weights.safetensors").config.num_classes == 400


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--recipe", "k400"), "there is no recipe 'k400'; there are hmdb51_tiny_f16, "),
        (
            ("--recipe", "ssv2_tiny_f8", "--config", "x.json"),
            "--config and --recipe: both are files of fields",
        ),
        (("--recipe", "ssv2_tiny_f8"), "task ssv2 needs train_list"),
        (
            ("--task", "list", "--train-list", "{tmp}/none.txt"),
            "none.txt: the list cannot be read: No such file",
        ),
        (
            ("--task", "list", "--train-list", "{tmp}/list.txt"),
            "list.txt: nothing it names is there, such as absent.mp4",
        ),
        (("--init", "{tmp}/list.txt"), "list.txt is text that begins 'absent.mp', not a checkpoint"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, flags, message):
    (tmp_path / "list.txt").write_text("absent.mp4 0\n")
    given = (flag.replace("{tmp}", str(tmp_path)) for flag in flags)
    assert_refused(run_command(app, "--out", tmp_path / "run", *given), message)
    assert not (tmp_path / "run").exists()
