"""The one loop: models, layers, scopes, seeds and clips; interruption and resumption; what it refuses."""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import analysis
from analysis import Decay, Measure, Quantity, probe
from analysis.files import ResultError
from analysis.inputs import Sample
from analysis.unfinished import Unfinished
from tests.analysis.models import clip, ids, language_model, own, stirred, video_model
from vmp.attention import SelfAttentionMixer
from vmp.config import ModelConfig
from vmp.layout import TokenLayout

FEW = {"resamples": 100}
TEXT = TokenLayout.sequence(8)


@dataclass(frozen=True)
class Noise(Measure):
    """A number that depends on the generator alone, and one of the whole model."""

    name = "noise"
    title = "Noise"
    quantities: ClassVar = {"noise": Quantity("none", "a draw")}

    def per_clip(self, view, rng):
        return {"noise": rng.standard_normal()}


@dataclass(frozen=True)
class Loudness(Measure):
    name = "loudness"
    title = "Loudness"
    level = "model"
    quantities: ClassVar = {"loudness": Quantity("none", "root mean square of the clip")}

    def per_clip(self, view, rng):
        return {"loudness": view.clip.square().mean().sqrt()}


@pytest.fixture(scope="module")
def model():
    return video_model(depth=2)


def test_one_model_is_called_by_its_class_and_several_by_their_names(model):
    one = probe(model, clip(2), ["decay"], layers=[-1], **FEW)
    assert (one.models, one.layers, one.scopes, one.n_clips) == (("VideoModel",), (1,), ("ssm",), 2)
    assert one.directions("decay") == ("forward", "backward")
    control = video_model("attention", num_heads=3, depth=3)
    both = probe({"pro": model, "control": control}, clip(2), ["decay"], **FEW)
    assert both.models == ("pro", "control")
    assert (both.layers, both.layers_of("pro"), both.layers_of("control")) == ((0, 1, 2), (0, 1), (0, 1, 2))
    assert both.directions("decay", "control") == ("both", "both j<=i", "both j>=i")
    assert both.directions("decay", "pro") == ("forward", "backward")
    alone = probe(model, clip(2), ["decay"], **FEW).summary()
    beside = both.summary(model="pro")
    assert alone.drop(columns="model").equals(beside.drop(columns="model"))
    assert both.weight_unit("ssm", model="pro") == "scan output per unit of scan input"
    assert both.weight_unit("ssm", model="control") == "fraction of the row"
    note = (
        "pro: The residual \"elemental\" is this toolkit's reading of the paper's text, not a released form."
    )
    assert note in both.provenance.notes


def test_models_may_differ_in_depth():
    models = {"deep": own(2), "shallow": own(1)}
    found = probe(models, ids(2, 9), ["decay"], layout=TokenLayout.sequence, **FEW)
    assert found.layers_of("shallow") == (0,)
    assert not found.has("half_life_tokens", "shallow", 1, "forward", "ssm")
    assert found.summary("half_life_tokens", model="shallow")["layer"].tolist() == [0, 0]


def test_each_model_of_a_comparison_may_have_a_layout_of_its_own():
    models, layout = {"a": own(1), "b": own(1)}, TokenLayout.video(2, (2, 2), "first")
    found = probe(models, ids(2, 9), ["decay"], layout={"b": layout}, family={"a": "modules"}, **FEW)
    assert (found.layout("a"), found.layout("b")) == (TokenLayout.sequence(9), layout)


def test_scans_and_self_attention_in_one_model_have_their_own_directions_and_units():
    mixed = own(2)
    control = ModelConfig.from_variant("attention", name="own", d_model=4, depth=1, num_heads=2)
    mixed.blocks[1] = stirred(SelfAttentionMixer(control))
    found = probe(mixed, ids(2, 9), ["decay"], **FEW)
    assert [found.directions("decay", layer=layer) for layer in (0, 1)] == [
        ("forward", "backward"),
        ("both", "both j<=i", "both j>=i"),
    ]
    units = {layer: set(rows) for layer, rows in found.summary("lag_profile").groupby("layer")["unit"]}
    assert units == {0: {"scan output per unit of scan input"}, 1: {"fraction of the row"}}


