"""Relevance of a whole model on clips: what each ranking is, areas, seeds, resuming, plots and gaps."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from rich.console import Console

import analysis
from analysis.capture import record
from analysis.inputs import Sample
from analysis.relevance import RANKINGS, Relevance, relevance
from analysis.relevance.measure import REFERENCE
from analysis.relevance.rankings import NO_HEAD, RANDOM
from tests.analysis.models import clip, language_model, video_model
from tests.analysis.test_registry import own
from vmp.layout import TokenLayout

SIZES = {"frame": 3, "tube": 4}
LAYOUT = TokenLayout((12,), 3, (2, 2))
"""Of the model of a user's own in the registry's tests, whose class token comes last."""


def samples(count=3, **shape):
    return [Sample(clip(batch=1, seed=index, **shape)[0], f"c{index}") for index in range(count)]


def probed(model, shown, orders=2, **options):
    return analysis.probe(model, shown, [Relevance(orders)], resamples=100, **options)


def curves(result, part, model=None):
    """Curves of each ranking, clip by clip."""
    found = result.data[f"relevance.deletion_curve_{part}"].sel(model=model or result.model)
    return {name: found.sel(ranking=name).values for name in RANKINGS}


def numbers(result, quantity="deletion_area", model=None):
    return {
        (part, name): result.number(quantity, model=model, part=part, ranking=name)
        for part in SIZES
        for name in RANKINGS
    }


@pytest.fixture(scope="module")
def both():
    models = {"scan": video_model("paper"), "attention": video_model("attention", num_heads=3)}
    return models, probed(models, samples())


def test_every_ranking_has_curves_from_the_whole_clip_to_none_of_it(both):
    models, result = both
    for name, model in models.items():
        for index, sample in enumerate(samples()):
            whole = model(sample.tokens[None]).softmax(-1)[0]
            nothing = torch.ones_like(sample.tokens) * sample.tokens.mean((1, 2, 3), keepdim=True)
            target = int(whole.argmax())
            last = model(nothing[None]).softmax(-1)[0, target].item()
            for part, count in SIZES.items():
                for values in curves(result, part, name).values():
                    assert values.shape == (3, count + 1)
                    assert values[index, [0, -1]] == pytest.approx([whole[target].item(), last])
            kept = result.data[["relevance.predicted_class", "relevance.predicted_probability"]].sel(
                model=name
            )
            assert [v.values[index] for v in kept.values()] == pytest.approx([target, whole[target].item()])


def test_areas_and_paired_differences_are_those_of_the_curves(both):
    _, result = both
    area, less = numbers(result), numbers(result, "deletion_area_less_random")
    for part, n in SIZES.items():
        areas = {
            name: sum((values[:, k] + values[:, k + 1]) / 2 for k in range(n)) / n
            for name, values in curves(result, part).items()
        }
        for name, values in areas.items():
            assert area[part, name].value == pytest.approx(values.mean())
            if name != RANDOM:
                found = less[part, name]
                assert found.value == pytest.approx((values - areas[RANDOM]).mean())
                assert found.low <= found.value <= found.high
        assert np.isnan(less[part, RANDOM].value)
        assert less[part, RANDOM].note == REFERENCE
    assert not any("Relevance" in note for note in result.provenance.notes)


def test_relevance_by_frame_is_a_share_of_sums_over_tokens(both):
    models, result = both
    by_frame = result.data["relevance.relevance_by_frame"].sel(model="scan")
    tokens, *_ = relevance(models["scan"], samples()[1].tokens)
    for name, values in tokens.items():
        sums = abs(values.double().view(3, 4).sum(1))
        np.testing.assert_allclose(by_frame.sel(ranking=name)[1], sums / sums.sum(), rtol=1e-12)
    assert by_frame.sel(ranking=RANDOM).isnull().all()


def test_the_first_order_drop_is_the_gradient_times_the_change():
    model, x = video_model("videomamba"), clip(batch=1)[0]
    tokens, layout, target, _ = relevance(model, x)
    fill, step = x.mean((1, 2, 3), keepdim=True), 1e-5
    for token in (0, 5, 11):
        t, row, col = token // 4, token % 4 // 2, token % 2
        there = torch.zeros_like(x)
        there[:, t, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = 1
        moved = [x + sign * step * there * (fill - x) for sign in (1, -1)]
        ahead, behind = (model(v[None])[0, target].item() for v in moved)
        # Towards the fill the logit falls at this rate.
        rate = (behind - ahead) / (2 * step)
        assert tokens["gradient x change"][token].item() == pytest.approx(rate, rel=1e-4)
    assert layout.patches == 4


def test_the_last_row_is_the_class_row_of_both_directions_together():
    model, x = video_model("paper"), clip(batch=1)[0]
    tokens, *_ = relevance(model, x)
    with torch.no_grad(), record(model, [-1]) as captures:
        model(x[None])
    row = sum(c.operator().dense()[0].abs().mean(0)[0] for c in captures)
    np.testing.assert_allclose(tokens["last row ssm"], (row / row.sum())[1:], rtol=1e-10)


def test_the_seed_alone_decides_and_one_order_is_the_least():
    model = video_model("paper")
    one, same, other = (probed(model, samples(2), 1, seed=seed).data for seed in (4, 4, 5))
    assert one.equals(same)
    assert not one.equals(other)
    with pytest.raises(ValueError, match="random_orders is 0"):
        Relevance(0)


def test_an_interrupted_probe_resumes_and_ends_with_the_same_bits(tmp_path):
    model, done, ran = video_model("paper"), [], []

    def stops(what, total):
        done.append((what, total))
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probed(model, samples(), resume=tmp_path / "wait", progress=stops)
    assert done == [("VideoModel: relevance", 3)] * 2
    model.register_forward_pre_hook(lambda _, inputs: ran.append(inputs[0].shape[0]))
    resumed = probed(model, samples(), resume=tmp_path / "wait")
    again = len(ran)
    whole = probed(model, samples())
    assert again < len(ran) - again
    assert whole.data.equals(resumed.data)
    assert whole.layout() == resumed.layout() == model.token_layout()


def test_a_result_is_saved_drawn_and_shown_as_tables(both, tmp_path):
    _, result = both
    loaded = analysis.load(result.save(tmp_path / "kept"))
    assert loaded.data.equals(result.data)
    assert loaded.measures["relevance"] == Relevance(2)
    (random, *drawn) = loaded.plot("deletion_curve", model="attention", part="tube").lines
    assert random.get_ydata() == pytest.approx(curves(result, "tube", "attention")[RANDOM].mean(0))
    assert len(drawn) == 4
    less = [numbers(result, "deletion_area_less_random", name)["tube", "gradient"] for name in result.models]
    drawn = loaded.plot("deletion_area_less_random", part="tube").containers
    assert [bars.lines[0].get_xdata()[6] for bars in drawn] == [m.value for m in less]
    assert loaded.plot("relevance_by_frame", model="scan").get_ylim()[0] == 0
    plt.close("all")
    names = {"relevance_by_frame", "faithfulness", "deletion_frame", "deletion_tube"}
    assert set(loaded.measures["relevance"].figures(loaded, "scan")) == names
    text = shown(loaded)
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("Deletion")] == [
        "frames",
        "tubes",
    ]
    area = numbers(result)["tube", "gradient"]
    row = text[text.index("Deletion of tubes") :].split("gradient", 1)[1].split()
    assert row[0] == f"{area.value:.3f}"
    assert row[1].endswith("*)") == (less[0].low > 0 or less[0].high < 0)
    assert " ".join(text.split()).count("excludes zero") == 1


def shown(result):
    console = Console(width=100, record=True, file=io.StringIO())
    for table in result.measures["relevance"].tables(result) or ():
        console.print(table)
    return console.export_text()


def test_one_clip_has_no_interval_and_one_frame_no_order():
    model = video_model("paper", num_frames=1)
    result = probed(model, samples(1, frames=1))
    area = numbers(result)
    tube, frame = area["tube", "gradient"], area["frame", "gradient"]
    assert np.isnan([tube.low, tube.high, frame.value]).all()
    assert tube.note == "one clip: no interval"
    assert frame.note == "deletion of frames: one of them is the whole clip"
    assert "deletion_curve_frame" not in result.data
    assert "Relevance has gaps: deletion of frames: one of them is the whole clip." in result.provenance.notes
    assert "Deletion of frames" not in shown(result)
    assert "Deletion of tubes" in shown(result)


def test_a_model_without_a_head_has_gaps_beside_one_that_has():
    models = {"headed": video_model("paper"), "features": video_model("paper", num_classes=0)}
    result = probed(models, samples(2))
    assert {m.note for m in numbers(result, model="features").values()} == {NO_HEAD}
    assert {m.note for m in numbers(result, "deletion_area_less_random", "features").values()} == {NO_HEAD}
    assert result.curve("deletion_curve_tube", model="features") is None
    assert f"Relevance of features has gaps: {NO_HEAD}." in result.provenance.notes
    ax = result.plot("deletion_curve", model="features")
    assert [text.get_text().replace("\n", " ") for text in ax.texts] == [NO_HEAD]
    plt.close("all")
    alone = probed(models["features"], samples(2))
    assert alone.measures["relevance"].figures(alone, alone.model) == {}
    assert list(alone.measures["relevance"].tables(alone)) == []
    with pytest.raises(ValueError, match=NO_HEAD):
        relevance(models["features"], samples(1)[0].tokens)


def test_a_sequence_without_frames_has_gaps_until_its_layout_is_given():
    text = probed(language_model(), torch.arange(8).view(2, 4))
    plain = probed(own("paper"), samples(2))
    for result in (text, plain):
        assert {m.note for m in numbers(result).values()} == {"a plain sequence has no frames"}
    model = own("paper")
    given = probed(model, samples(2), layout=LAYOUT)
    assert all(np.isfinite(m.value) for m in numbers(given).values())
    tokens, layout, *_ = relevance(model, samples(1)[0].tokens, layout=LAYOUT)
    assert layout == LAYOUT
    with torch.no_grad(), record(model, [-1], layout=LAYOUT) as captures:
        model(samples(1)[0].tokens[None])
    row = sum(c.operator().dense()[0].abs().mean(0)[12] for c in captures)
    np.testing.assert_allclose(tokens["last row ssm"], (row / row.sum())[:12], rtol=1e-10)
    with pytest.raises(ValueError, match="6 frames of 1 x 2 patches do not divide a clip of 3 x 8 x 8"):
        relevance(model, samples(1)[0].tokens, layout=TokenLayout((12,), 6, (1, 2)))
