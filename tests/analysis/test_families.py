"""Adapters for models of others: each layer's real output, by hooks of the test's own, rebuilt from its captures."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from analysis.capture import family_of, rebuild, record
from tests.analysis.models import stirred

VIDEO = {
    "image_size": 8,
    "patch_size": 4,
    "num_frames": 3,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
}


def videomae(**fields):
    config = transformers.VideoMAEConfig(**{**VIDEO, "num_frames": 4, "tubelet_size": 2, **fields})
    return stirred(transformers.VideoMAEForVideoClassification(config))


def vivit(**fields):
    fields = {**VIDEO, "num_frames": 4, "tubelet_size": [2, 4, 4], **fields}
    del fields["patch_size"]
    return stirred(transformers.VivitForVideoClassification(transformers.VivitConfig(**fields)))


def timesformer(kind, **fields):
    config = transformers.TimesformerConfig(**{**VIDEO, "attention_type": kind, **fields})
    return stirred(transformers.TimesformerForVideoClassification(config))


def mamba(**fields):
    sizes = {"hidden_size": 12, "state_size": 4, "num_hidden_layers": 2, "vocab_size": 11}
    config = transformers.MambaConfig(**{**sizes, **fields})
    return stirred(transformers.MambaForCausalLM(config))


def pixels(frames, batch=2, size=(8, 8)):
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, frames, *size, dtype=torch.float64, generator=g)


def seen_by(model, modules, inputs):
    """What modules returned, and the captures."""
    seen = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name, module in modules.items()
    ]
    with torch.no_grad(), record(model) as captures:
        family_of(model).run(model, inputs)
    for handle in handles:
        handle.remove()
    return seen, captures


def assert_rebuilt(captures, out):
    out = out[0] if isinstance(out, tuple) else out
    # The issue asks for 1e-10 in float64; both are sums of the same terms in another order.
    torch.testing.assert_close(rebuild(captures), out, rtol=0, atol=1e-10)
    assert out.abs().max() > 1e-3


@pytest.mark.parametrize("biased", [True, False])
def test_videomae(biased):
    model = videomae(qv_bias=biased)
    blocks = model.videomae.encoder.layer
    seen, captures = seen_by(model, {i: b.attention for i, b in enumerate(blocks)}, pixels(4))
    assert [(c.layer, c.direction) for c in captures] == [(0, "both"), (1, "both")]
    for c in captures:
        assert (c.layout.frames, c.layout.grid, c.layout.class_positions) == (2, (2, 2), ())
        assert_rebuilt([c], seen[c.layer])


def test_vivit():
    model = vivit()
    seen, captures = seen_by(model, {i: b.attention for i, b in enumerate(model.vivit.layers)}, pixels(4))
    assert len(captures) == 2
    for c in captures:
        assert (c.layout.frames, c.layout.grid, c.layout.class_positions) == (2, (2, 2), (0,))
        assert_rebuilt([c], seen[c.layer])


def test_oblong_frames_keep_rows_and_columns_apart():
    model = videomae(image_size=[8, 12])
    blocks = model.videomae.encoder.layer
    seen, captures = seen_by(model, {i: b.attention for i, b in enumerate(blocks)}, pixels(4, size=(8, 12)))
    assert captures[0].layout.grid == (2, 3)
    assert_rebuilt(captures[:1], seen[0])


def frame_major(out, frames):
    """A patch-major sequence with its class token first, in the order of this project, by counting."""
    patches = (out.shape[1] - 1) // frames
    order = [0] + [1 + p * frames + t for t in range(frames) for p in range(patches)]
    return out[:, order]


def test_timesformer_joint():
    model = timesformer("joint_space_time")
    blocks = model.timesformer.encoder.layer
    seen, captures = seen_by(model, {i: b.attention for i, b in enumerate(blocks)}, pixels(3))
    assert [c.direction for c in captures] == ["both", "both"]
    for c in captures:
        assert_rebuilt([c], frame_major(seen[c.layer][0], 3))


def test_timesformer_space_only():
    model = timesformer("space_only")
    blocks = model.timesformer.encoder.layer
    seen, captures = seen_by(model, {i: b.attention for i, b in enumerate(blocks)}, pixels(3))
    for c in captures:
        assert (c.direction, c.layout.class_positions, c.layout.length) == ("space", (0, 5, 10), 15)
        out = seen[c.layer][0]  # (clips x frames, 1 + patches, M)
        assert_rebuilt([c], torch.stack([torch.cat(list(out[3 * b : 3 * b + 3])) for b in range(2)]))


def test_timesformer_divided():
    model = timesformer("divided_space_time")
    blocks = model.timesformer.encoder.layer
    modules = {("time", i): b.temporal_dense for i, b in enumerate(blocks)}
    modules |= {("space", i): b.attention for i, b in enumerate(blocks)}
    seen, captures = seen_by(model, modules, pixels(3))
    assert [(c.layer, c.direction) for c in captures] == [
        (0, "time"),
        (0, "space"),
        (1, "time"),
        (1, "space"),
    ]
    for c in captures:
        out = seen[c.direction, c.layer]
        if c.direction == "time":  # (B, patches x frames, M), without the class token
            out = F.pad(out, (0, 0, 1, 0))
            assert (rebuild([c])[:, 0] == 0).all()
            assert_rebuilt([c], frame_major(out, 3))
        else:  # (B x frames, 1 + patches, M), a copy of the class token in every frame
            clips = out[0].reshape(2, 3, 5, -1)
            assert_rebuilt([c], torch.cat([clips[:, :, :1].mean(1), clips[:, :, 1:].flatten(1, 2)], 1))


def test_timesformer_divided_sees_places_in_time_and_frames_in_space():
    _, captures = seen_by(timesformer("divided_space_time"), {}, pixels(3))
    time, space = (c.operator().dense().abs().amax((0, 1)) > 0 for c in captures[:2])
    for i in range(13):
        frame, place = divmod(i - 1, 4)
        same_place = {1 + t * 4 + place for t in range(3)} if i else set()
        same_frame = {0} | {1 + frame * 4 + p for p in range(4)} if i else set(range(13))
        assert set(time[i].nonzero().flatten().tolist()) == same_place
        assert set(space[i].nonzero().flatten().tolist()) == same_frame


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_whatever_computes_the_softmax(attention):
    """VideoMAE's eager softmax runs in the model's dtype, and so does the fused one."""
    model = videomae()
    model.set_attn_implementation(attention)
    blocks = model.videomae.encoder.layer
    seen, captures = seen_by(model, {i: b.attention for i, b in enumerate(blocks)}, pixels(4))
    assert_rebuilt(captures[1:], seen[1])


IDS = torch.tensor([[1, 5, 7, 2, 2, 10, 3], [0, 3, 3, 9, 8, 4, 4]])


@pytest.mark.parametrize("fields", [{}, {"use_bias": True}, {"use_conv_bias": False}], ids=str)
def test_transformers_mamba(fields, monkeypatch):
    """In float64, with the layer's own casts to float32 lifted: they would leave its rounding in either's output."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    model = mamba(**fields)
    seen, captures = seen_by(model, {i: b.mixer for i, b in enumerate(model.backbone.layers)}, IDS)
    assert [(c.layer, c.direction) for c in captures] == [(0, "forward"), (1, "forward")]
    for c in captures:
        assert_rebuilt([c], seen[c.layer])


