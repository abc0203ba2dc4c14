"""Rank correlations of probes with accuracy: closed forms, counted permutations, known effects and known nulls."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics.association import GROUPS, cell_probes, rank_correlations
from tests.experiments.made_tables import Truth, grid_tables

VARIANTS = ("videomamba", "mask", "residual_initial", "residual_elemental", "paper", "attention")


FEW = {"resamples": 20, "permutations": 50}


def tables(accuracies, numbers, variants=VARIANTS, frames=None, tasks=None):
    """Cells and a probe's numbers: arrays (bases, seeds, variants); one layer, both directions.

    Bases are of recall with 8 frames, or of `tasks` and `frames`, which have a name and a number for each.
    """
    cells, probes = [], []
    for (b, s, v), value in np.ndenumerate(np.asarray(numbers, dtype=float)):
        cell = f"{b}-{s}-{v}"
        named = {"cell": cell, "task": tasks[b] if tasks else "recall", "frames": frames[b] if frames else 8}
        of = {"class_token": "first", "variant": variants[v], "seed": s, "accuracy": accuracies[b][s][v]}
        cells.append(named | of)
        sides = ("both j<=i", "both j>=i") if variants[v] == "attention" else ("forward", "backward")
        probes += [{"cell": cell, "direction": side, "value": value} for side in sides]
    about = {"trained": True, "probe": "decay", "layer": 0, "quantity": "decay_index_tokens"}
    return pd.DataFrame(cells), pd.DataFrame(probes).assign(**about, scope="contribution", unit="none")


def low_p_values(accuracies, numbers):
    """How many p-values of cells, and how many of variants, are below 0.05 where each base is a task of its own."""
    cells, probes = tables(accuracies, numbers, VARIANTS[:5], tasks=[f"{b:02d}" for b in range(len(numbers))])
    # In both directions the numbers are the same: one is enough.
    table = rank_correlations(cells, probes[probes["direction"] == "forward"], resamples=10, permutations=400)
    return (table[table["direction"] == "mean"][["p_value", "p_variants"]] < 0.05).sum()


def probes_of(grid, quantity):
    return grid["probes"][grid["probes"]["quantity"] == quantity]


def row(table, group=GROUPS[1]):
    return table[(table["group"] == group) & (table["direction"] == "mean")].iloc[0]


def test_one_block_is_spearmans_correlation_with_its_exact_p():
    accuracies, numbers = [[[0.9, 0.5, 0.7, 0.6, 0.3, 0.8]]], [[[3, 8, 5, 9, 11, 4]]]
    found = row(rank_correlations(*tables(accuracies, numbers)))
    expected = stats.spearmanr(accuracies[0][0], numbers[0][0]).statistic
    assert found["correlation"] == pytest.approx(expected)
    orders = [stats.spearmanr(order, numbers[0][0]).statistic for order in itertools.permutations(range(6))]
    exact = np.mean(np.abs(orders) >= abs(expected) - 1e-9)
    assert found["p_variants"] == pytest.approx(exact)
    # Of 20000 permutations, five standard deviations.
    assert found["p_value"] == pytest.approx(exact, abs=5 * np.sqrt(exact / 20_000) + 1e-4)
    assert (found["cells"], found["blocks"], found["variants"]) == (6, 1, 6)


def test_what_bases_and_seeds_share_is_taken_out():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(2, 3, 6))
    accuracies = 0.5 - 0.01 * numbers
    shifted = accuracies + np.array([0.0, 0.4])[:, None, None] + rng.uniform(0, 0.05, size=(2, 3, 1))
    found = row(
        rank_correlations(*tables(shifted, numbers + np.array([0, 50])[:, None, None], frames=(4, 8)))
    )
    assert found["correlation"] == pytest.approx(-1)
    assert found["high"] == pytest.approx(-1)
    assert found["blocks"] == 6


@given(st.integers(0, 2**32 - 1))
def test_monotone_changes_and_order_change_nothing_and_a_turned_sign_turns_it(seed):
    rng = np.random.default_rng(seed)
    accuracies, numbers = rng.random((1, 2, 4)), rng.random((1, 2, 4))
    cells, probes = tables(accuracies, numbers, VARIANTS[:4])
    found = rank_correlations(cells, probes, **FEW)
    bent = probes.assign(value=np.exp(5 * probes["value"]))
    shuffled = (table.sample(frac=1, random_state=seed) for table in (cells, bent))
    pd.testing.assert_frame_equal(rank_correlations(*shuffled, **FEW), found)
    turned = rank_correlations(cells, probes.assign(value=-probes["value"]), **FEW)
    np.testing.assert_allclose(turned["correlation"], -found["correlation"])
    np.testing.assert_allclose(turned["p_variants"], found["p_variants"])


def test_a_known_effect_is_found_and_a_null_is_not():
    # Of 40 nulls 2 are expected below 0.05, and more than 7 but once in 1000.
    assert low_p_values(*np.random.default_rng(1).random((2, 40, 3, 5))).max() <= 7
    decay = {(v, "decay_index_tokens"): 0.1 * k for k, v in enumerate(VARIANTS)}
    better = {v: 0.8 - 0.08 * k for k, v in enumerate(VARIANTS)}
    grid = grid_tables(Truth(accuracy=better, probes=decay), variants=VARIANTS, tasks=("recall",), layers=1)
    table = rank_correlations(grid["cells"], grid["probes"], resamples=200, permutations=2000)
    effect = row(table[table["quantity"] == "decay_index_tokens"])
    assert effect["high"] < -0.5
    assert effect["p_variants"] < 0.01
    assert effect["p_holm"] < 0.05
    assert set(table["family"]) == {len(table)}


def test_dependent_cells_of_a_variant_deceive_the_permutation_of_cells_alone():
    """Accuracy and probe are each the variant's, with nothing to do with each other."""
    orders = np.random.default_rng(2).permuted(np.tile(np.arange(5.0), (2, 40, 1, 1)), axis=-1)
    low = low_p_values(*np.tile(orders, (5, 1)))
    assert low["p_value"] > 13
    assert low["p_variants"] <= 7


