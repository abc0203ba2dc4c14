"""The mixers against loops written out here from math.md, in float64."""

import numpy as np
import pytest
import torch

from vmp.attention import SelfAttentionMixer
from vmp.config import named_config
from vmp.mixer import MambaMixer

WIDTH, STATES, LENGTH, BATCH = 6, 3, 9, 2

# What each variant computes, written out again: mask, residual, what is scanned, first masked step, own D and
# own projections in the backward direction.
VARIANTS = {
    "mamba": None,
    "videomamba": ("keep", "none", "convolved", "carry", "D_b", "_b"),
    "mask": ("mask", "none", "convolved", "carry", "D_b", "_b"),
    "residual_initial": ("keep", "initial", "convolved", "carry", "D_b", "_b"),
    "residual_elemental": ("keep", "elemental", "convolved", "carry", "D_b", "_b"),
    "paper": ("mask", "elemental", "convolved", "carry", None, "_b"),
    "released": ("mask", "initial", "projected", "skip_only", "D", ""),
}
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


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def silu(value):
    return value * sigmoid(value)


def scanned(u, delta, A, B, C, D, residual, masked, first_step):
    """The recurrence of math.md, section 1, a channel and a state at a time."""
    length, channels = u.shape
    out = np.zeros_like(u)
    for d in range(channels):
        h = np.zeros(A.shape[1])
        if residual == "initial":
            h += u[0, d]
        for t in range(length):
            decayed = np.exp(delta[t, d] * A[d]) * (h + (u[t, d] if residual == "elemental" else 0))
            carried = np.exp(delta[t, d] * A[d]) * h
            h = decayed + delta[t, d] * B[t] * u[t, d]
            seen = carried if masked else h
            if masked and first_step == "skip_only" and t == 0:
                seen = np.zeros_like(h)
            out[t, d] = C[t] @ seen + (0 if D is None else D[d]) * u[t, d]
    return out


def one_direction(weights, x, z, own, rates, D, residual, masked, scan_input, first_step):
    """One direction's gated output for x and z (L, D), running from the first row."""
    length = x.shape[0]
    kernel = weights[f"conv1d{own}.weight"][:, 0]
    v = np.zeros_like(x) + weights.get(f"conv1d{own}.bias", 0)
    for i in range(length):
        for w in range(kernel.shape[1]):
            j = i - (kernel.shape[1] - 1) + w
            if j >= 0:
                v[i] += kernel[:, w] * x[j]
    active = silu(v)
    projected = active @ weights[f"x_proj{own}.weight"].T
    rank = projected.shape[1] - 2 * STATES
    raw = projected[:, :rank] @ weights[f"dt_proj{own}.weight"].T + weights[f"dt_proj{own}.bias"]
    B, C = projected[:, rank : rank + STATES], projected[:, rank + STATES :]
    u = active if scan_input == "convolved" else x
    return (u, np.log1p(np.exp(raw)), -np.exp(rates), B, C, D), silu(z), (residual, masked, first_step)


def reference(mixer, hidden, backward, residual_forward, scan_input):
    """The mixer's output for one sample (L, M). `backward` is a row of VARIANTS."""
    weights = {name: value.detach().numpy() for name, value in mixer.named_parameters()}
    both = hidden @ weights["in_proj.weight"].T + weights.get("in_proj.bias", 0)
    x, z = np.split(both, 2, axis=1)
    terms, gate, options = one_direction(
        weights, x, z, "", weights["A_log"], weights["D"], residual_forward, False, scan_input, "carry"
    )
    total = scanned(*terms, *options) * gate
    if backward is not None:
        mask, residual, scan_input, first_step, skip, own = backward
        D = weights[skip] if skip else None
        arguments = (weights["A_b_log"], D, residual, mask == "mask", scan_input, first_step)
        if own == "_b":
            terms, gate, options = one_direction(weights, x[::-1], z[::-1], own, *arguments)
            total = total + (scanned(*terms, *options) * gate)[::-1]
        else:
            # The convolution runs once, forward; the scan alone turns round.
            (u, delta, A, B, C, D), gate, options = one_direction(weights, x, z, own, *arguments)
            turned = scanned(u[::-1], delta[::-1], A, B[::-1], C[::-1], D, *options)
            total = total + turned[::-1] * gate
    if mixer.config.halve_output:
        total = total / 2
    out = total @ weights["out_proj.weight"].T + weights.get("out_proj.bias", 0)
    return out * weights.get("gamma", 1)


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


CASES = [(variant, {}, row) for variant, row in VARIANTS.items()] + SWITCHES


@pytest.mark.parametrize(("variant", "fields", "backward"), CASES)
def test_the_mixer_is_the_equations_written_out(variant, fields, backward):
    mixer, hidden = random_mixer(variant, **fields), hidden_states()
    residual, scan_input = ("none", "convolved") if backward is None else (backward[1], backward[2])
    expected = np.stack([reference(mixer, row, backward, residual, scan_input) for row in hidden.numpy()])
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
    row = VARIANTS[variant]
    residual, scan_input = ("none", "convolved") if row is None else (row[1], row[2])
    expected = np.stack([reference(mixer, item, row, residual, scan_input) for item in hidden.numpy()])
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
