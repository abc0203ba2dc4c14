"""Configurations: the variants' switches, named sizes, refusals, and where tokens lie."""

import dataclasses
import json

import pytest
import torch

from vmp.config import (
    VARIANTS,
    ModelConfig,
    attention_control,
    matched_config,
    model_names,
    named_config,
)
from vmp.layout import TokenLayout
from vmp.model import build_model

PLAIN = {
    "mixer": "mamba",
    "directions": "both",
    "mask_backward": False,
    "residual": "none",
    "scan_input": "convolved",
    "masked_first_step": "carry",
    "backward_skip": True,
    "shared_projections": False,
}


@pytest.mark.parametrize(
    ("variant", "changed"),
    [
        ("videomamba", {}),
        ("mamba", {"directions": "forward"}),
        ("mask", {"mask_backward": True}),
        ("residual_initial", {"residual": "initial"}),
        ("residual_elemental", {"residual": "elemental"}),
        ("paper", {"mask_backward": True, "residual": "elemental", "backward_skip": False}),
        (
            "released",
            {
                "mask_backward": True,
                "residual": "initial",
                "scan_input": "projected",
                "masked_first_step": "skip_only",
                "shared_projections": True,
            },
        ),
    ],
)
def test_each_variant_differs_from_videomamba_in_the_stated_switches_alone(variant, changed):
    config = named_config("videomamba_tiny", variant)
    assert {name: getattr(config, name) for name in PLAIN} == PLAIN | changed
    assert config.variant == variant
    assert config.deviations == {}


def test_every_variant_sets_every_switch():
    assert {frozenset(switches) for switches in VARIANTS.values()} == {frozenset(PLAIN)}


def test_deviations_name_the_switches_that_are_not_the_variants():
    config = named_config("videomambapro_tiny", "paper", backward_skip=True)
    assert config.deviations == {"backward_skip": True}


@pytest.mark.parametrize(
    ("name", "width", "depth", "variant"),
    [
        ("videomamba_tiny", 192, 24, "videomamba"),
        ("videomamba_small", 384, 24, "videomamba"),
        ("videomamba_middle", 576, 32, "videomamba"),
        ("videomambapro_tiny", 192, 24, "paper"),
        ("videomambapro_small", 384, 24, "paper"),
        ("videomambapro_middle", 576, 32, "paper"),
    ],
)
def test_named_sizes(name, width, depth, variant):
    config = named_config(name)
    assert (config.name, config.d_model, config.depth, config.variant) == (name, width, depth, variant)
    assert (config.patch_size, config.expand, config.d_state, config.d_conv) == (16, 2, 16, 4)
    assert config.delta_rank == width // 16


def test_delta_rank_rounds_up_and_can_be_set():
    assert named_config("videomamba_tiny", d_model=40).delta_rank == 3
    assert named_config("videomamba_tiny", dt_rank=7).delta_rank == 7


@pytest.mark.parametrize("name", model_names())
def test_a_configuration_survives_json(name):
    config = named_config(name, num_classes=7, drop_path=0.25, dt_rank=5)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_field_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"no field colour; it has name, variant, mixer, d_model"):
        ModelConfig.from_dict({"name": "x", "d_model": 8, "depth": 1, "colour": "red"})


def test_absent_fields_are_named():
    with pytest.raises(ValueError, match="needs the field d_model, depth"):
        ModelConfig.from_dict({"name": "x"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"d_model": 8.0}, r"d_model is 8\.0; a whole number is needed"),
        ({"mask_backward": 1}, "mask_backward is 1; it must be true or false"),
        ({"drop_path": 1.0}, r"drop_path is 1\.0; it must be in \[0, 1\)"),
        ({"drop_path": float("nan")}, "drop_path is nan; it must be a finite number"),
        (
            {"residual": "elementwise"},
            "residual is 'elementwise'; it must be one of none, initial, elemental",
        ),
        ({"variant": "vmp"}, "variant is 'vmp'; it must be one of mamba, videomamba"),
        ({"dt_rank": 0}, "dt_rank is 0"),
        ({"inner_width": 0}, "inner_width is 0; at least 1 is needed"),
        ({"inner_width": 8.5}, r"inner_width is 8\.5; a whole number is needed"),
        ({"image_size": 50}, "image_size 50 is not a multiple of patch_size 16"),
        ({"num_frames": 3, "tubelet_size": 2}, "num_frames 3 is not a multiple of tubelet_size 2"),
        ({"kind": "image"}, 'num_frames is 8, but kind is "image"'),
        ({"kind": "language"}, "vocab_size is 0; a language model needs at least 1"),
        ({"mixer": "attention"}, "num_heads is 0; attention needs at least 1"),
        ({"mixer": "attention", "num_heads": 3}, "attention_width 32 is not a multiple of num_heads 3"),
        ({"directions": "forward", "mask_backward": True}, "mask_backward is set, but directions is"),
        ({"directions": "forward", "shared_projections": True}, "shared_projections is set, but"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"norm_epsilon": 0.0}, r"norm_epsilon is 0\.0"),
        ({"name": 3}, "name is 3; it must be text"),
    ],
)
def test_a_field_that_does_not_fit_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict({"name": "x", "d_model": 32, "depth": 2, **fields})


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="no model 'videomamba_huge'; there are videomamba_tiny"):
        named_config("videomamba_huge")
    with pytest.raises(ValueError, match="no variant 'plain'; there are mamba, videomamba"):
        named_config("videomamba_tiny", "plain")


