"""Figures show the saved numbers, and say of what."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from analysis.contradiction import plots
from analysis.contradiction.run import Asked, run
from analysis.request import Request
from tests.analysis.models import TINY
from vmp import create_model
from vmp.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ckpt") / "my_run.safetensors"
    save_checkpoint(create_model("vmp_micro", variant="videomamba", num_classes=3, **TINY), path)
    request = Request(path, clips=2, bootstrap=100, scopes=("all",))
    return run(request, Asked(mediators=3), "test", with_example=False)[0]


@pytest.fixture
def ax():
    return Figure().subplots()


TITLES = {
    ("mediator_sensitivity", "ssm"): "over channels or heads, and triples",
    ("transitivity_unmasked", "mixer"): "over channels or outputs, and triples",
    ("block_rank", "ssm"): "over channels or heads",
    ("mediator_sensitivity", "contribution"): "over triples",
    ("block_rank", "contribution"): "one matrix a clip",
    ("contradictory_mass", "contribution"): "over rows",
}


@pytest.mark.parametrize(("measure", "scope"), TITLES)
def test_a_distribution_says_over_what_and_its_marks_are_the_medians(made, measure, scope, ax):
    plots.plot_distribution(made, measure, scope, ax)
    assert ax.get_title("left") == TITLES[measure, scope]
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}
    assert set(drawn) == {"forward", "backward", "self-attention, untrained, seed 0"}
    for label, medians in drawn.items():
        side, direction = (made.probed, label) if label in ("forward", "backward") else (made.control, "both")
        curves = [side.curve(layer, direction, scope, plots.MEASURES[measure]) for layer in (0, 1)]
        assert medians.tolist() == [curve.value[2] for curve in curves]


def test_a_sensitivity_of_0_is_on_the_axis(made, ax):
    """As of most triples of attention over time, whose mediator is at another place."""
    curves = [
        replace(c, value=c.value * [0, 0, 0, 1, 1]) if c.quantity == "mediator_quantiles" else c
        for c in made.probed.curves
    ]
    curves = [replace(c, value=c.value * 0) if c.quantity == "mediator_by_lag" else c for c in curves]
    zero = replace(made, probed=replace(made.probed, curves=tuple(curves)))
    by_lag = Figure().subplots()
    plots.plot_distribution(zero, "mediator_sensitivity", "ssm", ax)
    plots.plot_by_lag(zero, 0, "ssm", by_lag)
    for drawn in (ax, by_lag):
        (line,) = [line for line in drawn.lines if line.get_label() == "forward"]
        assert np.nanmin(line.get_ydata()) == 0
        bottom, top = drawn.get_ylim()
        assert -top < bottom <= 0  # And no half of the axis is below it.
        assert top > np.nanmax(line.get_ydata())
        assert np.isfinite(drawn.transData.transform((1, 0))).all()
    plots.plot_distribution(made, "mediator_sensitivity", "ssm", other := Figure().subplots())
    assert other.get_yscale() == "log"


def test_the_bound_stands_beside_the_rank(made, ax):
    plots.plot_distribution(made, "block_rank", "mixer", ax)
    # 4 states, and 3 taps that reach across.
    assert [text.get_text() for text in ax.texts] == ["bound 7"]


def test_a_checkpoint_is_named_by_its_file(made):
    assert made.probed.label == "my_run"
