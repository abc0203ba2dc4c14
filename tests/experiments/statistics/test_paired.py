"""Paired differences: hand counts, antisymmetry, coverage of the intervals, and what is absent."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics.intervals import holm
from experiments.statistics.paired import paired_differences
from tests.experiments.made_tables import Truth, grid_tables

VARIANTS = ("videomamba", "mask", "paper")
GRID = grid_tables(Truth(accuracy={"paper": 0.9}), variants=VARIANTS, clips=80, layers=1)
CELLS, PREDICTIONS = GRID["cells"], GRID["predictions"]
FEW = CELLS[CELLS["task"] == "recall"]
FEW_DIFFERENCES = paired_differences(FEW, PREDICTIONS, resamples=50)


def test_every_number_against_loops_over_the_rows():
    table = paired_differences(CELLS, PREDICTIONS)
    assert list(zip(table["task"], table["variant"], strict=True)) == [
        (task, variant) for task in ("recall", "relation") for variant in VARIANTS[1:]
    ]
    for row in table.to_dict("records"):
        differences, wins, losses = [], 0, 0
        for seed in range(3):
            hits = {}
            for name in ("videomamba", row["variant"]):
                cell = CELLS[(CELLS[["task", "variant", "seed"]] == [row["task"], name, seed]).all(axis=1)][
                    "cell"
                ]
                chosen = PREDICTIONS[PREDICTIONS["cell"] == cell.item()]
                hits[name] = dict(zip(chosen["clip"], chosen["correct"], strict=True))
            wins += sum(hit and not hits["videomamba"][clip] for clip, hit in hits[row["variant"]].items())
            losses += sum(not hit and hits["videomamba"][clip] for clip, hit in hits[row["variant"]].items())
            differences.append(
                sum(hits[row["variant"]].values()) / 80 - sum(hits["videomamba"].values()) / 80
            )
        assert row["difference"] == pytest.approx(np.mean(differences))
        assert (row["wins"], row["losses"], row["clips"], row["n"]) == (wins, losses, 240, 3)
        ends = stats.t.interval(0.95, 2, np.mean(differences), stats.sem(differences))
        assert (row["seed_low"], row["seed_high"]) == pytest.approx(ends)
        assert row["low"] < row["difference"] < row["high"]
    assert set(table["family"]) == {4}


def test_holm_by_hand():
    adjusted = holm(pd.Series([0.04, 0.01, np.nan, 0.03]))
    # In order 0.01, 0.03, 0.04: times 3, 2 and 1, and never below the one before.
    np.testing.assert_allclose(adjusted, [0.06, 0.03, np.nan, 0.06])
    assert holm(pd.Series([np.nan])).isna().all()
    assert holm(pd.Series([], dtype=float)).empty


def test_swapping_models_turns_the_sign():
    forward = paired_differences(CELLS, PREDICTIONS).set_index(["task", "variant"])
    backward = paired_differences(CELLS, PREDICTIONS, "paper").set_index(["task", "variant"])
    for task in ("recall", "relation"):
        one, other = forward.loc[(task, "paper")], backward.loc[(task, "videomamba")]
        assert one["difference"] == pytest.approx(-other["difference"])
        assert (one["wins"], one["losses"]) == (other["losses"], other["wins"])
        # The draws are the same, and percentiles are taken from both ends alike.
        assert one["low"] == pytest.approx(-other["high"])
        assert one["p_value"] == other["p_value"]


@given(st.randoms(use_true_random=False))
def test_order_of_rows_changes_nothing(random):
    seed = random.randrange(2**32)
    cells, predictions = (table.sample(frac=1, random_state=seed) for table in (FEW, PREDICTIONS))
    pd.testing.assert_frame_equal(paired_differences(cells, predictions, resamples=50), FEW_DIFFERENCES)


def test_each_seed_is_judged_on_clips_of_its_own_whatever_they_are_called():
    # Clips are named by their place, so that seeds share the names and not the clips.
    seeds = PREDICTIONS["cell"].map(CELLS.set_index("cell")["seed"])
    named = PREDICTIONS.assign(clip=seeds.astype(str) + "-" + PREDICTIONS["clip"])
    assert len(set(named["clip"])) == 3 * len(set(PREDICTIONS["clip"]))
    pd.testing.assert_frame_equal(
        paired_differences(CELLS, named), paired_differences(CELLS, PREDICTIONS), check_exact=True
    )


def simulated(rng, grids, seeds, clips, effect, seed_sd):
    """Tables of many grids, told apart by their frames: two variants whose accuracies differ over seeds by `effect`
    with standard deviation `seed_sd`."""
    cells, hits = [], []
    for grid in range(grids):
        for seed in range(seeds):
            gain = rng.normal(effect, seed_sd)
            for variant, right in (("videomamba", 0.5), ("mask", 0.5 + gain)):
                cells.append((f"{grid}-{seed}-{variant}", "recall", grid, "first", variant, seed))
                hits.append(rng.random(clips) < right)
    table = pd.DataFrame(cells, columns=["cell", "task", "frames", "class_token", "variant", "seed"])
    predictions = pd.DataFrame(
        {
            "cell": table["cell"].repeat(clips),
            "clip": np.tile(np.arange(clips), len(table)),
            "correct": np.concatenate(hits),
        }
    )
    return table, predictions


@pytest.mark.parametrize(("seeds", "clips", "seed_sd"), [(8, 60, 0.05), (3, 300, 0.15)])
def test_coverage(seeds, clips, seed_sd):
    """With many seeds both intervals cover; with three that differ, Student's does and the bootstrap does not."""
    rng = np.random.default_rng(seeds)
    table = paired_differences(*simulated(rng, 300, seeds, clips, 0.1, seed_sd), resamples=300)
    bootstrap, student = (
        ((table[low] <= 0.1) & (table[high] >= 0.1)).mean()
        for low, high in (("low", "high"), ("seed_low", "seed_high"))
    )
    # A share of 0.95 of 300 is within 0.92 and 0.98 but for 1 time in 100.
    assert 0.92 <= student <= 0.98
    if seeds == 8:
        assert bootstrap > 0.88
    else:
        # What the docstring says of three seeds.
        assert 0.65 < bootstrap < 0.85


