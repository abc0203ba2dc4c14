"""The contract that every measure passes, one of a user's own among them, which touches no existing file."""

import json
from collections import defaultdict
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

import analysis
from analysis import Contradiction, Decay, Relevance, probe
from analysis.cli import main
from analysis.draw import figures_of, write_figures
from analysis.measure import find_measure, measure_names
from analysis.measure import views as views_of
from analysis.tables import tables
from tests.analysis.models import clip, ids, language_model, video_model
from tests.analysis.toy_measure import Toy
from vmp.checkpoint import save_checkpoint

MEASURES = {"decay": Decay(), "contradiction": Contradiction(2), "relevance": Relevance(1), "toy": Toy()}
SHOWN = {
    "video": lambda: (video_model(depth=1), clip(2)),
    "one frame": lambda: (video_model("videomamba", depth=1, num_frames=1), clip(2, frames=1)),
    "text": lambda: (language_model(), ids(2, 12)),
    "attention": lambda: (video_model("attention", num_heads=3, depth=1), clip(2)),
}


@cache
def probed(name, shown):
    """A small result of one measure, and what its `per_clip` and `summarise` were given and gave."""
    measure, calls = MEASURES[name], defaultdict(list)
    with pytest.MonkeyPatch.context() as patch:
        for method in ("per_clip", "summarise"):
            real = getattr(type(measure), method)

            def spy(self, given, other, real=real, method=method):
                found = real(self, given, other)
                calls[method].append((given, found))
                return found

            patch.setattr(type(measure), method, spy)
        result = probe(*SHOWN[shown](), [measure], layers=[0], resamples=100)
    return result, calls


@pytest.fixture(params=MEASURES)
def name(request):
    return request.param


@pytest.fixture(params=SHOWN)
def shown(request):
    return request.param


def test_a_measure_names_itself_and_its_quantities(name):
    measure = MEASURES[name]
    assert measure.name == name
    assert measure.title[0].isupper()
    assert measure.level in ("matrix", "model")
    for quantity in measure.quantities.values():
        assert quantity.unit
        assert quantity.label
        assert quantity.needs in ("", "frames", "patches", "class")
    assert {column.quantity for column in measure.table} <= set(measure.quantities)
    assert set(measure.summed) <= {n for n, quantity in measure.quantities.items() if quantity.dims}
    assert not set(measure.kept) & {n for n, quantity in measure.quantities.items() if quantity.dims}
    # Settings and name fix what it does.
    assert type(measure)(**json.loads(json.dumps(measure.settings))) == measure
    assert type(measure)() == type(measure)(**type(measure)().settings)


def test_shapes_agree_with_the_axes_that_are_stated(name, shown):
    measure, (result, calls) = MEASURES[name], probed(name, shown)
    dims = {n: quantity.dims for n, quantity in measure.quantities.items()} | dict(measure.kept)
    for _, found in calls["per_clip"]:
        assert found.keys() <= dims.keys()
        for n, value in found.items():
            assert value is None or np.ndim(value) == len(dims[n]), n
    for quantity in result.quantities:
        place = ("model", measure.quantities[quantity].layer_dim, "direction", "scope")
        own = measure.quantities[quantity].dims
        # One that is nowhere has no axes of its own.
        assert result.data[quantity].dims[len(place) if measure.level == "matrix" else 1 :] in (own, ())


def test_equal_weights_are_the_plain_mean(name, shown):
    measure, (_, calls) = MEASURES[name], probed(name, shown)
    for clips, _ in calls["summarise"][::2]:
        n = clips.sizes.get("clip", 2)
        plain, equal = measure.summarise(clips, None), measure.summarise(clips, np.full((3, n), 1 / n))
        assert plain.keys() == equal.keys()
        for quantity, values in plain.items():
            draws = len(values) if quantity in measure.summed else 3
            assert (len(values), len(equal[quantity])) == (1, draws)
            np.testing.assert_allclose(
                equal[quantity][-1], values[0], rtol=1e-12, atol=1e-12, err_msg=quantity
            )


def test_the_same_generator_gives_the_same_bits(name):
    _, calls = probed(name, "video")
    measure, (view, found) = MEASURES[name], calls["per_clip"][0]
    of_matrix = measure.level == "matrix"
    seed = [0, 0, 0] if of_matrix else [0, 0]
    with torch.inference_mode(of_matrix):
        if of_matrix:  # A view of another site, so that nothing is kept of the first.
            view = next(views_of(replace(view.site), measure))
        again = measure.per_clip(view, np.random.default_rng(seed))
    assert again.keys() == found.keys()
    for n, value in found.items():
        np.testing.assert_array_equal(np.asarray(again[n]), np.asarray(value), err_msg=n)


