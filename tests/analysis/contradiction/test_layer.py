"""Each measure on a real layer against its definition in loops, for every variant, direction and scope."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import probe
from analysis.capture import AttentionCapture, Capture, layer_inputs
from analysis.contradiction import Contradiction
from analysis.contradiction.entries import entries, logits
from analysis.contradiction.layer import Sensitivity, direction_mass, measure_layer, replacements, substitute
from analysis.contradiction.metrics import cosine
from analysis.contradiction.rank import block_rank
from analysis.contradiction.triples import draw_mediators, draw_triples
from analysis.inputs import Sample
from analysis.matrix.scopes import SCOPES, scoped
from analysis.measure import SiteRun
from tests.analysis import test_families as families
from tests.analysis.contradiction import naive
from tests.analysis.models import VARIANTS, clip, video_model
from vmp.layout import TokenLayout

CASES = {
    **{variant: {"variant": variant} for variant in VARIANTS},
    "one state": {"variant": "videomamba", "d_state": 1},
    "shared and convolved": {"variant": "paper", "shared_projections": True},
    "vim": {"variant": "videomamba", "halve_output": True, "class_token": "middle"},
    "attention": {"variant": "attention", "num_heads": 2, "attention_width": 8},
    "causal attention": {"variant": "attention", "directions": "forward", "num_heads": 2},
}
LENGTH = 13


def site_of(model, tokens, direction=None, scopes=SCOPES):
    """The input of layer 1, or of one of the attentions that it is divided into."""
    with torch.no_grad():
        inputs = layer_inputs(model, tokens[None], [1])[1]
        hidden, given = next(found for found in inputs if found[1] in (None, direction))
        return SiteRun(model, Sample(tokens, "clip"), 1, hidden, given, scopes, (1,), None, None)


def layer_of(scopes=SCOPES, weights=0, **fields):
    return site_of(video_model(weights=weights, **fields), clip(batch=1)[0], scopes=scopes)


def measured(layer, mediators, seed=0):
    with torch.no_grad():
        return measure_layer(layer, mediators, np.random.default_rng(seed))


@pytest.fixture(scope="module", params=CASES)
def layer(request):
    return layer_of(**CASES[request.param])


def test_entries_are_those_of_the_matrix(layer):
    rows, columns = (torch.from_numpy(x) for x in np.tril_indices(LENGTH))
    for capture in layer.captures:
        found = entries(capture, SCOPES, rows, columns)
        for scope in SCOPES:
            M = naive.matrix(capture, scope)[:, rows, columns]
            got = (found[scope].sign * found[scope].log.exp()).numpy()
            assert got == pytest.approx(M, rel=1e-9, abs=1e-13 * np.abs(M).max())


def test_mediator_sensitivity_is_that_of_the_layer_run_again(layer):
    rng = np.random.default_rng(0)
    margin = layer.captures[0].reach
    places = draw_mediators(LENGTH, margin, 4, rng)
    steps = [LENGTH - 1 - places if c.reversed else places for c in layer.captures]
    triples = [draw_triples(LENGTH, margin, at, 3, rng) for at in steps]
    sensitivity = Sensitivity(layer.captures, SCOPES, triples)
    changed = {}
    for place in places.tolist():
        changed[place] = layer.run(substitute(layer.hidden, place, (place + 5) % LENGTH))
        sensitivity.replaced(place, changed[place])
    for which, (capture, drawn) in enumerate(zip(layer.captures, triples, strict=True)):
        reverse = capture.reversed
        for scope in SCOPES:
            before = naive.matrix(capture, scope)
            after = {place: naive.matrix(c[which], scope) for place, c in changed.items()}
            sums = {"mediator_sensitivity": 0.0, "mediator_relative": 0.0}
            weights = dict.fromkeys(sums, 0.0)
            for p in range(len(drawn.row)):
                i, j, k, other = (int(x[p]) for x in (drawn.row, drawn.mediator, drawn.column, drawn.other))
                now = after[LENGTH - 1 - j if reverse else j]
                for c in range(len(before)):
                    change = naive.log_change(before[c, i, k], now[c, i, k])
                    sums["mediator_sensitivity"] += drawn.weight[p] * abs(change)
                    weights["mediator_sensitivity"] += drawn.weight[p]
                    if before[c, i, other] != 0:
                        of_other = naive.log_change(before[c, i, other], now[c, i, other])
                        sums["mediator_relative"] += drawn.weight[p] * abs(change - of_other)
                        weights["mediator_relative"] += drawn.weight[p]
            found = sensitivity.values(capture, scope, drawn)
            for name, total in sums.items():
                assert found[name] == pytest.approx(float(total / weights[name]), rel=1e-6, abs=1e-10), name


def test_out_of_reach_no_term_of_either_token_moves_and_one_nearer_some_does(layer):
    place = 6
    changed = layer.run(substitute(layer.hidden, place, 1))
    for before, after in zip(layer.captures, changed, strict=True):
        if isinstance(before, AttentionCapture):
            assert moved(before.k, after.k, -2) | moved(before.v, after.v, -2) == {place}
            assert before.reach == 1
            continue
        far, back = before.reach, before.terms.conv_reversed
        terms = set().union(
            *(moved(getattr(before.terms, n), getattr(after.terms, n), -1) for n in ("delta", "B", "C"))
        )
        # A convolution carries the change to as many tokens as it is wide, the token itself among them.
        assert terms == set(range(place - far + 1, place + 1) if back else range(place, place + far))
        assert moved(before.terms.z, after.terms.z, -1) == moved(before.terms.x, after.terms.x, -1) == {place}
        # In the wider scopes a column gathers the tokens that its taps end in: of the nearest column that is allowed,
        # those up to the mediator's neighbour where the convolution runs with the scan.
        j = LENGTH - 1 - place if before.terms.reverse else place
        sources = range(j - far, j) if back == before.terms.reverse else range(j - 2 * far + 1, j - far + 1)
        at = {LENGTH - 1 - s if before.terms.reverse else s for s in sources}
        assert not at & moved(before.terms.conv_slope(), after.terms.conv_slope(), -1)


def moved(before, after, axis):
    """Positions along an axis at which anything differs."""
    changed = (before != after).movedim(axis, 0).flatten(1).any(1)
    return set(changed.nonzero().flatten().tolist())


def test_transitivity_and_rank_and_mass_are_their_definitions(layer):
    similarity = cosine(layer.hidden[0])
    found = measured(layer, 4, seed=3)
    # The transitivity residual's triples come third from the generator.
    rng = np.random.default_rng(3)
    margin = layer.captures[0].reach
    places = draw_mediators(LENGTH, margin, 4, rng)
    rng.integers(1, LENGTH, len(places))
    for capture in layer.captures:
        at = LENGTH - 1 - places if capture.reversed else places
        draw_triples(LENGTH, margin, at, 4, rng)
    drawn = draw_triples(LENGTH, 1, draw_mediators(LENGTH, 1, 4, rng), 4, rng)
    for capture in layer.captures:
        for scope in SCOPES:
            got = found[capture.direction, scope]
            M = naive.matrix(capture, scope)
            triples = zip(drawn.row.tolist(), drawn.mediator.tolist(), drawn.column.tolist(), strict=True)
            each = np.array([naive.residual(M, *triple) for triple in triples])
            weight = np.where(np.isnan(each), 0, drawn.weight.numpy()[:, None])
            mean = (np.nan_to_num(each) * weight).sum() / weight.sum()
            assert got["transitivity_residual"] == pytest.approx(mean, rel=1e-6, abs=1e-9)
            m = LENGTH // 2
            ranks = [naive.effective_rank(block) for block in M[:16, m:, :m]]
            if scope == "mixer" and not isinstance(capture, Capture):
                ranks = [naive.effective_rank(block) for block in M[:, m:, :m]]
            W, mass = direction_mass(capture, scope, similarity)
            rank = block_rank(capture, scope, W)
            assert rank.ranks[:16] == pytest.approx(ranks[: len(rank.ranks)], rel=1e-6)
            assert got["block_rank"] == pytest.approx(rank.ranks.mean())
            sees = capture.operator().sees(slice(0, LENGTH)) if scope == "ssm" else None
            if sees is not None:
                observed, expected = naive.mass(W, sees.numpy() & (W.sum(1) > 0)[:, None], similarity)
                assert mass.observed == pytest.approx(observed, rel=1e-9)
                assert mass.expected == pytest.approx(expected, rel=1e-6)


def test_the_rank_is_bounded_by_states_and_taps(layer):
    for capture in layer.captures:
        for scope in SCOPES:
            W, _ = direction_mass(capture, scope, cosine(layer.hidden[0]))
            rank = block_rank(capture, scope, W)
            if not isinstance(capture, Capture) or scope == "contribution":
                assert rank.bound is None
                continue
            aligned = (
                capture.terms.conv_reversed == capture.terms.reverse
                and capture.terms.scan_input == "convolved"
            )
            taps = capture.terms.conv_weight.shape[1] - 1 if scope == "mixer" and aligned else 0
            m = LENGTH // 2
            assert rank.bound == min(capture.terms.A.shape[1] + taps, m)
            block = naive.matrix(capture, scope)[:, m:, :m]
            assert np.linalg.matrix_rank(block, tol=1e-12 * np.abs(block).max()).max() <= rank.bound
            assert (rank.ranks <= rank.bound + 1e-9).all()


def test_the_seed_decides():
    layer = layer_of(("ssm",), variant="paper")
    first, again, other = (
        measured(layer, 4, seed)["forward", "ssm"]["mediator_by_lag"] for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again, equal_nan=True)
    assert not np.array_equal(first, other, equal_nan=True)


@pytest.mark.parametrize("states", [1, 4])
def test_one_state_is_transitive_and_of_rank_one_and_more_states_are_not(states):
    found = measured(layer_of(("ssm",), weights=1, variant="videomamba", d_state=states), 6)
    assert len(found) == 2
    for values in found.values():
        assert values["mediator_sensitivity"] > 1e-3  # Far above rounding in float64.
        if states == 1:
            assert values["transitivity_residual"] < 1e-12
            assert values["block_rank"] == pytest.approx(1)
        else:
            assert values["transitivity_residual"] > 0.01


def test_a_mask_makes_the_residual_1_and_what_is_before_it_is_that_of_the_plain_scan():
    masked, plain = (layer_of(("ssm",), variant=variant) for variant in ("mask", "videomamba"))
    masked.model.load_state_dict(plain.model.state_dict())
    one, other = (measured(replace(x, hidden=plain.hidden), 4)["backward", "ssm"] for x in (masked, plain))
    assert one["transitivity_residual"] == pytest.approx(1, abs=1e-12)
    assert one["transitivity_unmasked"] == other["transitivity_residual"]
    assert one["mediator_sensitivity"] == other["mediator_sensitivity"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_logits_do_not_move_at_all_and_a_row_moves_as_one(dtype):
    layer = layer_of(**CASES["attention"])
    layer.model.to(dtype)
    hidden = layer.hidden.to(dtype)
    (before,) = layer.run(hidden)
    (after,) = layer.run(substitute(hidden, 5, 9))
    keys = torch.tensor([k for k in range(LENGTH) if k not in (2, 5)])
    rows = torch.full_like(keys, 2)
    assert torch.equal(logits(before, rows, keys), logits(after, rows, keys))
    log_p = [entries(capture, ["ssm"], rows, keys)["ssm"].log for capture in (before, after)]
    shift = log_p[1] - log_p[0]
    assert (shift.abs() > 1e-4).all()
    assert (shift - shift[:, :1]).abs().max() < 1e-12
    own = torch.tensor([5])
    assert not torch.equal(logits(before, rows[:1], own), logits(after, rows[:1], own))


@pytest.mark.parametrize(
    ("model", "directions"),
    [
        (lambda: families.videomae(), {"both"}),
        (lambda: families.timesformer("divided_space_time", num_frames=5), {"time", "space"}),
        (lambda: families.mamba(), {"forward"}),
    ],
)
def test_models_of_others_are_probed_alike(model, directions):
    model = model()
    frames = 5 if "time" in directions else 4
    tokens = torch.arange(20) % 11 if directions == {"forward"} else families.pixels(frames, batch=1)[0]
    result = probe(model, [tokens], [Contradiction(mediators=6)], layers=[1])
    assert set(result.directions("contradiction")) == directions
    for direction in directions:
        found = {name: result.number(name, 1, direction, "ssm").value for name in Contradiction.quantities
                 if Contradiction.quantities[name].is_number}  # fmt: skip
        assert found["mediator_sensitivity"] > 0
        assert np.isfinite(found["contradictory_share"])
        if directions != {"forward"}:
            assert found["mediator_logits"] == 0
            assert found["mediator_relative"] < 1e-12


@pytest.mark.parametrize("direction", ["time", "space"])
def test_what_replaces_a_mediator_is_a_token_of_the_clip(direction):
    layer = site_of(families.timesformer("divided_space_time"), families.pixels(3, batch=1)[0], direction)
    (capture,) = layer.captures
    # Attention over time leaves the class token out: what stands in its place is no token.
    assert bool((layer.hidden[0, 0] == 0).all()) == (direction == "time")
    places, met = np.arange(1, 12), set()
    for seed in range(60):
        others = replacements(capture, places, np.random.default_rng(seed))
        assert (others != places).all()
        met |= set(others.tolist())
    assert met == set(range(1 if direction == "time" else 0, 13))


def test_a_class_row_that_is_a_mean_of_softmaxes_is_read_as_one():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, 3, dtype=torch.float64, generator=g) for _ in range(3))
    frame = torch.tensor([-1, 0, 0, 0, 0, 1, 1, 1, 1])
    capture = AttentionCapture(
        layer=0,
        direction="space",
        q=q,
        k=k,
        v=v,
        scale=0.6,
        allowed=(frame[:, None] == frame) | (frame == -1),
        layout=TokenLayout.video(2, (2, 2), "first"),
        hidden=torch.zeros(1, 9, 6, dtype=torch.float64),
        out_weight=torch.randn(6, 6, dtype=torch.float64, generator=g),
        out_bias=None,
        class_sets=torch.stack([(frame == t) | (frame == -1) for t in (0, 1)]),
    )
    rows, columns = (x.flatten() for x in torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij"))
    for scope in ("ssm", "mixer"):
        found = entries(capture, [scope], rows, columns)[scope]
        expected = scoped(capture, scope).dense()[0].flatten(1)
        torch.testing.assert_close(found.sign * found.log.exp(), expected, rtol=0, atol=1e-14)


def test_a_relation_below_the_smallest_number_is_still_compared():
    layer = layer_of(variant="videomamba")
    forward = layer.captures[0]
    slow = replace(forward, terms=replace(forward.terms, delta=200 + forward.terms.delta))
    i, k = torch.tensor([12]), torch.tensor([0])
    assert (slow.operator().tile(slice(12, 13), slice(0, 1)) == 0).any()
    found = entries(slow, ["ssm"], i, k)["ssm"].log[:, 0]
    A, delta = slow.terms.A, slow.terms.delta[0]
    elapsed = delta[:, 1:].sum(-1)
    for d in range(len(A)):
        above = (A[d] - A[d].max()) * elapsed[d]
        near = above.abs() < 40  # The others are smaller by e^-100 and more.
        terms = slow.terms.C[0, :, 12] * delta[d, 0] * slow.terms.B[0, :, 0]
        expected = (terms * above.exp())[near].sum().abs().log() + A[d].max() * elapsed[d]
        assert float(found[d]) == pytest.approx(float(expected), rel=1e-9)