def test_known_effect_and_known_null():
    table = paired_differences(CELLS, PREDICTIONS).set_index(["task", "variant"])
    for task in ("recall", "relation"):
        paper = table.loc[(task, "paper")]
        assert paper["low"] > 0
        assert paper["p_holm"] < 0.001
        assert table.loc[(task, "mask"), "p_holm"] > 0.05


def test_one_seed_and_seeds_without_a_partner():
    one = paired_differences(CELLS[CELLS["seed"] == 1], PREDICTIONS)
    assert set(one["note"]) == {"one seed: intervals over test clips alone"}
    assert one["seed_low"].isna().all()
    assert (one["low"] < one["high"]).all()
    lacking = CELLS[~((CELLS["variant"] == "videomamba") & (CELLS["seed"] == 2))]
    table = paired_differences(lacking, PREDICTIONS)
    assert set(table["note"]) == {"seeds without a partner: 2"}
    assert set(table["n"]) == {2}


def test_no_reference_no_rows_and_other_clips_are_refused():
    nothing = paired_differences(CELLS[CELLS["variant"] != "videomamba"], PREDICTIONS)
    assert nothing.empty
    assert list(nothing) == list(paired_differences(CELLS, PREDICTIONS, resamples=10))
    cell = CELLS["cell"][0]
    other = PREDICTIONS.assign(
        clip=PREDICTIONS["clip"].where(PREDICTIONS["cell"] != cell, PREDICTIONS["clip"] + "x")
    )
    with pytest.raises(ValueError, match=f"{cell}.*judged on different clips"):
        paired_differences(CELLS, other)