def test_scopes_keep_their_order_and_each_is_measured_on_its_own(model):
    both = probe(model, clip(1), ["decay"], layers=[0], scopes=["contribution", "ssm"])
    assert both.scopes == ("ssm", "contribution")
    alone = probe(model, clip(1), ["decay"], layers=[0], scopes=["contribution"])
    assert both.summary(scope="contribution").equals(alone.summary())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(model):
    def run(seed, layers=None):
        return probe(model, clip(6), [Decay(), Noise()], seed=seed, layers=layers, **FEW)

    first, again, other = run(1), run(1), run(2)
    assert first.data.identical(again.data)
    assert not np.array_equal(first.data["noise"], other.data["noise"])
    assert not np.array_equal(first.data["decay_index_tokens_low"], other.data["decay_index_tokens_low"])
    assert np.array_equal(first.data["half_life_tokens"], other.data["half_life_tokens"], equal_nan=True)
    # What is drawn in a layer does not depend on which others are probed.
    assert np.array_equal(run(1, [1]).data["noise"][:, 0], first.data["noise"][:, 1])


def test_clips_as_a_tensor_as_samples_and_one_at_a_time_are_the_same(model):
    tensor = clip(2)
    given = [Sample(one.float(), f"clip {i}", "label") for i, one in enumerate(tensor)]
    ways = (tensor.float(), given, iter(tensor.float()))
    results = [probe(model, clips, ["decay"], layers=[0], **FEW) for clips in ways]
    assert all(result.data.identical(results[0].data) for result in results)
    assert results[0].provenance.clips.names == ("clip 0", "clip 1")
    assert results[1].provenance.clips.labels == ("label", "label")
    origin = results[0].provenance.models["VideoModel"]
    assert (origin.frames, origin.size, origin.dtype, origin.device) == (3, 8, "float64", "cpu")
    assert origin.recognised == "vmp.model.VideoModel"


def test_token_ids_are_a_plain_sequence():
    found = probe(language_model(), ids(2, 9), ["decay"], **FEW)
    assert found.layout() == TokenLayout.sequence(9)
    assert any("plain sequence has no frames" in note for note in found.provenance.notes)
    origin = found.provenance.models["LanguageModel"]
    assert (origin.frames, origin.size) == (None, None)


def test_clips_of_one_name_are_numbered_and_copies_of_frames_are_noted(model):
    still = clip(1)[0].clone()
    still[:, 1:] = still[:, :1]
    found = probe(model, [Sample(still, "a"), Sample(clip(1)[0], "a")], [Noise()], **FEW)
    assert found.data["clip"].values.tolist() == ["a (0)", "a (1)"]
    assert (
        "Clip a shows 1 distinct frames of 3; lags between copies say nothing of motion."
        in found.provenance.notes
    )


def test_a_measure_of_the_whole_model_has_no_layers(model):
    found = probe({"a": model, "b": own_video()}, clip(2), [Loudness()], **FEW)
    assert (found.layers, found.scopes) == ((), ())
    expected = clip(2).square().mean((1, 2, 3, 4)).sqrt().mean()
    assert found.number("loudness", model="b").value == pytest.approx(float(expected))
    assert found.summary()["layer"].isna().all()
    with pytest.raises(KeyError, match="no plot 'loudness'"):
        found.plot("loudness")


def own_video():
    return video_model("mamba", depth=1)


def test_modes_are_restored_even_after_an_error(model):
    quiet = deepcopy(model)
    model.train()
    next(model.children()).eval()
    before = [module.training for module in model.modules()]
    assert probe(model, clip(1), [Decay()]).data.identical(probe(quiet, clip(1), [Decay()]).data)
    with pytest.raises(ValueError, match="per_clip gives 'noise'"):
        probe(model, clip(1), [Wrong({"noise": np.zeros(2)})])
    assert [module.training for module in model.modules()] == before
    model.eval()


# Refusals.


@dataclass(frozen=True, eq=False)
class Wrong(Measure):
    gives: dict

    name = "wrong"
    title = "Wrong"
    quantities: ClassVar = {"noise": Quantity("none", "a draw")}

    def per_clip(self, view, rng):
        return self.gives


@dataclass(frozen=True)
class Growing(Measure):
    name = "growing"
    title = "Growing"
    quantities: ClassVar = {"noises": Quantity("none", "draws", dims=("draw",))}

    def per_clip(self, view, rng):
        return {"noises": np.zeros(int(view.site.sample.name.removeprefix("clip ")) + 1)}


