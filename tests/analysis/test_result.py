"""The result: its dataset, summary, numbers and plots; saving, loading, and folders that appear whole or not at all."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

import analysis
from analysis.files import ResultError, check_replaceable, replacing
from analysis.result import COLUMNS, FORMAT, WRITTEN, Result
from tests.analysis.decay import examples
from tests.analysis.decay.examples import TEXT, VIDEO
from tests.analysis.models import clip, video_model


@cache
def made(layout=VIDEO):
    """Decay in closed form: two layers, two directions and three clips."""
    return examples.result(layout)


@cache
def compared():
    models = {"scan": video_model(depth=2), "attention": video_model("attention", num_heads=3, depth=1)}
    return analysis.probe(models, clip(2), ["decay"], scopes=["ssm", "mixer"], resamples=100)


def test_the_dataset_names_axes_units_and_the_reason_of_each_gap():
    data = compared().data
    half = data["half_life_tokens"]
    assert half.dims == ("model", "layer", "direction", "scope")
    assert data["lag_profile"].dims == (*half.dims, "lag")
    assert data["frame_matrix"].dims == (*half.dims, "query_frame", "key_frame")
    assert data["weight_matrix"].dims == ("model", "drawn_layer", *half.dims[2:], "query_cell", "key_cell")
    assert data["decay.distance"].dims == (*half.dims, "clip", "distance_unit")
    coords = {name: data[name].values.tolist() for name in ("model", "layer", "direction", "scope", "clip")}
    assert coords == {
        "model": ["scan", "attention"],
        "layer": [0, 1],
        "direction": ["forward", "backward", "both", "both j<=i", "both j>=i"],
        "scope": ["ssm", "mixer"],
        "clip": ["clip 0", "clip 1"],
    }
    assert data["distance_unit"].values.tolist() == ["tokens", "frames", "patches"]
    assert {"units": "tokens", "long_name": "half-life", "measure": "decay"}.items() <= half.attrs.items()
    assert "95 % interval" in data["half_life_tokens_low"].attrs["long_name"]
    notes = json.loads(data["predicted_half_life_tokens"].attrs["notes"])
    places = notes["self-attention has no step to predict a half-life from"]
    assert ["attention", "0", "both", "mixer"] in places
    assert len(places) == 3 * 2
    quantities = {name for name, v in data.data_vars.items() if v.attrs.get("role") == "value"}
    assert quantities == set(compared().quantities) == set(analysis.Decay.quantities)
    assert all({"units", "long_name"} <= data[name].attrs.keys() for name in quantities)


def test_summary_is_tidy_and_says_every_number_once():
    table = compared().summary()
    assert tuple(table.columns) == COLUMNS
    numbers = [name for name, quantity in analysis.Decay.quantities.items() if quantity.is_number]
    assert len(table) == len(numbers) * 2 * (2 * 2 + 3)
    assert not table.duplicated(["model", "layer", "direction", "scope", "quantity"]).any()
    assert set(table["n_clips"]) == {2}
    gaps = table[table["value"].isna()]
    assert len(gaps)
    assert (gaps["note"] != "").all()
    row = table[
        (table.quantity == "half_life_tokens") & (table.direction == "both") & (table.scope == "mixer")
    ]
    number = compared().number("half_life_tokens", 0, "both", "mixer", "attention")
    found = row.iloc[0]
    assert (found.value, found.low, found.high, found.unit, found.note) == (
        number.value, number.low, number.high, "tokens", number.note)  # fmt: skip


def test_summary_filters_and_lists_curves():
    result = compared()
    some = result.summary(["half_life_tokens", "decay_index_tokens"], scope="mixer", model="scan", layer=1)
    assert len(some) == 2 * 2
    assert set(some["layer"]) == {1}
    assert len(result.summary(measure="decay")) == len(result.summary())
    for wrong in ({"measure": "contradiction"}, {"direction": "sideways"}, {"layer": 7}):
        with pytest.raises(KeyError, match="there are"):
            result.summary(**wrong)
    curve = result.curve("lag_profile", 1, "backward", "ssm", "scan")
    for asked in (
        result.summary("lag_profile"),
        result.summary(curves=True).query("quantity == 'lag_profile'"),
    ):
        one = asked.query("model == 'scan' and layer == 1 and direction == 'backward' and scope == 'ssm'")
        assert one["at"].tolist() == [str(lag) for lag in range(13)]
        np.testing.assert_array_equal(one["value"], curve.value)
        np.testing.assert_array_equal(one["low"], curve.low)
        assert set(one["unit"]) == {"scan output per unit of scan input"}
    matrix = result.summary("frame_matrix", model="scan", layer=0, direction="forward", scope="ssm")
    assert matrix["at"].tolist()[:4] == ["0, 0", "0, 1", "0, 2", "1, 0"]
    assert "weight_matrix" not in set(
        result.summary(curves=True)["quantity"]
    )  # It may have a million entries.
    assert len(result.summary("weight_matrix", model="attention", direction="both", scope="ssm")) == 13 * 13
    with pytest.raises(KeyError, match="no quantity 'speed'; there are half_life_tokens, "):
        result.summary("speed")
    with pytest.raises(KeyError, match="no column 'side'; there are model, measure, layer"):
        result.summary(side="forward")


def test_numbers_and_curves_are_found_by_their_place_or_say_what_there_is():
    result = made()
    number = result.number("effective_context_tokens", 1, "backward", "ssm")
    rates = 0.15 * np.array([1, 1.1, 1.2]) * 2
    assert number.value == pytest.approx(np.mean(3 / rates))
    assert number.low < number.value < number.high
    assert (number.unit, number.note) == ("tokens", "")
    curve = result.curve("lag_profile", 0, "forward", "ssm")
    expected = np.exp(-0.1 * np.array([[1], [1.1], [1.2]]) * np.arange(37)).mean(0)
    assert curve.value == pytest.approx(expected)
    assert (curve.low <= curve.value).all()
    assert result.note("half_life_frames", 0, "forward", "ssm") == ""
    assert made(TEXT).note("half_life_frames", 0, "forward", "ssm") == "a plain sequence has no frames"
    assert made(TEXT).curve("frame_matrix", 0, "forward", "ssm") is None
    for place, message in {
        ("speed", 0, "forward", "ssm"): "no quantity 'speed'; there are half_life_tokens",
        ("half_life_tokens", 7, "forward", "ssm"): "half_life_tokens: no layer 7; there are 0, 1",
        (
            "half_life_tokens",
            0,
            "both",
            "ssm",
        ): "half_life_tokens: no direction 'both'; there are forward, backward",
        ("half_life_tokens", 0, "forward", "mixer"): "half_life_tokens: no scope 'mixer'; there are ssm",
        (
            "half_life_tokens",
            0,
            "forward",
            "ssm",
            "other",
        ): "half_life_tokens: no model 'other'; there are Own",
        (
            "lag_profile",
            0,
            "forward",
            "ssm",
        ): "lag_profile: name a place along lag, or take the array that curve",
    }.items():
        with pytest.raises(KeyError, match=message):
            result.number(*place)
    with pytest.raises(
        KeyError, match="class_self: has no axis 'lag'; it has model, layer, direction, scope"
    ):
        result.number("class_self", 0, "forward", "ssm", lag=1)


def test_a_place_that_only_another_model_has_is_a_gap_that_says_so():
    gap = compared().number("half_life_tokens", 1, "forward", "ssm", "attention")
    assert np.isnan([gap.value, gap.low, gap.high]).all()
    assert gap.note == "attention has no such number in layer 1 forward, scope ssm"


@pytest.mark.parametrize("result", [made, lambda: made(TEXT), compared], ids=["video", "text", "comparison"])
def test_a_saved_result_loads_back_exactly(tmp_path, result):
    original = result()
    assert original.save(tmp_path / "deep" / "out") == tmp_path / "deep" / "out"
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == sorted(WRITTEN)
    # A measure with settings that the installed one of its name lacks has to be given.
    given = [None] if result is compared else [list(original.measures.values())]
    for again in (
        Result.load(tmp_path / "deep" / "out", *given),
        analysis.load(str(tmp_path / "deep" / "out")),
    ):
        assert again.data.identical(original.data)
        assert again.quantities == original.quantities
        assert again.provenance == original.provenance
        assert again.summary().equals(original.summary())
        assert again.to_json() == original.to_json()
    assert list(again.measures) == (["decay"] if result is compared else [])
    again = Result.load(tmp_path / "deep" / "out", *given)
    assert again.plot("lag_profile", Figure().subplots(), scope="ssm").lines


@dataclass(frozen=True)
class Odd(analysis.Measure):
    """An axis without entries, a name outside ASCII, and a listed number beside a table of its own."""

    name = "odd"
    title = "Odd"
    quantities: ClassVar = {
        "α": analysis.Quantity("none", "a share"),
        "by_part": analysis.Quantity("none", "by part", dims=("part",), listed=True),
        "nothing": analysis.Quantity("none", "nothing", dims=("none_of_it",)),
    }
    coordinates: ClassVar = {"part": ("größe", "rest")}
    table = (analysis.Column("α", "share"),)

    def per_clip(self, view, rng):
        return {"α": 0.5, "by_part": [1.0, np.nan], "nothing": []}


def test_axes_without_entries_and_names_outside_ascii_are_kept_and_listed_numbers_shown(tmp_path):
    result = analysis.probe(video_model(depth=1), clip(1), Odd())
    result.save(tmp_path / "out")
    again = Result.load(tmp_path / "out", [Odd()])
    assert again.data.identical(result.data)
    assert again.quantities == ("α", "by_part", "nothing")
    shown = again._repr_html_()
    assert "Odd, entry by entry" in shown
    assert "größe" in shown
    assert "Gap: by part: undefined" in shown


def test_what_is_saved_is_read_by_others_too(tmp_path):
    result = made()
    result.save(tmp_path / "out")
    with xr.open_dataset(tmp_path / "out" / "data.nc", engine="netcdf4") as data:
        assert data["half_life_tokens"].attrs["units"] == "tokens"
    for name, curves in (("summary", False), ("curves", True)):
        table = result.summary(curves=curves)
        parquet = pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        pd.testing.assert_frame_equal(parquet, table, check_dtype=False)
        numbers = dict.fromkeys(("value", "low", "high"), "")
        file = tmp_path / "out" / f"{name}.csv"
        text = pd.read_csv(file, dtype={"at": str}, keep_default_na=False, na_values=numbers)
        for column in numbers:
            np.testing.assert_array_equal(text[column], table[column])
        assert text["note"].tolist() == table["note"].tolist()
    about = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert about["format"] == FORMAT
    assert about["provenance"]["measures"]["decay"]["draw"] is None


def test_json_is_standard_and_spells_out_infinity_and_gaps():
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    result = examples.known(VIDEO, [0.001, 0.001, 0.4], change={"class_self": np.nan})
    parsed = json.loads(result.to_json(), parse_constant=refuse)
    rows = {row["quantity"]: row for row in parsed["summary"] if row["direction"] == "forward"}
    assert (rows["half_life_tokens"]["value"], rows["half_life_tokens"]["high"]) == ("Infinity", "Infinity")
    low = result.number("half_life_tokens", 0, "forward", "ssm").low
    assert rows["half_life_tokens"]["low"] == low
    assert (rows["class_self"]["value"], rows["class_self"]["low"]) == (None, None)
    assert len(parsed["curves"]) == len(result.summary(curves=True))
    assert parsed["provenance"]["seed"] == 0


def test_a_notebook_shows_tables_and_no_tensors():
    shown = compared()._repr_html_()
    assert shown.count("<table>") == shown.count("</table>") == 4  # Two models, two scopes.
    for part in ("Historical decay of scan, scope ssm", "half-life", "both j&lt;=i", "2 clips, seed 0"):
        assert part in shown
    assert "Gap: attention: predicted half-life" in shown
    without = Result(made().data, made().provenance, [])._repr_html_()
    assert "decay, whose measure is not installed" in without
    assert "half_life_tokens" in without
    assert len(shown) < 20000
    assert not any(word in shown for word in ("tensor(", "array(", "xarray", "nan"))
    assert repr(made()) == "Result(decay of Own: 2 layers, 3 clips, scopes ssm)"


def test_plots_are_found_by_name_or_listed():
    ax = compared().plot("decay_index_tokens", Figure().subplots(), scope="mixer")
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == [
        "scan, forward",
        "scan, backward",
        *(f"attention, both{side}" for side in ("", " j<=i", " j>=i")),
    ]
    assert ax.get_xticks().tolist() == [0, 1]
    one = compared().plot("mean_distance_tokens", Figure().subplots(), direction="backward")
    assert one.get_title("left") == "backward, scope ssm"
    assert [text.get_text() for text in one.get_legend().get_texts()] == ["scan"]
    with pytest.raises(
        KeyError, match="'decay_index_tokens' takes no 'layer'; it takes scope, ax, model, direction"
    ):
        compared().plot("decay_index_tokens", Figure().subplots(), layer=1)
    with pytest.raises(
        ValueError, match="no direction 'time' in any model; there are forward, backward, both"
    ):
        compared().plot("mean_distance_tokens", Figure().subplots(), direction="time")
    for model in ("scan", "attention"):
        ax = compared().plot("lag_profile", Figure().subplots(), model=model)
        assert ax.get_title("left") == f"{model}, layer 0, scope ssm"
    assert (
        compared().plot("frame_matrix", Figure().subplots()).get_title("left").startswith("scan, layer 0, ")
    )
    undrawn = analysis.probe(video_model(depth=1), clip(1), analysis.Decay(draw=()))
    with pytest.raises(KeyError, match=r"weight_matrix: no layer was drawn; Decay\(draw=\(layer, \.\.\.\)\)"):
        undrawn.plot("weight_matrix", Figure().subplots())
    for name in ("speed", "frame_pairs", "half_life"):
        with pytest.raises(KeyError, match=f"no plot '{name}'; there are lag_profile, .*half_life_tokens"):
            made().plot(name)


# Folders.


OLD = {
    "result.json": (
        '{"provenance": {"toolkit": "0.0.9"}}',
        r"result.json: was written by toolkit 0\.0\.9, when",
    ),
    "provenance.json": ('{"format": 1}', "provenance.json: of format 1; this toolkit reads 3; probe again"),
    "data.nc": ("", r"holds no result \(no provenance.json\)"),
}


@pytest.mark.parametrize("name", OLD)
def test_what_another_version_wrote_says_so(name, tmp_path):
    content, message = OLD[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(ResultError, match=message):
        Result.load(tmp_path)
    with pytest.raises(ResultError, match="holds no result"):
        Result.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("provenance.json", "{", "provenance.json: cannot be read"),
        ("provenance.json", "[]", "provenance.json: of format None"),
        ("provenance.json", f'{{"format": {FORMAT}}}', "provenance.json: cannot be read: 'provenance'"),
        (
            "provenance.json",
            f'{{"format": {FORMAT}, "provenance": {{}}}}',
            "provenance.json: toolkit: Field required",
        ),
        ("data.nc", "no data", "data.nc: cannot be read"),
        ("data.nc", None, "data.nc: cannot be read"),
        ("data.nc", "CDF\x01", "data.nc: cannot be read"),
    ],
)
def test_files_that_are_no_result_are_named_in_one_line(tmp_path, name, content, message):
    made(TEXT).save(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    if content is not None:
        (tmp_path / "out" / name).write_text(content)
    with pytest.raises(ResultError, match=message) as caught:
        Result.load(tmp_path / "out")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_save_that_fails_leaves_the_earlier_result(tmp_path, monkeypatch):
    made(TEXT).save(tmp_path / "out")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", full)
        with pytest.raises(OSError, match="No space left"):
            made().save(tmp_path / "out")
    assert Result.load(tmp_path / "out").data.identical(made(TEXT).data)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ResultError, match=r"holds 'thesis\.tex', which no earlier run wrote"):
        made().save(tmp_path / "out")


def test_a_folder_with_a_summary_of_someone_else_is_not_replaced(tmp_path):
    (tmp_path / "summary.csv").write_text("years of work")
    with pytest.raises(ResultError, match=r"holds 'summary\.csv', which no earlier run wrote"):
        made().save(tmp_path)
    assert (tmp_path / "summary.csv").read_text() == "years of work"


def test_a_folder_appears_whole_and_replaces_only_its_own_kind(tmp_path):
    target = tmp_path / "deep" / "out"
    for turn in ("first", "second"):
        with replacing(target, {"a.txt", "sub"}) as new:
            (new / "a.txt").write_text(turn)
            (new / "sub").mkdir()
            assert not target.exists() or (target / "a.txt").read_text() == "first"
        assert (target / "a.txt").read_text() == turn
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def write_half(target, error):
    with replacing(target, {"a.txt"}) as new:
        (new / "a.txt").write_text("half")
        raise error


def test_a_failure_leaves_nothing_behind_and_the_earlier_folder_as_it_was(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(RuntimeError):
        write_half(target, RuntimeError())
    assert list(tmp_path.iterdir()) == []
    with replacing(target, {"a.txt"}) as new:
        (new / "a.txt").write_text("whole")
    with pytest.raises(KeyboardInterrupt):
        write_half(target, KeyboardInterrupt())
    assert (target / "a.txt").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_of_others_and_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ResultError, match=r"holds 'thesis.tex', which no earlier run wrote"):
        check_replaceable(tmp_path, {"a.txt"})
    with pytest.raises(ResultError, match="is a file"):
        check_replaceable(tmp_path / "thesis.tex", {"a.txt"})
    with pytest.raises(ResultError, match="not a folder that can be written to"):
        check_replaceable(tmp_path / "thesis.tex" / "out", {"a.txt"})


def test_folders_that_cannot_be_replaced_are_refused(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name, message in {
        ".": "is the current folder",
        "": "is the current folder",
        "../link": "is a link to nothing",
        "x" * 300: "cannot be written to: File name too long",
        "x" * 245: "cannot be written to: File name too long",
        "x" * 300 + "/out": "cannot be written to: File name too long",
        "/proc/foo": "/proc",
    }.items():
        with pytest.raises(ResultError, match=message) as caught:
            check_replaceable(Path(name), {"a.txt"})
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "link"]


def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replacing(tmp_path / "link", {"a.txt"}) as new:
        (new / "a.txt").write_text("whole")
    assert (tmp_path / "real" / "a.txt").read_text() == "whole"
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
