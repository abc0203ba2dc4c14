"""Faithfulness of a whole model on clips: what each measure is, seeds, resuming and gaps."""

import numpy as np
import pytest
import torch

from analysis.capture import record
from analysis.compare.faithful import MEASURES, RANDOM, faithfulness, relevance
from analysis.inputs import Sample
from analysis.unfinished import Unfinished
from tests.analysis.models import clip, video_model


def samples(count=3):
    return [Sample(clip(batch=1, seed=index)[0], f"c{index}") for index in range(count)]


def curves(result):
    return {(c.part, c.measure): c.curves for c in result.curves}


def test_every_measure_has_curves_from_the_whole_clip_to_none_of_it():
    model = video_model("paper")
    result = faithfulness(model, samples(), seeds=2, resamples=100)
    assert set(curves(result)) == {(part, name) for part in ("frame", "tube") for name in MEASURES}
    for (part, _), values in curves(result).items():
        assert values.shape == (3, {"frame": 3, "tube": 4}[part] + 1)
        for index, sample in enumerate(samples()):
            probability = model(sample.tokens[None]).softmax(-1)[0]
            nothing = torch.ones_like(sample.tokens) * sample.tokens.mean((1, 2, 3), keepdim=True)
            target = int(probability.argmax())
            assert values[index, 0] == pytest.approx(probability[target].item())
            last = model(nothing[None]).softmax(-1)[0, target].item()
            assert values[index, -1] == pytest.approx(last)
            assert result.predictions[index] == target


def test_areas_and_paired_differences_are_those_of_the_curves():
    result = faithfulness(video_model("attention", num_heads=3), samples(), seeds=2, resamples=100)
    for part in ("frame", "tube"):
        areas = {}
        for name in MEASURES:
            values = curves(result)[part, name]
            n = values.shape[1] - 1
            areas[name] = sum((values[:, k] + values[:, k + 1]) / 2 for k in range(n)) / n
            assert result.measurement(part, name, "deletion_area").value == pytest.approx(areas[name].mean())
        for name in set(MEASURES) - {RANDOM}:
            less = result.measurement(part, name, "deletion_area_less_random")
            assert less.value == pytest.approx((areas[name] - areas[RANDOM]).mean())
            assert less.low <= less.value <= less.high


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
        assert tokens["gradient x change"][token].item() == pytest.approx(
            (behind - ahead) / (2 * step), rel=1e-4
        )
    assert layout.patches == 4


def test_the_last_row_is_the_class_row_of_both_directions_together():
    model, x = video_model("paper"), clip(batch=1)[0]
    tokens, *_ = relevance(model, x)
    with torch.no_grad(), record(model, [-1]) as captures:
        model(x[None])
    row = sum(c.operator().dense()[0].abs().mean(0)[0] for c in captures)
    np.testing.assert_allclose(tokens["last row ssm"], (row / row.sum())[1:], rtol=1e-10)


def test_the_seed_alone_decides():
    model = video_model("paper")
    one, same, other = (faithfulness(model, samples(2), seeds=1, seed=seed) for seed in (4, 4, 5))
    for key, values in curves(one).items():
        assert np.array_equal(values, curves(same)[key])
    assert any(not np.array_equal(values, curves(other)[key]) for key, values in curves(one).items())


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    model, keep = video_model("paper"), Unfinished(tmp_path / "wait")
    keep.begin({"a": 1})

    def breaks():
        yield samples()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        faithfulness(model, breaks(), seeds=2, unfinished=keep)
    ran = []
    model.register_forward_pre_hook(lambda _, inputs: ran.append(inputs[0].shape[0]))
    resumed = faithfulness(model, samples(), seeds=2, unfinished=keep)
    resumed_runs = len(ran)
    whole = faithfulness(model, samples(), seeds=2)
    assert resumed_runs < len(ran) - resumed_runs
    for key, values in curves(whole).items():
        assert np.array_equal(values, curves(resumed)[key])


def test_one_clip_has_no_interval_and_one_frame_no_order():
    model = video_model("paper", num_frames=1)
    result = faithfulness(model, [Sample(clip(batch=1, frames=1)[0], "still")], seeds=2)
    assert {c.part for c in result.curves} == {"tube"}
    area = result.measurement("tube", "gradient", "deletion_area")
    assert (area.low, area.high, area.note) == (None, None, "one clip: no interval")
