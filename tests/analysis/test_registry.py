"""Families found through the registry, and models of a user's own with a layout that the user gives."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn
from transformers.models.mamba import modeling_mamba

from analysis.capture import captures_of, families, family_of, layer_inputs, rebuild, record, register_family
from analysis.capture import registry as registry_module
from analysis.reduce import FrameMatrix, reduce
from tests.analysis.models import clip, stirred, video_model
from tests.analysis.test_families import Mamba, pixels, timesformer
from vmp.config import ModelConfig
from vmp.layout import TokenLayout
from vmp.mixer import MambaMixer


class Own(nn.Module):
    """A video model of one's own: patches, a class token at the end, and mixers somewhere inside."""

    def __init__(self, mixers):
        super().__init__()
        self.patches = nn.Conv3d(3, 6, (1, 4, 4), stride=(1, 4, 4))
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.blocks = nn.Sequential(*(nn.Sequential(nn.LayerNorm(6), mixer) for mixer in mixers))
        self.head = nn.Linear(6, 5)

    def forward(self, video):
        tokens = self.patches(video).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens, self.token.expand(len(tokens), -1, -1)], 1)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.head(tokens[:, -1])


def own(kind):
    if kind == "mamba_ssm":
        return stirred(Own([Mamba(), Mamba()]))
    config = ModelConfig.from_variant(kind, name="test", d_model=6, depth=2, d_state=3, num_classes=5)
    return stirred(Own([MambaMixer(config), MambaMixer(config)]))


LAYOUT = TokenLayout((12,), 3, (2, 2))


@pytest.fixture
def registry(monkeypatch):
    """The registry as a new session finds it, and as it was afterwards."""
    monkeypatch.setattr(registry_module, "_registered", [])
    registry_module._installed.cache_clear()
    yield registry_module
    registry_module._installed.cache_clear()


@pytest.mark.parametrize("kind", ["paper", "mamba_ssm"])
@pytest.mark.parametrize("layout", [LAYOUT, lambda length: TokenLayout((length - 1,), 3, (2, 2))])
def test_a_model_of_ones_own_has_frames_where_its_layout_is_given(kind, layout):
    model, seen = own(kind), []
    assert family_of(model).NAME == "modules"
    handle = model.blocks[1][1].register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad(), record(model, [-1], layout=layout) as captures:
        model(clip())
    handle.remove()
    torch.testing.assert_close(rebuild(captures), seen[0], rtol=0, atol=1e-10)
    for capture in captures:
        assert capture.layout == LAYOUT
        found = reduce(capture.operator(), [FrameMatrix()], layout=capture.layout)["FrameMatrix"]
        assert torch.isfinite(found.frames[:, 1]).all()
    with torch.no_grad(), record(model) as captures:
        model(clip())
    assert captures[0].layout == TokenLayout.sequence(13)


def test_transformers_mixers_are_known_anywhere():
    config = transformers.MambaConfig(hidden_size=6, state_size=3, num_hidden_layers=1)
    model, seen = Own([modeling_mamba.MambaMixer(config, layer_idx=0)]), []
    model.blocks[0][1].register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad(), record(model, layout=LAYOUT) as captures:
        model(clip().float())
    assert captures[0, "forward"].layout == LAYOUT
    torch.testing.assert_close(rebuild(captures), seen[0])


def test_a_layout_that_does_not_fit_is_refused():
    model = own("paper")
    with (
        record(model, layout=TokenLayout.video(2, (2, 2), "first")),
        pytest.raises(TypeError, match="layout: has 9 tokens and layer 0 sees 13"),
    ):
        model(clip())
    model = video_model()
    with record(model, layout=LAYOUT), pytest.raises(TypeError, match=r"the model's own is .*leave it out"):
        model(clip())


@pytest.mark.parametrize("model", [video_model, lambda: timesformer("divided_space_time")])
def test_inputs_of_layers_give_the_captures_of_a_recording(model):
    model, video = model(), pixels(3)
    with torch.no_grad():
        inputs = layer_inputs(model, video, [1, -1])
        with record(model, [1, -1]) as captures:
            family_of(model).run(model, video)
        again = [
            capture
            for layer, met in inputs.items()
            for hidden, direction in met
            for capture in captures_of(model, layer, hidden, direction)
        ]
    assert [(c.layer, c.direction) for c in again] == [(c.layer, c.direction) for c in captures]
    for capture, other in zip(captures, again, strict=True):
        assert torch.equal(capture.hidden, other.hidden)
        assert torch.equal(capture.output(), other.output())
    assert all(not hidden.requires_grad for met in inputs.values() for hidden, _ in met)


def test_captures_have_names_beside_positions():
    model = video_model("paper")
    with torch.no_grad(), record(model, [0, 2]) as captures:
        model(clip())
        assert captures[2, "backward"] is captures[-1, "backward"] is captures[-1] is captures[3]
        assert captures[:2] == [captures[0, "forward"], captures[0, "backward"]]
        with pytest.raises(
            KeyError, match=r"layer 1 forward was not recorded; recorded: layer 0 forward, .*layer 2"
        ):
            captures[1, "forward"]
        model(clip())
        with pytest.raises(KeyError, match="layer 0 forward was recorded 2 times"):
            captures[0, "forward"]
    assert repr(captures[1]) == "Capture(layer 0, backward, float64, B=2, D=24, N=4, L=13)"
    model = video_model("attention", num_heads=3)
    with torch.no_grad(), record(model, [1]) as captures:
        model(clip())
    assert repr(captures[1, "both"]) == "AttentionCapture(layer 1, both, float64, B=2, H=3, L=13, d=4)"


def family(**names):
    known = family_of(video_model())
    return SimpleNamespace(**{**vars(known), "NAME": "mine", **names})


def test_a_registered_family_comes_first_and_replaces_one_of_its_name(registry):
    model = video_model()
    assert family_of(model).NAME == "vmp"
    first, second = family(), family()
    register_family(first)
    assert family_of(model) is first
    register_family(second)
    assert family_of(model) is second
    assert [f.NAME for f in families()].count("mine") == 1
    assert family_of(model, "vmp").NAME == "vmp"
    assert family_of(nn.Linear(1, 1), first) is first
    with pytest.raises(TypeError, match="family: 'other' is not known; known families: mine, vmp, videomae"):
        family_of(model, "other")


def test_families_are_entry_points(registry, monkeypatch):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = project["project"]["entry-points"][registry.GROUP]
    assert tuple(declared.values()) == registry.OWN
    assert tuple(declared) == tuple(f.NAME for f in families())
    registry._installed.cache_clear()
    theirs = EntryPoint("theirs", f"{__name__}:THEIRS", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [theirs])
    assert [f.NAME for f in families()] == ["theirs", *declared]
    assert family_of(video_model()) is THEIRS
    registry._installed.cache_clear()
    theirs = EntryPoint("theirs", f"{__name__}:family", registry.GROUP)
    with pytest.raises(TypeError, match=r"entry point 'theirs' of vmp\.families: .* has no NAME, recognises"):
        families()


THEIRS = family(NAME="theirs")