REFUSED = {
    "no clips": (lambda m: probe(m, []), "clips: there are none; show the model one or more"),
    "shapes": (
        lambda m: probe(m, [clip(1)[0], clip(1, size=12)[0]]),
        r"clips: have shapes \(3, 3, 8, 8\) and \(3, 3, 12, 12\); all must have one",
    ),
    "no measures": (lambda m: probe(m, clip(1), []), "no measures: name at least one"),
    "unknown measure": (lambda m: probe(m, clip(1), ["speed"]), "no measure named 'speed'; there are decay"),
    "twice": (lambda m: probe(m, clip(1), [Noise(), Wrong({})]), "quantities: noise is there twice"),
    "unknown scope": (
        lambda m: probe(m, clip(1), ["decay"], scopes=["scan"]),
        r"scopes: \('scan',\); wanted one or more of ssm, mixer, contribution",
    ),
    "no scope": (lambda m: probe(m, clip(1), ["decay"], scopes=[]), "wanted one or more of ssm"),
    "shape of a quantity": (
        lambda m: probe(m, clip(1), [Wrong({"noise": np.zeros(2)})]),
        r"measure wrong: per_clip gives 'noise' of shape \(2,\); it states axes \(\)",
    ),
    "undeclared": (
        lambda m: probe(m, clip(1), [Wrong({"other": 1.0})]),
        "measure wrong: per_clip gives 'other' of shape .*no such quantity, nor is it among `kept`",
    ),
    "layer": (lambda m: probe(m, clip(1), ["decay"], layers=[2]), "layers: 2 is out of range; .* 0 to 1"),
    "no layers": (lambda m: probe(m, clip(1), ["decay"], layers=[]), "layers: there are none; name one or more"),
    "drawn": (lambda m: probe(m, clip(1), [Decay(draw=(-1,))]), r"draw: \(-1,\); name layers by their index from 0"),
    "layouts": (lambda m: probe({"a": m}, clip(1), layout={"b": TEXT}), "layout: no model named 'b'; there are a"),
    "shape of the next clip": (
        lambda m: probe(m, clip(2), [Growing()]),
        r"measure growing: per_clip gives 'noises' of shape \(2,\), and \(1,\) for the first clip",
    ),
    "no family": (lambda m: probe(torch.nn.Linear(2, 2), clip(1), ["decay"]), "no adapter for Linear; known families"),
    "family by name": (lambda m: probe(m, clip(1), ["decay"], family="resnet"), "family: 'resnet' is not known"),
    "no models": (lambda m: probe({}, clip(1), ["decay"]), "models: there are none"),
    "layout": (lambda m: probe(own(), ids(1, 9), ["decay"], layout=TEXT), "has 8 tokens .* sees 9"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_probed_is_said_in_one_line(name, model):
    call, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError, IndexError), match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_models_of_a_comparison_have_to_see_the_same_clips(model):
    from analysis.engine import Entry, run

    entries = [
        Entry(name, model, lambda name=name: [Sample(clip(1)[0], name)], 1, {})
        for name in ("first", "second")
    ]
    settings = {"source": "s", "command": "c", "layers": [0], "scopes": ["ssm"], "resamples": 100, "seed": 0}
    with pytest.raises(ValueError, match="clips: the models saw different ones: first and second"):
        run(entries, [Noise()], **settings)


# Interruption.


def runs_of(model):
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    return runs


def test_an_interrupted_probe_resumes_per_clip_and_ends_with_the_same_bits(tmp_path):
    model, control = video_model(depth=2), video_model("attention", depth=1, num_heads=3)
    arguments = {"measures": [Decay(), Noise(), Loudness()], "scopes": ["ssm", "contribution"], **FEW}
    models, clips = {"a": model, "b": control}, clip(3)
    wanted = probe(models, clips, **arguments)
    runs, folder, said = runs_of(model), tmp_path / "kept", []

    def stop(done, total):
        said.append(done)
        if len(said) == 5:  # A clip takes a step for each of two layers, and one for the whole model.
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(models, clips, resume=folder, progress=stop, **arguments)
    assert said == [f"a: {what}" for what in ("layer 0", "layer 1", "loudness", "layer 0", "layer 1")]
    assert len(runs) == 2
    assert len(list(folder.rglob("*.npz"))) == 1
    # What another request left is not used, nor is what is left of this one taken for it.
    other = probe(models, clips, resume=folder, **{**arguments, "scopes": ["ssm"]})
    assert other.data.identical(probe(models, clips, **{**arguments, "scopes": ["ssm"]}).data)
    runs.clear()
    with pytest.raises(KeyboardInterrupt):
        probe(models, clips, resume=folder, progress=lambda *_: stop_after(runs, 3), **arguments)
    runs.clear()
    steps = []
    found = probe(models, clips, resume=folder, progress=lambda done, total: steps.append(total), **arguments)
    assert len(runs) == 1  # Two clips were done.
    assert set(steps) == {len(steps)} == {3 * (3 + 2)}
    assert found.data.identical(wanted.data)
    assert (found.provenance.notes, found.provenance.models) == (
        wanted.provenance.notes,
        wanted.provenance.models,
    )
    assert not folder.exists()


def test_a_measure_edited_since_does_not_resume_and_the_same_layout_function_does(tmp_path, monkeypatch):
    model, clips = own(1), ids(3, 9)
    runs = runs_of(model)

    def run(progress=None, place=0):
        runs.clear()

        def layout(length):  # Another function at each call, and of another text where it sees another place.
            return TokenLayout((place,), 0, (0, 0), length - 1)

        kept = tmp_path / "kept"
        return probe(model, clips, [Noise()], layout=layout, resume=kept, progress=progress, **FEW)

    def interrupted():
        with pytest.raises(KeyboardInterrupt):
            run(lambda *_: stop_after(runs, 2))

    interrupted()
    with monkeypatch.context() as patch:
        patch.setattr(Noise, "per_clip", lambda self, view, rng: {"noise": 0.0})
        assert run().summary("noise")["value"].tolist() == [0, 0]
    assert len(runs) == 3
    interrupted()
    run(place=8)
    assert len(runs) == 3
    interrupted()
    run()
    assert len(runs) == 2  # The first clip was done.


def stop_after(runs, count):
    if len(runs) == count:
        raise KeyboardInterrupt


def test_progress_tells_how_many_steps_there_are(model):
    totals = []
    probe(
        model,
        clip(2),
        [Decay(), Loudness()],
        scopes=["ssm", "mixer"],
        progress=lambda _, n: totals.append(n),
        **FEW,
    )
    assert set(totals) == {len(totals)} == {2 * (2 + 1)}


RECORD = {("decay", (0, "forward", "ssm")): {"distance": np.arange(3.0), "weight": np.ones((2, 2))}}


def unfinished(directory, seed=0):
    made = Unfinished(directory)
    made.begin({"seed": seed})
    return made


def test_what_another_request_kept_is_not_used_and_goes_with_the_first_clip(tmp_path):
    out = tmp_path / "out"
    unfinished(out).put(1, 4, RECORD, {"dtype": "float32"})
    kept, about = unfinished(out).get(1, 4)
    assert kept["decay", (0, "forward", "ssm")]["distance"].tolist() == [0, 1, 2]
    assert about == {"dtype": "float32"}
    assert unfinished(out).get(1, 3) is unfinished(out).get(0, 4) is None
    other = unfinished(out, seed=1)
    assert other.get(1, 4) is None
    other.discard()
    assert unfinished(out).get(1, 4) is not None
    other.put(1, 4, RECORD, {})
    assert len(list(out.iterdir())) == 1
    assert unfinished(out).get(1, 4) is None
    other.discard()
    assert not out.exists()


def test_files_of_others_stay(tmp_path):
    out = tmp_path / "out"
    foreign = [out / "thesis.tex", out / "notes" / "clip-00-00000.npz", out / ("a" * 16) / "thesis.tex"]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("years of work")
    mine = unfinished(out)
    mine.put(0, 0, RECORD, {})
    (folder,) = (path.parent for path in out.rglob("*.npz") if path not in foreign)
    (folder / "thesis.tex").write_text("years of work")
    mine.discard()
    assert len(list(folder.iterdir())) == 2
    (folder / "thesis.tex").unlink()
    mine.discard()
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(foreign)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="file: is a file, where finished clips would be kept"):
        analysis.probe(video_model(depth=1), clip(1), ["decay"], resume=tmp_path / "file")
