"""Figures show the result's numbers, and say of what."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from analysis import probe
from analysis.contradiction import Contradiction, plots
from analysis.contradiction.control import untrained_control
from analysis.result import Result
from tests.analysis.models import TINY
from vmp import create_model

CONTROL = "self-attention, untrained, seed 0"
SCOPES = ("ssm", "mixer", "contribution")


def probed(*, beside, layers=None, scopes=SCOPES):
    torch.manual_seed(0)
    model = create_model("vmp_micro", variant="videomamba", num_classes=3, **{**TINY, "image_size": 16})
    label, control = untrained_control(model.config, "cpu", 0)
    clips = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    models = {"my_run": model, **({label: control} if beside else {})}
    return probe(models, clips, [Contradiction(mediators=3)], layers=layers, scopes=scopes, resamples=100)


@pytest.fixture(scope="module")
def made():
    return probed(beside=True)


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


@pytest.mark.parametrize(("quantity", "scope"), TITLES)
def test_a_distribution_says_over_what_and_its_marks_are_the_medians(made, quantity, scope, ax):
    made.plot(plots.DISTRIBUTIONS[quantity], ax, scope=scope)
    assert ax.get_title("left") == TITLES[quantity, scope]
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}
    assert set(drawn) == {"forward", "backward", CONTROL}
    for label, medians in drawn.items():
        model, direction = (CONTROL, "both") if label == CONTROL else ("my_run", label)
        curves = [
            made.curve(plots.DISTRIBUTIONS[quantity], layer, direction, scope, model) for layer in (0, 1)
        ]
        assert medians.tolist() == [curve.value[2] for curve in curves]


def test_a_sensitivity_of_0_is_on_the_axis(made, ax):
    """Most triples of attention over time have one, as their mediator is at another place."""
    data = made.data.copy(deep=True)
    data["mediator_quantiles"].loc["my_run", ..., :0.5] = 0
    data["mediator_by_lag"].loc["my_run"] *= 0
    zero, by_lag = Result(data, made.provenance), Figure().subplots()
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


def test_figures_show_the_model_first_and_the_other_one_beside(made):
    for model, looks in (("my_run", 2), (CONTROL, 1)):
        makers = Contradiction().figures(made, model)
        assert len(makers) == 12
        figure = makers["by_layer_ssm"]()
        assert figure.get_supxlabel() == f"{model}, scope ssm; 2 clips"
        names = [line[2] for line in plots.lines(made, model)]
        assert names[:looks] == list(made.directions("contradiction", model))
        assert [text.get_text() for text in figure.legends[0].texts] == names
        assert names[looks:] == ([CONTROL] if model == "my_run" else ["my_run, forward", "my_run, backward"])


def test_a_model_is_by_itself_what_it_is_beside_another(made):
    """Each model's draws begin anew, so that a control changes nothing."""
    alone = probed(beside=False, layers=[1], scopes=["ssm"])
    assert alone.summary().equals(made.summary(model="my_run", scope="ssm", layer=1))
