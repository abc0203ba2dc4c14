"""How the GPU's steps `reduce` and `probes` judge what they find; test_gpu_steps.py runs them."""

import math

import numpy as np
import pytest
import torch

from analysis.precision import full_precision
from experiments.bench.gpu import matrices, probes


def test_what_is_wrong_is_not_timed(monkeypatch):
    monkeypatch.setattr(matrices, "_gate", lambda *_: "FAILED: all of it")
    rows = []
    matrices.reduce_step(matrices.TOY, "cpu", rows.append)
    assert {row.group for row in rows} == {"reduce frames=2", "32 layers", "one layer"}
    assert all(row.problem and not row.samples for row in rows)


def test_numbers_are_compared_by_quantity_and_scope():
    result = {
        "provenance": {"seed": 1},
        "summary": [
            {
                "scope": "ssm",
                "quantity": "rate",
                "layer": 0,
                "value": 2.0,
                "low": None,
                "high": 3,
                "note": "of 3",
            },
            {"scope": "ssm", "quantity": "rate", "layer": 1, "value": "Infinity", "low": 1.0, "high": None},
        ],
        "curves": [
            {"scope": "mixer", "quantity": "lag_profile", "at": "1", "value": 1.0, "low": None, "high": None}
        ],
    }
    found = probes.numbers(result)
    assert found.count == 9
    np.testing.assert_array_equal(found.by_name["rate", "ssm"], [2.0, math.nan, 3.0, math.inf, 1.0, math.nan])

    def apart(name, values):
        other = probes.Numbers({**found.by_name, name: np.array(values)})
        (check,) = probes.compare("decay", "model", other, found, found)
        return check

    assert apart(("rate", "ssm"), [2.0, math.nan, 3.0, math.inf, 1.0, math.nan]).passed
    wrong = apart(("rate", "ssm"), [2.0, math.nan, 3.0003, math.inf, 1.0, math.nan])
    assert not wrong.passed
    assert wrong.tensor == "rate, ssm"
    assert wrong.deviation == pytest.approx(1e-4 / probes.EPS, rel=1e-6)
    assert not apart(("rate", "ssm"), [2.0, math.nan, 3.0, 9.0, 1.0, math.nan]).passed
    assert not apart(("lag_profile", "mixer"), [1.0]).passed


def test_full_precision_is_for_the_block_alone():
    @full_precision()
    def inside():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    assert before[0]
    assert inside() == (False, False)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
