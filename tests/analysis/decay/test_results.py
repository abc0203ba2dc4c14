"""Saving, loading, tables, and folders that appear whole or not at all."""

import csv
import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from analysis.decay.result import DecayResult
from analysis.results import (
    Measurement,
    ResultError,
    check_replaceable,
    from_json,
    load,
    replacing,
    save,
    to_json,
    write_csv,
)
from tests.analysis.decay.examples import TEXT, VIDEO, result


def same(a, b) -> bool:
    """Equality of records all the way down, NaN equal to NaN."""
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=True)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("layout", [VIDEO, TEXT], ids=["video", "text"])
def test_a_saved_result_loads_back_exactly(tmp_path, layout):
    original = result(layout)
    save(original, tmp_path / "result.json")
    again = load(DecayResult, tmp_path / "result.json")
    assert same(original, again)
    assert to_json(again) == to_json(original)


def test_json_is_standard_and_spells_out_infinity_and_gaps():
    original = result(VIDEO)
    odd = Measurement(0, "forward", "ssm", "half_life_tokens", "tokens", math.inf, 0.1 + 0.2, math.inf, 2, "")
    changed = DecayResult(**{**vars(original), "measurements": (odd,)})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = json.loads(to_json(changed), parse_constant=refuse)
    assert text["measurements"][0]["value"] == "Infinity"
    assert text["measurements"][0]["low"] == 0.30000000000000004
    assert json.loads(to_json(result(TEXT)))["sums"][0]["frame_profile"] is None
    assert same(from_json(DecayResult, to_json(changed)).measurements, (odd,))


def test_loaded_arrays_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        from_json(DecayResult, to_json(result())).curves[0].value[0] = 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "not a DecayResult"),
        ("{}", "not a DecayResult: provenance: Field required"),
        ('{"kind": 1}', "not a DecayResult"),
    ],
)
def test_files_that_are_no_result_are_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ResultError, match=message) as caught:
        load(DecayResult, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_is_tidy_and_exact(tmp_path):
    made = result(VIDEO)
    write_csv(tmp_path / "decay.csv", made.measurements, made.curves[1:2])
    with (tmp_path / "decay.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == "layer,direction,scope,quantity,unit,value,low,high,n_clips,note"
    first = made.measurements[0]
    assert float(rows[0]["value"]) == first.value
    assert float(rows[0]["high"]) == first.high
    assert rows[0]["unit"] == "tokens"
    curve = made.curves[1]
    assert curve.quantity == "frame_lag_profile"
    assert [row["quantity"] for row in rows[-4:]] == [f"frame_lag_profile[{tau}]" for tau in range(4)]
    assert [float(row["value"]) for row in rows[-4:]] == curve.value.tolist()


def test_csv_leaves_gaps_empty_and_writes_infinity(tmp_path):
    gap = Measurement(0, "forward", "ssm", "half_life_frames", "frames", None, None, None, 1, "one frame")
    far = Measurement(0, "forward", "ssm", "half_life_tokens", "tokens", math.inf, 3.0, math.inf, 2, "beyond")
    write_csv(tmp_path / "t.csv", [gap, far])
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[1] == "0,forward,ssm,half_life_frames,frames,,,,1,one frame"
    assert lines[2] == "0,forward,ssm,half_life_tokens,tokens,inf,3.0,inf,2,beyond"


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
