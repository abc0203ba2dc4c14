import pytest
import torch

from analysis.capture import record
from analysis.weights import normalise, scoped
from tests.analysis.models import clip, video_model


def test_rows_divide_by_their_sums_and_empty_rows_are_marked():
    share, valid = normalise(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    assert share.tolist() == [[0.25, 0.75], [0.0, 0.0]]
    assert valid.tolist() == [True, False]


def test_refusals():
    model = video_model()
    with torch.no_grad(), record(model, [0]) as captures:
        model(clip())
    with pytest.raises(ValueError, match="scope: 'softmax' is none of ssm, mixer, contribution"):
        scoped(captures[0], "softmax")
    with pytest.raises(ValueError, match="project=True measures contributions"):
        scoped(captures[0], "mixer", project=True)
