"""Layers and scopes as they are written on a command line, and what models are shown."""

import pytest
import torch

from analysis.inputs import InputError, clip_sources, clips, random_tokens
from analysis.request import RequestError, parse_layers, parse_scopes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("0,3,-1", [0, 3, 4]),
        ("1-3", [1, 2, 3]),
        ("-2, 0-1", [0, 1, 3]),
        ("2,2", [2]),
    ],
)
def test_layers_are_read(text, expected):
    assert parse_layers(text, 5) == expected


@pytest.mark.parametrize("text", ["5", "-6", "0-5", "", "1,,2", "-3-4", "a", "3-1"])
def test_wrong_layers_are_refused(text):
    with pytest.raises(RequestError, match="--layers"):
        parse_layers(text, 5)


def test_scopes_are_read_in_their_own_order():
    assert parse_scopes(["contribution", "ssm", "ssm"]) == ("ssm", "contribution")
    assert parse_scopes(["all"]) == ("ssm", "mixer", "contribution")


def test_sources_are_found_by_name_and_others_named():
    assert {"photo-pan", "digits", "video"} <= set(clip_sources())
    with pytest.raises(InputError, match=r"no clips named 'x'; there are: .*photo-pan"):
        clips("x", num_frames=1, image_size=8, count=1, seed=0)


def test_random_tokens_depend_on_the_seed_alone():
    first, again, other = (
        [s.tokens for s in random_tokens(vocabulary=7, length=50, count=3, seed=seed)] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(torch.stack(first), torch.stack(other))
    assert not torch.equal(first[0], first[1])
    assert set(torch.stack(first).flatten().tolist()) == set(range(7))
