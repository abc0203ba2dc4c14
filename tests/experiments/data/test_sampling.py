"""Which frames and squares are taken: examples by hand, and properties that hold for every length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.sampling import (
    crop_boxes,
    dense_views,
    sample_segments,
    sample_stretch,
    sample_uniformly,
    sparse_views,
)

totals, lengths, clips = st.integers(1, 400), st.integers(1, 40), st.integers(1, 6)
strides, seeds = st.integers(1, 16), st.integers(0, 2**32)


def test_uniform_sampling_takes_the_middle_of_equal_parts():
    assert sample_uniformly(8, 8).tolist() == list(range(8))
    assert sample_uniformly(24, 4).tolist() == [3, 9, 15, 21]
    assert sample_uniformly(3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert sample_uniformly(1, 3).tolist() == [0, 0, 0]


@given(totals, lengths, seeds)
def test_segments_hold_one_frame_each(total, num_frames, seed):
    chosen = sample_segments(total, num_frames, np.random.default_rng(seed))
    edges = np.arange(num_frames + 1) * total / num_frames
    assert len(chosen) == num_frames
    # Frame k of the video lasts from k to k + 1: it has to overlap with the segment.
    assert (chosen < edges[1:]).all()
    assert (chosen + 1 > edges[:-1]).all()
    assert chosen.min() >= 0
    assert chosen.max() < total


def test_every_frame_of_a_segment_is_drawn_as_often():
    rng = np.random.default_rng(0)
    draws = np.stack([sample_segments(12, 3, rng) for _ in range(6000)])
    counts = np.stack([np.bincount(draws[:, s], minlength=12) for s in range(3)])
    expected = np.kron(np.eye(3), np.ones(4)) * 6000 / 4
    # Four standard deviations of a count of probability 1/4.
    assert np.abs(counts - expected).max() < 4 * np.sqrt(6000 * 0.25 * 0.75)
    assert (counts[expected == 0] == 0).all()


@given(totals, lengths, strides, seeds)
def test_a_stretch_has_even_steps_until_the_video_ends(total, num_frames, stride, seed):
    chosen = sample_stretch(total, num_frames, stride, np.random.default_rng(seed))
    span = (num_frames - 1) * stride + 1
    assert 0 <= chosen[0] <= max(0, total - span)
    assert chosen.tolist() == [min(chosen[0] + stride * t, total - 1) for t in range(num_frames)]


@given(totals, lengths, clips)
def test_sparse_views_share_out_each_segment(total, num_frames, count):
    views = sparse_views(total, num_frames, count)
    assert views.shape == (count, num_frames)
    expected = [
        [int((k * count + c + 0.5) * total / (num_frames * count) + 1e-9) for k in range(num_frames)]
        for c in range(count)
    ]
    assert views.tolist() == expected
    # Read across, the views are the middles of count * num_frames equal parts.
    assert views.T.flatten().tolist() == sample_uniformly(total, num_frames * count).tolist()


@given(totals, lengths, strides, clips)
def test_dense_views_reach_from_the_start_to_the_end(total, num_frames, stride, count):
    views = dense_views(total, num_frames, stride, count)
    span = (num_frames - 1) * stride + 1
    assert views.shape == (count, num_frames)
    assert views.min() >= 0
    assert views.max() <= total - 1
    if count > 1:
        assert views[0, 0] == 0
        assert views[-1, -1] == total - 1 if span <= total else views[-1, 0] == 0
    else:
        assert views[0, 0] == max(0, total - span) // 2


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 5))
def test_crops_are_squares_along_the_long_side(width, height, crops):
    boxes = np.array(crop_boxes(width, height, crops))
    side = min(width, height)
    assert boxes[:, 2:] - boxes[:, :2] == pytest.approx(np.full((crops, 2), side))
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= width
    assert boxes[:, 3].max() <= height
    if crops > 1:
        assert boxes[0, :2].tolist() == [0, 0]
        assert boxes[-1, 2:].tolist() == [width, height]
    # The middle one of an odd number is the centre crop.
    if crops % 2:
        centre = boxes[crops // 2]
        assert (centre[:2] + centre[2:]).tolist() == pytest.approx([width, height])


def test_three_crops_by_hand():
    assert crop_boxes(340, 256, 3) == [(0, 0, 256, 256), (42, 0, 298, 256), (84, 0, 340, 256)]
    assert crop_boxes(256, 340, 3) == [(0, 0, 256, 256), (0, 42, 256, 298), (0, 84, 256, 340)]
