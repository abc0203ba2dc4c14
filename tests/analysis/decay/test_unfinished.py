"""A probe that was killed goes on with the clips that are left, and ends with the same result."""

import numpy as np
import pytest

from analysis.decay.probe import probe
from analysis.decay.result import ClipSums
from analysis.decay.unfinished import Unfinished
from tests.analysis.decay.test_probe import model, samples  # noqa: F401  # fixtures

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


def test_a_probe_goes_on_where_it_was_stopped(model, samples, tmp_path):  # noqa: F811
    wanted = probe(model, samples, **ARGUMENTS)
    runs = []
    count = model.register_forward_hook(lambda *_: runs.append(1))

    def stopped():
        yield samples[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(model, stopped(), unfinished=Unfinished(tmp_path / "out", {"seed": 0}), **ARGUMENTS)
    assert len(runs) == 1
    said = []
    found = probe(
        model,
        samples,
        unfinished=Unfinished(tmp_path / "out", {"seed": 0}),
        progress=said.append,
        **ARGUMENTS,
    )
    assert len(runs) == 2
    assert len(said) == 2 * 2 * 2 * 2
    same(found, wanted)
    again = probe(model, samples, unfinished=Unfinished(tmp_path / "out", {"seed": 0}), **ARGUMENTS)
    assert len(runs) == 2
    same(again, wanted)
    count.remove()


def test_what_another_request_kept_is_not_used(tmp_path):
    record = {(0, "forward", "ssm"): {"distance": np.arange(3.0), "class_row": None}}
    Unfinished(tmp_path / "out", {"seed": 0}).put(4, record, {"dtype": "float32"})
    kept, about = Unfinished(tmp_path / "out", {"seed": 0}).get(4)
    assert kept[0, "forward", "ssm"]["distance"].tolist() == [0, 1, 2]
    assert kept[0, "forward", "ssm"]["class_row"] is None
    assert about == {"dtype": "float32"}
    assert Unfinished(tmp_path / "out", {"seed": 0}).get(3) is None
    assert Unfinished(tmp_path / "out", {"seed": 1}).get(4) is None
    assert not (tmp_path / "out").exists()
