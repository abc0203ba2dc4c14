"""The whole model: sizes, token order by construction, residual stream, stochastic depth, refusals."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import vmp
from vmp.config import ModelConfig, model_names, named_config
from vmp.layout import TokenLayout
from vmp.model import LanguageModel, VideoModel, build_model


def small(variant="videomamba", **fields):
    size = {"d_model": 8, "depth": 2, "image_size": 8, "patch_size": 4, "num_frames": 4, "d_state": 4}
    size["tubelet_size"] = 1
    return VideoModel(named_config("vmp_micro", variant, **(size | fields)))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("size", "millions", "exact"), [("tiny", 7, 7148008), ("small", 26, 25796584), ("middle", 74, 74217448)]
)
def test_parameter_counts_are_the_published_ones(size, millions, exact):
    """VideoMamba's table of ImageNet models: 7 M, 26 M and 74 M. The exact counts are this code's."""
    with torch.device("meta"):
        model = vmp.create_model(f"videomamba_{size}", kind="image", num_classes=1000)
    assert parameters(model) == exact
    assert round(exact / 1e6) == millions


def test_the_count_of_the_tiny_model_from_its_tensors_sizes():
    M, D, R, N, W, depth = 192, 384, 12, 16, 4, 24
    direction = D * W + D + D * (R + 2 * N) + R * D + D + D * N + D
    block = M + 2 * M * D + D * M + 2 * direction
    assert 16 * 16 * 3 * M + M + M + 197 * M + depth * block + M + 1000 * M + 1000 == 7148008


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("image_size", [32, 224])
def test_the_attention_control_has_as_many_parameters_within_two_percent(name, image_size):
    with torch.device("meta"):
        control = vmp.create_model(name, "attention", num_classes=10, image_size=image_size)
        model = vmp.create_model(name, "videomamba", num_classes=10, image_size=image_size)
    assert abs(parameters(control) / parameters(model) - 1) < 0.02


def test_a_micro_model_is_under_two_megabytes():
    assert parameters(vmp.create_model("vmp_micro", "videomamba", num_classes=8)) * 4 < 2_000_000


@pytest.mark.parametrize("class_token", ["first", "middle", "both_ends", "none"])
def test_tokens_and_positions_by_construction(class_token):
    """Each coordinate of a token carries one thing: pixel, place, frame, class token."""
    model = small(class_token=class_token, num_frames=2, d_model=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.patch_embed.proj.weight[0, 0, 0, 0, 0] = 1
        classes = len(model.token_layout().class_positions)
        model.pos_embed[0, :, 1] = torch.arange(10.0, 10 + classes + 4)
        model.temporal_pos_embedding[0, :, 2] = torch.tensor([100.0, 200.0])
        for number, name in enumerate(n for n, _ in model.named_parameters() if "cls_token" in n):
            model.get_parameter(name)[0, 0, 3] = 7 + number
    video = torch.zeros(1, 3, 2, 8, 8)
    for frame in range(2):
        for row in range(2):
            for column in range(2):
                video[0, 0, frame, 4 * row, 4 * column] = 1000 + 100 * frame + 10 * row + column
    tokens = model.embed(video)[0].tolist()
    pixels = [[1000, 1001, 1010, 1011], [1100, 1101, 1110, 1111]]
    # Spatial positions are numbered 10, 11, ... along one frame's own sequence.
    places = {"first": [11, 12, 13, 14], "middle": [10, 11, 13, 14], "both_ends": [11, 12, 13, 14]}
    spatial = places.get(class_token, [10, 11, 12, 13])
    patches = [
        [pixel, place, 100 * (frame + 1), 0]
        for frame in range(2)
        for pixel, place in zip(pixels[frame], spatial, strict=True)
    ]
    expected = {
        "first": [[0, 10, 0, 7], *patches],
        "middle": [*patches[:4], [0, 12, 0, 7], *patches[4:]],
        "both_ends": [[0, 10, 0, 7], *patches, [0, 15, 0, 8]],
        "none": patches,
    }
    assert tokens == expected[class_token]


def test_tubelets_read_their_own_frames():
    model = small(num_frames=4, tubelet_size=2, d_model=4, class_token="none")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.patch_embed.proj.weight[0, 0, 0, 0, 0] = 1
        model.patch_embed.proj.weight[1, 0, 1, 0, 0] = 1
    video = torch.arange(4.0).reshape(1, 1, 4, 1, 1).expand(1, 3, 4, 8, 8)
    tokens = model.embed(video)[0]
    assert tokens[:, 0].tolist() == [0] * 4 + [2] * 4
    assert tokens[:, 1].tolist() == [1] * 4 + [3] * 4


def test_an_image_is_a_clip_of_one_frame_with_a_flat_kernel():
    model = small(kind="image", num_frames=1, num_classes=3)
    assert model.patch_embed.proj.weight.shape == (8, 3, 4, 4)
    assert "temporal_pos_embedding" not in model.state_dict()
    image = torch.randn(2, 3, 8, 8)
    patches = torch.nn.functional.conv2d(image, model.patch_embed.proj.weight, model.patch_embed.proj.bias, 4)
    expected = patches.flatten(2).transpose(1, 2) + model.pos_embed[:, 1:]
    torch.testing.assert_close(model.embed(image[:, :, None])[:, 1:], expected)
    assert model(image[:, :, None]).shape == (2, 3)


class Constant(nn.Module):
    """A mixer that adds the same to every token."""

    def __init__(self, value, dtype):
        super().__init__()
        self.value, self.dtype = value, dtype

    def forward(self, hidden):
        assert hidden.dtype == self.dtype
        return torch.full_like(hidden, self.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_residual_stream_is_float32_under_half_precision_weights(dtype):
    """4096 + 0.25 is 4096 in either half precision, so additions would vanish from a half stream."""
    model = small(depth=3).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.cls_token.fill_(4096)
    for layer in model.layers:
        layer.mixer = Constant(0.25, dtype)
    model.norm_f = nn.Identity()
    features = model.features(torch.zeros(1, 3, 4, 8, 8, dtype=dtype))
    assert features.dtype == torch.float32
    assert features.tolist() == [[4096.75] * 8]


def test_the_model_is_add_norm_mixer_written_out():
    torch.manual_seed(0)
    model = small(num_classes=5).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    video = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    stream = model.embed(video).detach().numpy()
    for layer in model.layers:
        normed = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-5)
        hidden = torch.from_numpy(normed * layer.norm.weight.detach().numpy())
        stream = stream + layer.mixer(hidden).detach().numpy()
    normed = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-5)
    features = (normed * model.norm_f.weight.detach().numpy())[:, 0]
    logits = features @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    np.testing.assert_allclose(model.features(video).detach().numpy(), features, rtol=0, atol=1e-10)
    np.testing.assert_allclose(model(video).detach().numpy(), logits, rtol=0, atol=1e-10)


def test_layer_norm_centres():
    model = small(norm="layer").double()
    norm = model.layers[0].norm
    norm.weight.data, norm.bias.data = torch.rand(8, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    x = np.random.default_rng(0).normal(size=(1, 3, 8))
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * norm.weight.detach().numpy()
    expected += norm.bias.detach().numpy()
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("class_token", "picked"), [("first", [0]), ("middle", [8]), ("both_ends", [0, 17]), ("none", range(16))]
)
def test_features_are_the_mean_of_the_class_tokens_or_of_all(class_token, picked):
    model = small(class_token=class_token, num_classes=0)
    for layer in model.layers:
        layer.mixer = Constant(0.0, torch.float32)
    video = torch.randn(1, 3, 4, 8, 8)
    stream = model.embed(video)[0]
    normed = stream / (stream.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(model(video)[0], normed[list(picked)].mean(0))


def test_stochastic_depth_rises_linearly_and_is_off_in_evaluation():
    model = small(depth=5, drop_path=0.4)
    assert [layer.drop_path for layer in model.layers] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    block = model.layers[4]
    block.mixer = Constant(3.0, torch.float32)
    stream = torch.zeros(4000, 1, 8)
    assert torch.equal(block.eval()(stream), torch.full_like(stream, 3.0))
    torch.manual_seed(0)
    added = block.train()(stream)
    dropped = (added == 0).all(-1)
    # Each sample is whole: dropped, or kept and scaled by 1 / (1 - 0.4).
    torch.testing.assert_close(added[~dropped], torch.full_like(added[~dropped], 5.0))
    # 4 standard deviations of a share of 4000 draws are 0.031.
    assert abs(dropped.float().mean() - 0.4) < 0.031


@pytest.mark.parametrize(
    ("variant", "class_token"),
    [
        *((variant, "none") for variant in ("videomamba", "paper", "released", "attention", "mamba")),
        *(("paper", class_token) for class_token in ("first", "middle", "both_ends")),
    ],
)
def test_every_parameter_of_a_model_is_trained(variant, class_token):
    torch.manual_seed(0)
    model = small(variant, num_classes=3, class_token=class_token)
    model(torch.randn(2, 3, 4, 8, 8)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_weight_decay_is_not_for_rates_skips_embeddings_and_vectors():
    kept_whole = small("videomamba", num_classes=3).no_weight_decay()
    decayed = {name for name, _ in small("videomamba", num_classes=3).named_parameters()} - kept_whole
    assert {name.removeprefix("layers.0.").removeprefix("layers.1.") for name in decayed} == {
        "patch_embed.proj.weight",
        "head.weight",
        *(f"mixer.{name}.weight" for name in ("in_proj", "out_proj", "conv1d", "conv1d_b", "x_proj")),
        *(f"mixer.{name}.weight" for name in ("x_proj_b", "dt_proj", "dt_proj_b")),
    }


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 2, 8, 8), "the clip has 2 frames; the model takes 4. .*num_frames=2"),
        ((1, 3, 4, 16, 16), "3 channels of 16 x 16 pixels; the model takes 3 of 8 x 8.*image_size=16"),
        ((1, 1, 4, 8, 8), "1 channels of 8 x 8 pixels; the model takes 3 of 8 x 8"),
    ],
)
def test_a_clip_of_another_shape_is_refused_with_what_would_do(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))


def test_the_layout_of_another_number_of_frames_is_refused():
    model = small()
    assert model.token_layout(4) == model.token_layout() == TokenLayout((0,), 4, (2, 2))
    with pytest.raises(ValueError, match="has 6 frames; the model takes 4"):
        model.token_layout(6)


def language(**fields):
    config = {"name": "lm", "variant": "mamba", "directions": "forward", "d_model": 8, "depth": 2}
    return LanguageModel(ModelConfig.from_dict(config | {"kind": "language", "vocab_size": 11} | fields))


def test_a_language_model_is_causal_and_reuses_its_embedding():
    torch.manual_seed(0)
    model = language().double()
    ids = torch.randint(0, 11, (2, 7))
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 1) % 11
    difference = (model(ids) - model(changed)).abs().amax(dim=(0, 2))
    assert (difference[:4] == 0).all()
    assert (difference[4:] > 0).all()
    assert "lm_head.weight" not in model.state_dict()
    assert language(tied_head=False).state_dict()["lm_head.weight"].shape == (11, 8)
    assert model.token_layout(7) == TokenLayout.sequence(7)


def test_each_kind_of_configuration_has_its_model():
    assert isinstance(build_model(language().config), LanguageModel)
    assert isinstance(build_model(small().config), VideoModel)
    with pytest.raises(ValueError, match='VideoModel takes "video" or "image"'):
        VideoModel(language().config)
    with pytest.raises(ValueError, match='LanguageModel takes "language"'):
        LanguageModel(small().config)


def test_vmp_imports_nothing_but_its_five_dependencies():
    listed = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    allowed = "import torch, numpy, einops, jaxtyping, safetensors.torch, torch.nn.functional; "
    # Neither does a model without storage, as is made before a checkpoint is read, load torch's compiler.
    made = "import sys, torch, vmp\nwith torch.device('meta'):\n    vmp.create_model('vmp_micro')\n"
    made += "assert 'torch._dynamo' not in sys.modules\n"
    runs = [
        subprocess.run([sys.executable, "-c", code + listed], capture_output=True, text=True, check=True)
        for code in (allowed, made)
    ]
    known, met = (set(run.stdout.split()) for run in runs)
    assert met - known - set(sys.stdlib_module_names) == {"vmp"}
    assert not met & {"scipy", "pandas", "matplotlib", "numba", "transformers", "sklearn", "skimage"}