def test_gaps_are_left_out_and_said():
    accuracies, numbers = np.random.default_rng(3).random((2, 1, 2, 4))
    cells, probes = tables(accuracies, numbers, VARIANTS[:4])
    lacking = probes.assign(value=probes["value"].where(probes["cell"] != "0-0-0"))
    assert row(rank_correlations(cells, lacking, **FEW), GROUPS[0])["cells"] == 7
    assert rank_correlations(cells, probes.assign(value=np.nan)).empty
    flat = row(rank_correlations(cells, probes.assign(value=1.0), **FEW), GROUPS[0])
    assert np.isnan(flat["correlation"])
    assert flat["note"] == "the probe or the accuracy never varies within a base and seed"
    # A half-life beyond the sequence ranks above all others.
    beyond, top = (
        rank_correlations(
            cells, probes.assign(value=probes["value"].where(probes["cell"] != "0-0-0", value)), **FEW
        )
        for value in (np.inf, 99)
    )
    pd.testing.assert_frame_equal(beyond, top)
    one = cells["variant"] == "mask"
    alone = row(rank_correlations(cells[one], probes, **FEW), GROUPS[0])
    assert (alone["blocks"], np.isnan(alone["p_value"])) == (0, True)


def test_an_interval_that_many_draws_leave_undefined_is_not_given():
    numbers = [[[1.0, 1.0, 1.0, 2.0]]]
    found = row(rank_correlations(*tables([[[0.4, 0.2, 0.5, 0.6]]], numbers, VARIANTS[:4])), GROUPS[0])
    # A number that one of four cells alone has: drawn nowhere, or only, in 0.75^4 + 0.25^4 = 32 % of draws.
    told = re.fullmatch(r"no interval: undefined in (.*) % of resamples", found["note"])
    assert float(told[1]) == pytest.approx(32, abs=5)
    assert np.isfinite(found["correlation"])
    assert np.isnan([found["low"], found["high"]]).all()


def test_self_attention_is_put_to_accuracy_by_whole_rows_where_it_has_no_sides():
    grid = grid_tables(tasks=("relation",), layers=1, clips=20)
    mass = row(rank_correlations(grid["cells"], probes_of(grid, "contradictory_mass"), **FEW))
    assert mass["variants"] == 6  # forward-only Mamba cannot read, with the class token first


def test_forward_mamba_with_the_class_token_first_is_left_out():
    variants, tokens = ("mamba", "videomamba", "mask"), ("first", "none")
    grid = grid_tables(tasks=("recall",), variants=variants, class_tokens=tokens, layers=1, clips=20)
    table = rank_correlations(grid["cells"], probes_of(grid, "decay_index_tokens"), **FEW)
    counts = table.set_index("direction")["cells"]
    # 3 seeds: 2 variants with the class token, 3 with pooling; of those, forward-only Mamba has no backward scan.
    assert counts.to_dict() == {"backward": 12, "forward": 15, "mean": 15}


def test_numbers_of_a_cell_are_means_over_layers_and_directions():
    rows = [
        ("a", 0, "forward", 1.0),
        ("a", 1, "forward", 3.0),
        ("a", 0, "backward", 5.0),
        ("a", 1, "backward", None),
    ]
    rows += [("b", 0, "both", 7.0), ("b", 0, "both j<=i", 2.0), ("b", 0, "both j>=i", 4.0)]
    rows += [
        ("c", 0, "both", 6.0),
        ("c", 1, "both", 8.0),
    ]  # as contradictory mass of self-attention: no sides
    probes = pd.DataFrame(rows, columns=["cell", "layer", "direction", "value"]).assign(
        trained=True, probe="decay", scope="contribution", quantity="decay_index_tokens", unit="none"
    )
    found = cell_probes(probes).set_index(["cell", "direction"])["value"].to_dict()
    a = {("a", "forward"): 2.0, ("a", "backward"): 5.0, ("a", "mean"): 3.5}
    b = {("b", "both"): 7.0, ("b", "forward"): 2.0, ("b", "backward"): 4.0, ("b", "mean"): 3.0}
    assert found == a | b | {("c", "both"): 7.0, ("c", "mean"): 7.0}
    assert cell_probes(probes, trained=False).empty
