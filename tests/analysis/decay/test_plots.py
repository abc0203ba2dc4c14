"""Figures show the saved numbers, with units and scope on them."""

from functools import cache

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.draw import LOOKS, points, write_figures
from analysis.result import Number
from tests.analysis.decay import examples
from tests.analysis.decay.examples import PATCHES, TEXT, VIDEO

UNIT = "scan output per unit of scan input"


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


@cache
def result(layout=VIDEO):
    return examples.result(layout)


def number(quantity, layer, direction):
    return result().number(quantity, layer, direction, "ssm").value


def figures(made):
    return {name: draw for m in made.measures.values() for name, draw in m.figures(made, made.model).items()}


def test_weights_have_token_axes_a_log_scale_and_frame_borders(ax):
    assert result().plot("weight_matrix", ax, layer=0, direction="forward") is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key j (token)", "query i (token)")
    assert ax.get_title("left") == "layer 0, forward, scope ssm"
    image = ax.images[0]
    assert isinstance(image.norm, matplotlib.colors.LogNorm)
    assert image.norm.vmax == 1
    assert image.get_array().mask.sum() == VIDEO.length * (VIDEO.length - 1) / 2  # zeros are left white
    borders = sorted({line.get_ydata()[0] for line in ax.lines if line.get_xdata()[0] == 0})
    assert borders == [1 + PATCHES, 1 + 2 * PATCHES, 1 + 3 * PATCHES]
    assert ax.figure.axes[1].get_ylabel() == f"W ({UNIT})"


def test_profiles_show_the_mean_the_fit_and_units(ax):
    result().plot("lag_profile", ax, layer=1)
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lag k (tokens)", f"m(k)\n({UNIT})")
    lines = {line.get_label(): line for line in ax.lines}
    curve = result().curve("lag_profile", 1, "forward", "ssm").value
    assert lines["forward"].get_ydata().tolist() == curve.tolist()
    x, y = map(np.asarray, lines["exponential fit, forward"].get_data())
    slope = np.polyfit(x[np.isfinite(y)], np.log(y[np.isfinite(y)]), 1)[0]
    assert -slope == pytest.approx(number("decay_rate_tokens", 1, "forward"))
    assert len({lines[d].get_linestyle() for d in ("forward", "backward")}) == 2


def test_frame_profiles_are_in_frames_and_a_text_has_none(ax):
    result().plot("frame_lag_profile", ax)
    assert ax.get_xlabel() == "lag τ (frames)"
    empty = result(TEXT).plot("frame_lag_profile", Figure().subplots())
    assert "no such profile" in empty.texts[0].get_text()


def test_half_lives_stand_at_predicted_and_measured(ax):
    result().plot("half_lives", ax)
    assert ax.get_xlabel().startswith("predicted half-life (tokens)")
    assert ax.get_ylabel() == "measured half-life (tokens)"
    shown = {(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if len(line.get_xdata()) == 1}
    names = ("predicted_half_life_tokens", "half_life_tokens")
    assert shown == {
        tuple(number(name, layer, direction) for name in names)
        for layer in result().layers
        for direction in result().directions("decay")
    }


def test_frame_matrix_and_class_row_show_the_result(ax):
    result().plot("frame_matrix", ax, layer=0, direction="forward")
    curve = result().curve("frame_matrix", 0, "forward", "ssm").value
    assert ax.images[0].get_array().tolist() == curve.tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key frame t", "query frame s")
    assert {text.get_text() for text in ax.texts} == {"1.00", ".50", ".33", ".25"}
    row = result().plot("class_row", Figure().subplots())
    assert row.get_ylabel() == "share of the class token's row"
    labels = [text.get_text() for text in row.get_legend().get_texts()]
    assert labels == ["forward, keeps 0.20", "backward, keeps 0.20"]


@pytest.mark.parametrize(
    ("quantity", "label"),
    [("half_life_tokens", "half-life (tokens)"), ("decay_index_tokens", "decay index (no unit)")],
)
def test_values_by_layer_have_units(ax, quantity, label):
    result().plot(quantity, ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", label)
    assert ax.get_title("left") == "scope ssm"
    assert ax.lines[0].get_ydata().tolist() == [number(quantity, layer, "forward") for layer in (0, 1)]


def test_what_lies_beyond_is_marked_at_the_edge(ax):
    far, near = Number(np.inf, 12.0, np.inf, "tokens"), Number(5.0, 4.0, 6.0, "tokens")
    points(ax, np.arange(2), [far, near], "forward", LOOKS["forward"])
    triangles = [line for line in ax.lines if line.get_marker() == "^"]
    assert [line.get_ydata().tolist() for line in triangles] == [[0.98]]
    assert len(ax.texts) == 1  # one arrow, from 12 up
    assert ax.get_ylim()[1] > 12  # where it begins is within the axes


def test_new_axes_are_made_where_none_are_given_and_settings_stay():
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    drawn = result().plot("half_life_tokens")
    assert isinstance(drawn, Axes)
    assert dict(matplotlib.rcParams) == before
    plt.close(drawn.figure)


def test_there_are_figures_of_all_that_a_result_holds():
    frames = ("frame_lag_profile_ssm", "frame_matrix_ssm", "class_row_ssm")
    plain = ("lag_profile_ssm", "half_life_ssm", "by_layer_ssm")
    drawn = ("attention_ssm_layer00", "attention_ssm_layer01")
    assert list(figures(result(TEXT))) == [*drawn, *plain]
    assert set(figures(result())) == {*drawn, *plain, *frames}


@pytest.mark.filterwarnings("error")
def test_weights_that_are_not_finite_leave_panels_without_data(tmp_path):
    shapes = {"lag_profile": 37, "frame_profile": 4, "frame_matrix": (4, 4), "class_row": 4, "class_self": (),
              "distance": 3, "effective_context": (), "predicted": 7, "weight_matrix": (37, 37)}  # fmt: skip
    change = {name: np.full(shape, np.nan) for name, shape in shapes.items()}
    broken = examples.result(layers=1, change=change)
    assert write_figures(figures(broken), tmp_path)
    for name in ("lag_profile", "frame_lag_profile", "class_row", "frame_matrix", "weight_matrix"):
        assert "no data" in broken.plot(name, Figure().subplots()).texts[0].get_text()


@pytest.mark.filterwarnings("error")
def test_an_infinite_prediction_is_drawn(tmp_path):
    made = examples.result(TEXT, layers=1, change={"predicted": np.full(7, np.inf)})
    written = write_figures({"half_life": figures(made)["half_life_ssm"]}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"half_life.png", "half_life.svg"}
    assert [path.name for path in written] == ["half_life.png"]
