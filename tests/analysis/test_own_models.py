"""Models of a user's own: mixers found inside a module, with a layout; and a family that the session registers."""

import numpy as np
import pytest
import torch
from torch import nn

import analysis
from analysis.capture import families, family_of
from analysis.capture import registry as registry_module
from analysis.capture.parts import Site
from analysis.capture.vmp_layer import captures_of_mixer
from tests.analysis.models import clip, stirred
from tests.analysis.test_registry import LAYOUT, own
from vmp.config import ModelConfig
from vmp.layout import TokenLayout
from vmp.mixer import MambaMixer


def test_frame_quantities_of_a_model_that_holds_mixers_somewhere_inside():
    model, clips = own("paper"), clip(2)
    result = analysis.probe(model, clips, ["decay"], layout=LAYOUT, resamples=100)
    assert (result.models, result.layers, result.layout()) == (("Own",), (0, 1), LAYOUT)
    for quantity in (
        "mean_distance_frames",
        "decay_index_patches",
        "class_self",
        "predicted_half_life_frames",
    ):
        table = result.summary(quantity)
        assert len(table) == 2 * 2
        assert table["value"].notna().all(), quantity
    # The last token is the class token: the masked backward scan begins there, and gives it nothing.
    assert 0 < result.number("class_self", 1, "forward", "ssm").value < 1
    assert result.note("class_self", 1, "backward", "ssm").startswith("no row with a sum above 0")
    # Forward, a frame sees itself and those before.
    frames = result.curve("frame_matrix", 1, "forward", "ssm").value
    assert frames.shape == (3, 3)
    assert (np.triu(frames, 1) == 0).all()
    with torch.no_grad(), analysis.record(model, [1], layout=LAYOUT) as captures:
        model(clips[:1])
    W = np.stack([captures[1, "forward"].operator().row(i)[0].abs().mean(0).numpy() for i in range(13)])
    P = W / W.sum(1, keepdims=True)
    matrix = (
        result.data["decay.frame_matrix"].sel(layer=1, direction="forward", clip="clip 0").values.squeeze()
    )
    expected = [[P[4 * s : 4 * s + 4, 4 * t : 4 * t + 4].sum(1).mean() for t in range(3)] for s in range(3)]
    assert matrix == pytest.approx(np.array(expected), rel=1e-9)
    with analysis.patched(model, 1, "forward", "no_scan"), torch.no_grad():
        edited = model(clips)
    assert not torch.equal(edited, model(clips))
    plain = analysis.probe(model, clips, ["decay"], resamples=100)
    assert plain.layout() == TokenLayout.sequence(13)
    assert plain.note("half_life_frames", 0, "forward", "ssm") == "a plain sequence has no frames"


class Wrapped(nn.Module):
    """A model that gives its mixers more than tokens, so that no known family can read it."""

    def __init__(self):
        super().__init__()
        config = ModelConfig.from_variant("videomamba", name="own", d_model=6, depth=1, d_state=3)
        self.patches = nn.Conv3d(3, 6, (1, 4, 4), stride=(1, 4, 4))
        self.inner = MambaMixer(config)
        self.head = nn.Linear(6, 5)

    def forward(self, batch):
        tokens = self.patches(batch["pixels"]).flatten(2).transpose(1, 2)
        return {"scores": self.head((tokens + self.inner(tokens)).mean(1))}


class WrappedFamily:
    """One file of a user's own: what the recorder asks of a family."""

    NAME = "wrapped"

    def recognises(self, model):
        return isinstance(model, Wrapped)

    def mixers(self, model):
        return [model.inner]

    def sites(self, model, layer):
        return [Site(model.inner)]

    def captures(self, model, layer, hidden):
        return captures_of_mixer(model.inner, layer, hidden, TokenLayout.video(3, (2, 2), "none"))

    def run(self, model, inputs):
        return model({"pixels": inputs})["scores"]


def test_a_family_that_the_session_registers_is_probed(monkeypatch):
    monkeypatch.setattr(registry_module, "_registered", [])
    model, clips = stirred(Wrapped()), clip(2)
    by_hand = analysis.probe(model, clips, ["decay"], family=WrappedFamily(), resamples=100)
    analysis.register_family(WrappedFamily())
    assert family_of(model).NAME == families()[0].NAME == "wrapped"
    result = analysis.probe(model, clips, [analysis.Decay()], resamples=100)
    assert result.data.identical(by_hand.data)
    assert result.data.identical(
        analysis.probe(model, clips, ["decay"], family="wrapped", resamples=100).data
    )
    assert result.note("class_self", 0, "backward", "ssm") == "no class token"
    assert result.number("mean_distance_frames", 0, "backward", "ssm").value > 0
    with analysis.record(model) as captures, torch.no_grad():
        family_of(model).run(model, clips)
        model({"pixels": clips})
    assert [c.direction for c in captures] == ["forward", "backward"] * 2
    with analysis.patched(model, 0, "backward", lambda capture: capture), torch.no_grad():
        assert torch.equal(model({"pixels": clips})["scores"], family_of(model).run(model, clips))