def test_every_gap_of_a_probe_says_why(name, shown):
    table = probed(name, shown)[0].summary()
    assert set(table["quantity"]) == {
        n for n, quantity in MEASURES[name].quantities.items() if quantity.is_number
    }
    gaps = table[table["value"].isna()]
    assert (gaps["note"] != "").all(), gaps[gaps["note"] == ""]
    unsure = table[table["low"].isna() & table["value"].notna()]
    assert (unsure["note"] != "").all(), unsure[unsure["note"] == ""]


def test_tables_figures_and_plots_show_it(name, shown, tmp_path):
    measure, (result, _) = MEASURES[name], probed(name, shown)
    console = Console(width=100, record=True, file=(tmp_path / "text").open("w"))
    for table in tables(result):
        console.print(table)
    assert "nan" not in console.export_text()
    assert "<table>" in result._repr_html_() or measure.level == "model"
    figures = figures_of(measure, result, result.model)
    assert all(
        path.stat().st_size > 1000 for path in write_figures(dict(list(figures.items())[:1]), tmp_path)
    )
    for plot in measure.plots:
        axes = result.plot(plot, Figure().subplots())
        assert isinstance(axes, Axes)
        assert axes.has_data() or axes.texts or axes.get_legend(), plot


# One of a user's own.


@pytest.fixture
def installed(monkeypatch):
    """The toy as a package offers it: an entry point, and nothing else."""
    offered = EntryPoints([EntryPoint("toy", "tests.analysis.toy_measure:Toy", "analysis.measures")])
    monkeypatch.setattr("analysis.measure.entry_points", lambda **asked: offered.select(**asked))


def test_a_toy_goes_all_the_way(installed, tmp_path, capsys):
    assert (measure_names()[-1], find_measure("toy")) == ("toy", Toy)
    model, clips = video_model("videomamba", depth=2), clip(3)
    result = probe(model, clips, ["toy", Decay()], scopes=["ssm", "contribution"], resamples=100)
    matrix = torch.zeros(13, 13, dtype=torch.float64)
    with torch.no_grad(), analysis.record(model) as captures:
        model(clips[:1])
    for i in range(13):
        matrix[i] = captures[1, "backward"].operator().row(i)[0].abs().mean(0)
    expected = (matrix / matrix.sum(1, keepdim=True)).diagonal()
    of_clip = result.data["toy.kept_by_token"].sel(layer=1, direction="backward", scope="ssm", clip="clip 0")
    assert of_clip.values.ravel() == pytest.approx(expected.numpy())
    number = result.number("kept_share", 1, "backward", "ssm")
    assert number.low <= number.value <= number.high
    assert len(result.summary("kept_share")) == 2 * 2 * 2
    curve = result.summary("kept_by_token", layer=0, direction="forward", scope="ssm")
    assert curve["at"].tolist() == [str(token) for token in range(13)]
    assert result.plot("kept_share", Figure().subplots()).get_ylabel() == "share of the diagonal (fraction)"
    again = analysis.load(result.save(tmp_path / "kept"))
    assert again.data.identical(result.data)
    assert list(again.measures) == ["toy", "decay"]
    assert "What a token keeps to itself, scope contribution" in again._repr_html_()
    names = figures_of(Toy(), again, again.model)
    assert list(names) == ["kept_share_ssm", "kept_share_contribution"]
    save_checkpoint(video_model(depth=1).float(), tmp_path / "small.safetensors")
    command = ["probe", "--ckpt", str(tmp_path / "small.safetensors"), "--clips", "2", "--bootstrap", "100"]
    assert main([*command, "--measure", "toy", "--out", str(tmp_path / "out")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "What a token keeps to itself, scope ssm" in shown
    assert "share of the diagonal (fraction)" in shown
    assert (tmp_path / "out" / "figures" / "kept_share_ssm.png").exists()
    assert analysis.load(tmp_path / "out").quantities == ("kept_share", "kept_by_token")
    assert main([*command, "--measure", "speed"]) == 2
    assert "'speed': there are decay, contradiction, relevance, toy\n" in capsys.readouterr().err


def test_a_measure_that_is_not_installed_has_to_be_given(tmp_path):
    folder = probe(video_model(depth=1), clip(2), [Toy(2.0)], resamples=100).save(tmp_path / "kept")
    assert analysis.load(folder).measures == {}
    assert analysis.load(folder).number("kept_share", 0, "forward", "ssm").value > 0
    assert analysis.load(folder, [Toy(2.0)]).measures == {"toy": Toy(2.0)}
