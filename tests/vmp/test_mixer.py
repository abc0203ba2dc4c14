"""The mixers against loops written out here from math.md, in float64."""

import numpy as np
import pytest
import torch

from tests.vmp.naive import VARIANTS, mixer_output
from vmp.attention import SelfAttentionMixer
from vmp.config import named_config
from vmp.mixer import MambaMixer

WIDTH, STATES, LENGTH, BATCH = 6, 3, 9, 2

# Single switches beside the variants, each on top of one.
SWITCHES = [
    ("videomamba", {"shared_projections": True}, ("keep", "none", "convolved", "carry", "D", "")),
    ("paper", {"scan_input": "projected"}, ("mask", "elemental", "projected", "carry", None, "_b")),
    ("released", {"masked_first_step": "carry"}, ("mask", "initial", "projected", "carry", "D", "")),
    ("released", {"backward_skip": False}, ("mask", "initial", "projected", "skip_only", None, "")),
    ("released", {"shared_projections": False}, ("mask", "initial", "projected", "skip_only", "D_b", "_b")),
    ("videomamba", {"halve_output": True, "layer_scale": True}, VARIANTS["videomamba"]),
    ("videomamba", {"projection_bias": True, "conv_bias": False}, VARIANTS["videomamba"]),
    ("videomamba", {"expand": 3, "d_conv": 2, "dt_rank": 4}, VARIANTS["videomamba"]),
]


def random_mixer(variant, **fields):
    """A float64 mixer all of whose parameters are drawn, so that none is 0 or 1 by initialisation."""
    size = {"d_model": WIDTH, "depth": 2, "d_state": STATES, **fields}
    mixer = MambaMixer(named_config("videomamba_tiny", variant, **size)).double()
    generator = torch.Generator().manual_seed(len(variant))
    for parameter in mixer.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = 0.7 * noise
    return mixer


def hidden_states():
    return torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def expected_output(mixer, hidden, backward):
    weights = {name: value.detach().numpy() for name, value in mixer.named_parameters()}
    halve = mixer.config.halve_output
    return np.stack([mixer_output(weights, sample, backward, halve) for sample in hidden.numpy()])


CASES = [(variant, {}, row) for variant, row in VARIANTS.items()] + SWITCHES


@pytest.mark.parametrize(("variant", "fields", "backward"), CASES)
def test_the_mixer_is_the_equations_written_out(variant, fields, backward):
    mixer, hidden = random_mixer(variant, **fields), hidden_states()
    expected = expected_output(mixer, hidden, backward)
    np.testing.assert_allclose(mixer(hidden).detach().numpy(), expected, rtol=0, atol=1e-10)


def test_the_cases_differ_from_one_another():
    """Were a switch ignored, two cases of equal weights would agree; here none do."""
    hidden, outputs = hidden_states(), []
    template = random_mixer("videomamba")
    for variant, row in VARIANTS.items():
        mixer = random_mixer(variant)
        weights = {name: value for name, value in template.state_dict().items() if name in mixer.state_dict()}
        mixer.load_state_dict(weights)
        outputs.append(mixer(hidden).detach())
        assert row is None or weights.keys() <= template.state_dict().keys()
    for i, first in enumerate(outputs):
        for second in outputs[:i]:
            assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_terms_of_the_directions_are_what_the_output_is_made_of(variant):
    mixer, hidden = random_mixer(variant), hidden_states()
    terms = mixer.directions(hidden)
    assert [term.direction for term in terms] == ["forward", "backward"][: len(terms)]
    total = sum(term.scan("spec") for term in terms)
    expected = torch.einsum("bdl,md->blm", total, mixer.out_proj.weight)
    torch.testing.assert_close(mixer(hidden), expected, rtol=0, atol=1e-10)


def test_the_terms_say_how_their_direction_runs():
    forward, backward = random_mixer("paper").directions(hidden_states())
    assert (forward.reverse, forward.mask_diagonal, forward.conv_reversed) == (False, False, False)
    assert (backward.reverse, backward.mask_diagonal, backward.conv_reversed) == (True, True, True)
    assert forward.residual == backward.residual == "elemental"
    assert forward.D is not None
    assert backward.D is None
    forward, backward = random_mixer("released").directions(hidden_states())
    assert backward.conv_reversed is False
    assert torch.equal(forward.delta, backward.delta)
    assert torch.equal(backward.D, forward.D)
    assert torch.equal(forward.u, forward.x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [1, 2])