@pytest.mark.parametrize(
    ("class_token", "order"),
    [
        # One letter a token: c is a class token, the rest are frame, row, column.
        ("first", "c 000 001 010 011 100 101 110 111"),
        ("middle", "000 001 010 011 c 100 101 110 111"),
        ("both_ends", "c 000 001 010 011 100 101 110 111 c"),
        ("none", "000 001 010 011 100 101 110 111"),
    ],
)
def test_tokens_lie_in_frame_and_raster_order_around_the_class_tokens(class_token, order):
    layout = TokenLayout.video(2, (2, 2), class_token)
    tokens = order.split()
    expected = [(-1, -1, -1) if token == "c" else tuple(map(int, token)) for token in tokens]
    columns = zip(
        layout.frame_index.tolist(), layout.row_index.tolist(), layout.col_index.tolist(), strict=True
    )
    assert list(columns) == expected
    assert layout.length == len(tokens)
    assert layout.class_positions == tuple(i for i, token in enumerate(tokens) if token == "c")
    assert layout.patch_positions().tolist() == [i for i, token in enumerate(tokens) if token != "c"]
    assert (layout.patches, layout.is_video) == (4, True)


def test_rows_and_columns_of_a_grid_that_is_not_square():
    layout = TokenLayout((0,), 1, (2, 3))
    assert layout.row_index.tolist() == [-1, 0, 0, 0, 1, 1, 1]
    assert layout.col_index.tolist() == [-1, 0, 1, 2, 0, 1, 2]


def test_vims_class_token_is_at_98_at_224_pixels():
    config = named_config("videomamba_tiny", kind="image", class_token="middle")
    assert config.token_layout().class_positions == (98,)


def test_tubelets_shorten_the_sequence():
    layout = named_config("videomamba_tiny", num_frames=8, tubelet_size=2, image_size=64).token_layout()
    assert (layout.frames, layout.grid, layout.length) == (4, (4, 4), 65)


def test_a_plain_sequence_has_no_frames():
    layout = TokenLayout.sequence(5)
    assert (layout.length, layout.frames, layout.patches, layout.is_video) == (5, 0, 0, False)
    assert torch.equal(layout.frame_index, torch.full((5,), -1))
    assert layout.patch_positions().numel() == 0


@pytest.mark.parametrize("positions", [(9,), (-1,), (3, 3), (2, 1)])
def test_class_positions_must_ascend_within_the_sequence(positions):
    with pytest.raises(ValueError, match=r"must ascend and lie in a sequence of"):
        TokenLayout(positions, 1, (2, 2))


def test_a_language_model_has_no_video_layout():
    config = ModelConfig(name="x", d_model=8, depth=1, kind="language", vocab_size=4)
    with pytest.raises(ValueError, match=r"use TokenLayout\.sequence"):
        config.token_layout()


@pytest.mark.parametrize("variant", ["videomamba", "paper", "released", "mamba"])
def test_the_attention_control_has_the_size_of_what_it_is_a_control_of(variant):
    config = named_config("vmp_micro", variant, num_classes=6)
    control = attention_control(config)
    assert control.mixer == "attention"
    assert control.directions == config.directions
    assert control.token_layout() == config.token_layout()
    if variant == "videomamba":
        assert control == named_config("vmp_micro", "attention", num_classes=6)
        counts = [sum(p.numel() for p in build_model(c).parameters()) for c in (config, control)]
        assert counts[1] == pytest.approx(counts[0], rel=0.02)


COMPARED = (
    *("mamba", "videomamba", "mask", "residual_initial", "residual_elemental", "paper"),
    *("released", "attention"),
)


def parameters(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(config).parameters())


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vmp_micro", {}),
        ("vmp_micro", {"d_model": 32, "depth": 2, "image_size": 16, "tubelet_size": 1}),
        ("vmp_micro", {"d_model": 32, "depth": 1, "d_state": 4, "image_size": 8, "class_token": "none"}),
        (
            "vmp_micro",
            {"d_model": 16, "depth": 4, "d_state": 64, "conv_bias": False, "projection_bias": True},
        ),
        ("videomambapro_tiny", {"num_frames": 16}),
    ],
)
@pytest.mark.parametrize("variant", COMPARED)
def test_matched_variants_have_as_many_parameters_as_videomamba_within_two_percent(name, fields, variant):
    config = matched_config(name, variant, num_classes=7, **fields)
    reference = named_config(name, "videomamba", num_classes=7, **fields)
    blocks = [parameters(dataclasses.replace(c, depth=1, num_classes=0)) for c in (config, reference)]
    assert parameters(config) == pytest.approx(parameters(reference), rel=0.02)
    assert blocks[0] == pytest.approx(blocks[1], rel=0.02)
    assert {s: getattr(config, s) for s in VARIANTS[variant]} == dict(VARIANTS[variant])


def test_matching_widens_the_scan_of_what_lacks_a_direction_alone():
    matched = {variant: matched_config("vmp_micro", variant) for variant in COMPARED}
    widened = {variant for variant, config in matched.items() if config.inner_width is not None}
    assert widened == {"mamba", "released"}
    assert all(matched[variant] == named_config("vmp_micro", variant) for variant in set(COMPARED) - widened)
    for variant in widened:
        width = matched[variant].inner_width
        assert width > 128
        assert named_config("vmp_micro", variant, inner_width=width) == matched[variant]
        # No other number of channels comes nearer.
        target = parameters(matched["videomamba"])
        off = [
            abs(parameters(named_config("vmp_micro", variant, inner_width=w)) - target)
            for w in (width - 1, width, width + 1)
        ]
        assert off[1] == min(off)


def test_a_width_that_is_given_is_kept():
    assert matched_config("vmp_micro", "mamba", inner_width=100).d_inner == 100
