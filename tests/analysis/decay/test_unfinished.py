"""A probe that was killed goes on with the clips that are left, and ends with the same result."""

import numpy as np
import pytest

from analysis.decay.probe import probe
from analysis.decay.result import ClipSums
from analysis.results import ResultError
from analysis.unfinished import Unfinished

ARGUMENTS = {"layers": [0, 1], "scopes": ["ssm", "contribution"], "draw": [1]}


def same(found, wanted):
    assert len(found.sums) == len(wanted.sums)
    for a, b in zip(found.sums, wanted.sums, strict=True):
        for name in ClipSums.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for a, b in zip(found.heatmaps, wanted.heatmaps, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
    assert (found.layout, found.names, found.labels) == (wanted.layout, wanted.names, wanted.labels)
    assert (found.dtype, found.backend) == (wanted.dtype, wanted.backend)


def unfinished(directory, seed=0):
    made = Unfinished(directory)
    made.begin({"seed": seed})
    return made


def test_a_probe_goes_on_where_it_was_stopped(model, samples, tmp_path):
    wanted = probe(model, samples, **ARGUMENTS)
    runs = []
    count = model.register_forward_hook(lambda *_: runs.append(1))

    def stopped():
        yield samples[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(model, stopped(), unfinished=unfinished(tmp_path / "out"), **ARGUMENTS)
    assert len(runs) == 1
    said = []
    found = probe(
        model,
        samples,
        unfinished=unfinished(tmp_path / "out"),
        progress=said.append,
        **ARGUMENTS,
    )
    assert len(runs) == 2
    assert len(said) == 2 * 2 * 2 * 2
    same(found, wanted)
    again = probe(model, samples, unfinished=unfinished(tmp_path / "out"), **ARGUMENTS)
    assert len(runs) == 2
    same(again, wanted)
    count.remove()


RECORD = {(0, "forward", "ssm"): {"distance": np.arange(3.0), "class_row": None}}


def test_what_another_request_kept_is_not_used_and_goes_with_the_first_clip(tmp_path):
    out = tmp_path / "out"
    unfinished(out).put(4, RECORD, {"dtype": "float32"})
    kept, about = unfinished(out).get(4)
    assert kept[0, "forward", "ssm"]["distance"].tolist() == [0, 1, 2]
    assert kept[0, "forward", "ssm"]["class_row"] is None
    assert about == {"dtype": "float32"}
    assert unfinished(out).get(3) is None
    other = unfinished(out, seed=1)
    assert other.get(4) is None
    other.discard()
    assert unfinished(out).get(4) is not None
    other.put(4, RECORD, {})
    assert len(list(out.iterdir())) == 1
    assert unfinished(out).get(4) is None
    other.discard()
    assert not out.exists()


def test_files_of_others_stay(tmp_path):
    out = tmp_path / "out"
    foreign = [out / "thesis.tex", out / "notes" / "clip-00000.npz", out / ("a" * 16) / "thesis.tex"]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("years of work")
    mine = unfinished(out)
    mine.put(0, RECORD, {})
    mine.discard()
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(foreign)


def test_a_request_folder_that_holds_something_else_stays(tmp_path):
    mine = unfinished(tmp_path / "out")
    mine.put(0, RECORD, {})
    (folder,) = (tmp_path / "out").iterdir()
    (folder / "thesis.tex").write_text("years of work")
    mine.discard()
    assert len(list(folder.iterdir())) == 2


def test_a_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ResultError, match="out: is a file"):
        Unfinished(tmp_path / "out")