def test_transformers_mamba_in_its_own_precision():
    """float32 as it comes: both outputs round, each by no more than a few eps of what is summed."""
    model = mamba().float()
    seen, captures = seen_by(model, {i: b.mixer for i, b in enumerate(model.backbone.layers)}, IDS)
    for c in captures:
        torch.testing.assert_close(rebuild([c]), seen[c.layer])


def test_transformers_mamba_refuses_padding_and_cached_states():
    model = mamba()
    mask = torch.ones_like(IDS)
    with record(model), torch.no_grad():
        model(IDS, attention_mask=mask)
        mask[0, 0] = 0
        with pytest.raises(TypeError, match="layer 0: attention_mask hides padding"):
            model(IDS, attention_mask=mask)
    with torch.no_grad():
        cache = model(IDS, use_cache=True).cache_params
    with record(model), torch.no_grad(), pytest.raises(TypeError, match="layer 0: continues a cached state"):
        model(IDS[:, :1], cache_params=cache)


class Mamba(nn.Module):
    """mamba_ssm's `Mamba` by its published parameters and arithmetic, as that package needs CUDA.

    Source: Gu and Dao, arXiv 2312.00752, algorithm 2 and section 3.4: the recurrence, token by token.
    """

    def __init__(self, d_model=6, d_state=3, d_conv=4, expand=2, dt_rank=2, bias=False, conv_bias=True):
        super().__init__()
        self.d_inner, self.dt_rank, self.d_state = expand * d_model, dt_rank, d_state
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=conv_bias
        )
        self.activation, self.act = "silu", nn.SiLU()
        self.x_proj = nn.Linear(self.d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias)

    def forward(self, hidden_states, inference_params=None):
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        x = self.act(self.conv1d(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        r, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.softplus(self.dt_proj(r))
        state, outputs = x.new_zeros(x.shape[0], self.d_inner, self.d_state), []
        for t in range(x.shape[1]):
            decay = torch.exp(delta[:, t, :, None] * -self.A_log.exp())
            state = decay * state + delta[:, t, :, None] * B[:, t, None] * x[:, t, :, None]
            outputs.append((state * C[:, t, None]).sum(-1) + self.D * x[:, t])
        return self.out_proj(torch.stack(outputs, 1) * self.act(z))


Mamba.__module__ = "mamba_ssm.modules.mamba_simple"


class Stack(nn.Module):
    def __init__(self, **fields):
        super().__init__()
        self.layers = nn.ModuleList([Mamba(**fields) for _ in range(2)])

    def forward(self, tokens):
        for layer in self.layers:
            tokens = tokens + layer(tokens)
        return tokens


@pytest.mark.parametrize("fields", [{}, {"bias": True}, {"conv_bias": False, "d_conv": 2}], ids=str)
def test_mamba_ssm(fields):
    model = stirred(Stack(**fields))
    tokens = torch.randn(2, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    seen, captures = seen_by(model, dict(enumerate(model.layers)), tokens)
    assert [c.layout.length for c in captures] == [9, 9]
    for c in captures:
        assert_rebuilt([c], seen[c.layer])
    seen, captures = seen_by(model.layers[1], {0: model.layers[1]}, tokens)
    assert_rebuilt(captures, seen[0])


def hide(model, path, new):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)


class Packed(nn.Linear):
    """A linear map with its weight in eight bits, as quantised layers hold it."""

    def __init__(self, plain):
        super().__init__(plain.in_features, plain.out_features, dtype=torch.float64)
        self.weight = nn.Parameter(plain.weight.detach().to(torch.int8), requires_grad=False)


HIDDEN = {
    "none": (
        vivit,
        "vivit.layers.1.attention.k_proj",
        lambda _: None,
        "layer 1: VivitAttention has no k_proj",
    ),
    "wrapped": (
        videomae,
        "videomae.encoder.layer.0.attention.output.dense",
        nn.Sequential,
        "layer 0: output.dense of VideoMAEAttention is a Sequential; a plain Linear is needed",
    ),
    "quantised": (
        lambda: timesformer("divided_space_time"),
        "timesformer.encoder.layer.1.temporal_dense",
        Packed,
        "layer 1: temporal_dense.weight of TimesformerLayer is int8",
    ),
    "mamba": (mamba, "backbone.layers.0.mixer.x_proj", lambda _: None, "layer 0: MambaMixer has no x_proj"),
    "mamba_ssm": (
        lambda: stirred(Stack()),
        "layers.1.conv1d",
        lambda _: None,
        "layer 1: Mamba has no conv1d",
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_layer_that_hides_its_parameters_is_named(name):
    make, path, change, message = HIDDEN[name]
    model = make()
    family = family_of(model)
    hide(model, path, change(model.get_submodule(path)))
    layer = int(message.split()[1].rstrip(":"))
    width = 6 if name == "mamba_ssm" else 12
    length = {"none": 9, "wrapped": 8, "quantised": 13}.get(name, 7)
    with pytest.raises(TypeError) as raised:
        family.captures(model, layer, torch.zeros(1, length, width, dtype=torch.float64))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_what_does_not_apply_is_refused():
    model = vivit()
    model.vivit.layers[0].attention.k_proj = nn.Linear(12, 4).double()
    with pytest.raises(TypeError, match=r"layer 0: q, k and v have widths .* grouped or shared heads"):
        family_of(model).captures(model, 0, torch.zeros(1, 9, 12, dtype=torch.float64))
    model = videomae()
    masked = torch.zeros(2, 8, dtype=torch.bool)
    masked[:, :3] = True
    video = pixels(4).transpose(1, 2)
    with record(model), pytest.raises(TypeError, match="layer 0: sees 5 tokens and the configuration has 8"):
        model.videomae(video, bool_masked_pos=masked)
    model = videomae(hidden_dropout_prob=0.1).train()
    with record(model), pytest.raises(TypeError, match=r"layer 0: dropout is active; call model\.eval"):
        model(video)
    model = mamba(hidden_act="gelu")
    with record(model), pytest.raises(TypeError, match="layer 0: the activation of MambaMixer is 'gelu'"):
        model(IDS)
    fork = stirred(Stack())
    fork.layers[1].A_b_log = fork.layers[1].A_log
    with record(fork), pytest.raises(TypeError, match="layer 1: Mamba has A_b_log, so a fork's"):
        fork(torch.zeros(1, 4, 6, dtype=torch.float64))
    with (
        pytest.raises(TypeError, match=r"no adapter for ViTModel; known families: vmp, .*modules"),
        record(transformers.ViTModel(transformers.ViTConfig(num_hidden_layers=1, hidden_size=12))),
    ):
        pass
