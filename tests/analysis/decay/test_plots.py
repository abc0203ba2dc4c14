"""Figures show the saved numbers, with units and scope on them."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import plots
from analysis.decay.figures import figure_makers, write_figures
from analysis.decay.heatmaps import Heatmap
from analysis.results import Measurement
from tests.analysis.decay.examples import PATCHES, TEXT, VIDEO, result


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def heatmaps() -> list[Heatmap]:
    lag = np.subtract.outer(np.arange(VIDEO.length), np.arange(VIDEO.length))
    W = np.exp(-0.2 * np.abs(lag))
    return [
        Heatmap(0, "forward", "ssm", np.tril(W), 1),
        Heatmap(0, "backward", "ssm", np.triu(W, 1), 1),
    ]


def test_attention_has_token_axes_a_log_scale_and_frame_borders(ax):
    drawn = plots.plot_implicit_attention(heatmaps()[0], VIDEO, ax)
    assert drawn is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key j (token)", "query i (token)")
    assert ax.get_title("left") == "layer 0, forward, scope ssm"
    image = ax.images[0]
    assert isinstance(image.norm, matplotlib.colors.LogNorm)
    assert image.norm.vmax == 1
    assert image.get_array().mask.sum() == VIDEO.length * (VIDEO.length - 1) / 2  # zeros are left white
    borders = sorted({line.get_ydata()[0] for line in ax.lines if line.get_xdata()[0] == 0})
    assert borders == [1 + PATCHES, 1 + 2 * PATCHES, 1 + 3 * PATCHES]
    assert ax.figure.axes[1].get_ylabel() == "W (scan output per unit of scan input)"


def test_profiles_show_the_mean_the_fit_and_units(ax):
    made = result()
    plots.plot_lag_profile(made, 1, "ssm", ax)
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "lag k (tokens)"
    assert ax.get_ylabel() == "m(k)\n(scan output per unit of scan input)"
    lines = {line.get_label(): line for line in ax.lines}
    assert (
        lines["forward"].get_ydata().tolist() == made.curve(1, "forward", "ssm", "lag_profile").value.tolist()
    )
    rate = made.measurement(1, "forward", "ssm", "decay_rate_tokens").value
    x, y = lines["exponential fit, forward"].get_data()
    shown = np.isfinite(y)
    slope = np.polyfit(np.asarray(x)[shown], np.log(np.asarray(y)[shown]), 1)[0]
    assert -slope == pytest.approx(rate)
    styles = {lines[d].get_linestyle() for d in ("forward", "backward")}
    assert len(styles) == 2


def test_frame_profiles_are_in_frames_and_a_text_has_none(ax):
    plots.plot_frame_lag_profile(result(), 0, "ssm", ax)
    assert ax.get_xlabel() == "lag τ (frames)"
    empty = plots.plot_frame_lag_profile(result(TEXT), 0, "ssm", Figure().subplots())
    assert "no such profile" in empty.texts[0].get_text()


def test_half_lives_stand_at_predicted_and_measured(ax):
    made = result()
    plots.plot_half_lives(made, "ssm", ax)
    assert ax.get_xlabel().startswith("predicted half-life (tokens)")
    assert ax.get_ylabel() == "measured half-life (tokens)"
    points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if len(line.get_xdata()) == 1}
    expected = {
        tuple(
            made.measurement(layer, direction, "ssm", name).value
            for name in ("predicted_half_life_tokens", "half_life_tokens")
        )
        for layer in made.layers
        for direction in made.directions
    }
    assert points == expected


def test_frame_matrix_and_class_row_show_the_result(ax):
    made = result()
    plots.plot_frame_matrix(made, 0, "forward", "ssm", ax)
    assert ax.images[0].get_array().tolist() == made.curve(0, "forward", "ssm", "frame_matrix").value.tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key frame t", "query frame s")
    assert {text.get_text() for text in ax.texts} == {"1.00", ".50", ".33", ".25"}
    row = plots.plot_class_row(made, 0, "ssm", Figure().subplots())
    assert row.get_ylabel() == "share of the class token's row"
    labels = [text.get_text() for text in row.get_legend().get_texts()]
    assert labels == ["forward, keeps 0.20", "backward, keeps 0.20"]


@pytest.mark.parametrize(
    ("quantity", "label"),
    [("half_life_tokens", "half-life (tokens)"), ("decay_index_tokens", "decay index (no unit)")],
)
def test_values_by_layer_have_units(ax, quantity, label):
    made = result()
    plots.plot_by_layer(made, quantity, "ssm", ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", label)
    assert ax.get_title("left") == "scope ssm"
    shown = ax.lines[0].get_ydata().tolist()
    assert shown == [made.measurement(layer, "forward", "ssm", quantity).value for layer in made.layers]


def test_models_are_drawn_apart_at_the_layers_that_were_probed(ax):
    one, other = result(layers=2), result(layers=2, clips=3)
    plots.plot_models({"a": one, "b": other}, "mean_distance_tokens", "ssm", "backward", ax)
    assert ax.get_title("left") == "backward, scope ssm"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "mean distance (tokens)")
    assert ax.get_xticks().tolist() == [0, 1]


def test_what_lies_beyond_is_marked_at_the_edge(ax):
    far = Measurement(0, "forward", "ssm", "half_life_tokens", "tokens", np.inf, 12.0, np.inf, 3, "")
    near = Measurement(1, "forward", "ssm", "half_life_tokens", "tokens", 5.0, 4.0, 6.0, 3, "")
    plots.points(ax, np.arange(2), [far, near], "forward", plots.LOOKS["forward"])
    triangles = [line for line in ax.lines if line.get_marker() == "^"]
    assert [line.get_ydata().tolist() for line in triangles] == [[0.98]]
    assert len(ax.texts) == 1  # one arrow, from 12 up
    assert ax.get_ylim()[1] > 12  # where it begins is within the axes


def test_new_axes_are_made_where_none_are_given_and_settings_stay():
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    drawn = plots.plot_by_layer(result(), "half_life_tokens", "ssm")
    assert isinstance(drawn, Axes)
    assert dict(matplotlib.rcParams) == before
    plt.close(drawn.figure)


def test_a_text_has_no_frame_figures(tmp_path):
    assert list(figure_makers(result(TEXT), [])) == ["lag_profile_ssm", "half_life_ssm", "by_layer_ssm"]
    written = write_figures(result(TEXT, layers=1), [], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{path.stem}.{kind}" for path in written for kind in ("png", "svg")
    }


@pytest.mark.filterwarnings("error")
def test_weights_that_are_not_finite_leave_panels_without_data(tmp_path):
    made = result()
    curves = tuple(replace(c, value=np.full(c.value.shape, np.nan), low=None, high=None) for c in made.curves)
    numbers = tuple(replace(m, value=None, low=None, high=None) for m in made.measurements)
    broken = replace(made, curves=curves, measurements=numbers)
    heatmap = Heatmap(0, "forward", "ssm", np.full((VIDEO.length,) * 2, np.nan), 1)
    assert write_figures(broken, [heatmap], tmp_path)
    for draw in (plots.plot_lag_profile, plots.plot_frame_lag_profile, plots.plot_class_row):
        ax = draw(broken, 0, "ssm", Figure().subplots())
        assert "no data" in ax.texts[0].get_text()
    ax = plots.plot_frame_matrix(broken, 0, "forward", "ssm", Figure().subplots())
    assert "no data" in ax.texts[0].get_text()


@pytest.mark.filterwarnings("error")
def test_an_infinite_prediction_is_drawn(tmp_path):
    made = result()
    numbers = tuple(
        replace(m, value=np.inf, low=np.inf, high=np.inf) if m.quantity.startswith("predicted") else m
        for m in made.measurements
    )
    assert write_figures(replace(made, measurements=numbers), [], tmp_path)
