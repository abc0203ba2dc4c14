"""Rows as they are packed for the viewer, and figures as they stand in a page."""

import base64
import itertools
import json
import re
import xml.etree.ElementTree as ET
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from experiments.report.page import inline_svg
from experiments.report.probed import missing_quantities, page_rows
from experiments.report.saved import read_grid
from experiments.report.viewer import DECADES, pack, pack_rows


def unpacked(packed, length):
    """Weights of a packed matrix, decoded as the page's script says, one byte after the other."""
    levels, peaks = base64.b64decode(packed["weights"]), base64.b64decode(packed["peaks"])
    weights, at = np.zeros((length, length)), 0
    for i, j in itertools.product(range(length), repeat=2):
        if (packed["keys"] == "lower" and j > i) or (packed["keys"] == "upper" and j < i):
            continue
        peak = int.from_bytes(peaks[2 * i : 2 * i + 2], "little") / 65535
        weights[i, j] = peak * 10 ** (-DECADES * (255 - levels[at]) / 254) if levels[at] else 0
        at += 1
    assert at == len(levels)
    return weights


@pytest.mark.parametrize("keys", ["all", "lower", "upper"])
def test_packed_weights_are_close_and_sums_are_closer(keys):
    rng = np.random.default_rng(0)
    length, frames, patches = 13, 3, 4
    P = rng.gamma(0.3, size=(length, length))
    P = {"all": P, "lower": np.tril(P), "upper": np.triu(P)}[keys]
    P[5] = 0  # A row without weight, as the first of a masked scan.
    P = np.divide(
        P, P.sum(axis=1, keepdims=True), out=np.zeros_like(P), where=P.sum(axis=1, keepdims=True) > 0
    )
    packed = pack_rows(P, {"class_positions": np.array([4]), "grid": np.array([frames, 2, 2])})
    assert packed["keys"] == keys
    found = unpacked(packed, length)
    large = np.max(P, axis=1, keepdims=True) * 10.0**-DECADES * 1.1 < P
    assert large.sum() > length
    assert np.abs(found[large] / P[large] - 1).max() < 0.02
    assert (found[P == 0] == 0).all()
    shares = np.frombuffer(base64.b64decode(packed["shares"]), "<u2").reshape(length, frames + 1) / 65535
    tokens = [k for k in range(length) if k != 4]
    for t in range(frames):
        of_frame = P[:, tokens[t * patches : (t + 1) * patches]].sum(axis=1)
        assert np.abs(shares[:, t] - of_frame).max() < 1 / 65535
    assert np.abs(shares[:, frames] - P[:, 4]).max() < 1 / 65535


def test_what_does_not_fit_in_the_page_is_left_out_and_counted(report):
    grid = read_grid(report.with_name("grid"))
    whole = pack(grid)
    assert whole.shown == whole.saved == 3 * 2 * 2  # Models of the first seed, clips, layers.
    part = pack(grid, budget=len(json.dumps(whole.data)) // 3)
    assert 3 <= part.shown < part.saved == whole.saved
    assert len(part.data["models"]) == 3
    # Each model keeps its first clip and last layer.
    assert all(model["clips"][0]["layers"].keys() >= {"1"} for model in part.data["models"])
    assert pack(grid, budget=0).data["models"] == []


def test_what_no_model_has_a_number_of_is_said_with_its_reason():
    rows = [
        ("a", "ssm", "mediator_sensitivity", None, "5 tokens: a triple takes 9"),
        ("b", "ssm", "mediator_sensitivity", None, "5 tokens: a triple takes 9"),
        ("b", "contribution", "mediator_sensitivity", 1.0, ""),
        ("a", "ssm", "block_rank", None, "the block is 0 in a clip"),
        ("b", "ssm", "block_rank", 2.0, ""),
    ]
    probes = pd.DataFrame(rows, columns=["cell", "scope", "quantity", "value", "note"])
    asked = {"mediator_sensitivity": "ssm", "block_rank": "ssm"}
    assert missing_quantities(probes, asked) == (
        "Not measured: mediator sensitivity (nats), 5 tokens: a triple takes 9.",
    )
    assert missing_quantities(probes, {"mediator_sensitivity": "contribution", "block_rank": "ssm"}) == ()


def test_figures_that_stand_in_one_page_share_no_id():
    figures = []
    for k in range(2):
        figure = Figure()
        ax = figure.subplots()
        ax.plot([1, 2], [k, 3], "o", label="text 1")
        ax.legend()
        text = StringIO()
        figure.savefig(text, format="svg")
        figures.append(inline_svg(text.getvalue(), f"f{k}", f"alt <{k}> & more"))
    roots = [ET.fromstring(figure) for figure in figures]
    ids = [{element.get("id") for element in root.iter() if element.get("id")} for root in roots]
    assert ids[0]
    assert not ids[0] & ids[1]
    for k, root in enumerate(roots):
        assert root.get("role") == "img"
        title = next(element for element in root.iter() if element.get("id") == root.get("aria-labelledby"))
        assert title.text == f"alt <{k}> & more"
        referred = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', figures[k]))
        assert referred
        assert {one or other for one, other in referred} <= ids[k]


def test_numbers_of_whole_rows_stand_in_where_self_attention_has_no_sides():
    rows = pd.DataFrame(
        [
            ("attention", "contradictory_mass", "both", 2.0),
            ("attention", "contradictory_mass", "mean", 2.0),
            ("mask", "contradictory_mass", "forward", 1.0),
            ("mask", "contradictory_mass", "mean", 1.0),
        ],
        columns=["variant", "quantity", "direction", "mean"],
    ).assign(scope="contribution", trained=True)
    by_side = page_rows(rows, "contradiction", ("forward", "backward"))
    assert by_side[["variant", "direction"]].to_numpy().tolist() == [
        ["attention", "both"],
        ["mask", "forward"],
    ]
    assert page_rows(rows, "contradiction", ("mean",))["direction"].tolist() == ["mean", "mean"]