def test_sequences_shorter_than_the_convolution(variant, length):
    mixer, hidden = random_mixer(variant), hidden_states()[:, :length]
    expected = expected_output(mixer, hidden, VARIANTS[variant])
    np.testing.assert_allclose(mixer(hidden).detach().numpy(), expected, rtol=0, atol=1e-10)


def test_parameter_names_are_those_of_videomambas_files():
    own = {"conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D"}
    ends = {"in_proj.weight", "out_proj.weight"}
    backward = {"conv1d_b.weight", "conv1d_b.bias", "x_proj_b.weight", "dt_proj_b.weight", "dt_proj_b.bias"}
    names = {variant: set(random_mixer(variant).state_dict()) for variant in VARIANTS}
    assert names["mamba"] == own | ends
    assert names["videomamba"] == own | ends | backward | {"A_b_log", "D_b"}
    assert names["paper"] == own | ends | backward | {"A_b_log"}
    assert names["released"] == own | ends | {"A_b_log"}


def test_initial_steps_are_log_uniform_between_a_thousandth_and_a_tenth():
    torch.manual_seed(0)
    mixer = MambaMixer(named_config("videomamba_tiny", d_model=512, depth=1))
    steps = torch.nn.functional.softplus(mixer.dt_proj.bias.detach())
    assert steps.min() >= 1e-3 * (1 - 1e-4)
    assert steps.max() <= 1e-1 * (1 + 1e-4)
    # The median of a log-uniform draw is the geometric mean of its ends; 1024 draws place it within 15 %.
    assert 0.0085 < steps.median() < 0.0115
    assert torch.equal(mixer.A_log.exp().round(), torch.arange(1.0, 17).expand(1024, 16))


def test_half_precision_keeps_steps_and_rates_in_float32():
    mixer = MambaMixer(named_config("videomamba_tiny", d_model=WIDTH, depth=1)).to(torch.bfloat16)
    forward, _ = mixer.directions(hidden_states().to(torch.bfloat16))
    assert forward.u.dtype == torch.bfloat16
    assert forward.delta.dtype == forward.A.dtype == torch.float32
    assert mixer(hidden_states().to(torch.bfloat16)).dtype == torch.bfloat16


def test_a_backend_can_be_named_and_an_unknown_one_is_refused():
    mixer, hidden = random_mixer("paper"), hidden_states()
    mixer.backend = "spec"
    by_spec = mixer(hidden)
    mixer.backend = "chunked"
    torch.testing.assert_close(mixer(hidden), by_spec, rtol=0, atol=1e-10)
    mixer.backend = "abacus"
    with pytest.raises(ValueError, match="abacus"):
        mixer(hidden)


@pytest.mark.parametrize("directions", ["both", "forward"])
def test_attention_is_the_softmax_written_out(directions):
    config = named_config(
        "videomamba_tiny", "attention", d_model=WIDTH, depth=1, num_heads=2, attention_width=10
    )
    config = type(config)(**(config.to_dict() | {"directions": directions}))
    torch.manual_seed(1)
    mixer, hidden = SelfAttentionMixer(config).double(), hidden_states()
    qkv, last = mixer.qkv.weight.detach().numpy(), mixer.out_proj.weight.detach().numpy()
    probabilities, values = mixer.probabilities(hidden), mixer.values(hidden)
    for b, tokens in enumerate(hidden.numpy()):
        query, key, value = np.split(tokens @ qkv.T, 3, axis=1)
        heads = []
        for h in range(2):
            part = slice(5 * h, 5 * h + 5)
            P = np.zeros((LENGTH, LENGTH))
            for i in range(LENGTH):
                seen = i + 1 if directions == "forward" else LENGTH
                weights = np.exp(key[:seen, part] @ query[i, part] / np.sqrt(5))
                P[i, :seen] = weights / weights.sum()
            np.testing.assert_allclose(probabilities[b, h].detach().numpy(), P, rtol=0, atol=1e-12)
            np.testing.assert_allclose(values[b, h].detach().numpy(), value[:, part], rtol=0, atol=1e-12)
            heads.append(P @ value[:, part])
        expected = np.concatenate(heads, axis=1) @ last.T
        np.testing.assert_allclose(mixer(hidden)[b].detach().numpy(), expected, rtol=0, atol=1e-12)
