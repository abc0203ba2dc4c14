"""Accuracy by variant and by condition: against loops over the rows, and where there is nothing to average."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics.accuracy import accuracy, accuracy_by_condition, left_chance
from experiments.statistics.bases import base_fields
from tests.experiments.made_tables import VARIANTS, Truth, grid_tables

TASKS = ("recall", "relation", "direction")
GRID = grid_tables(Truth(accuracy={"mask": 0.1}), tasks=TASKS, clips=60, layers=1)
CELLS, PREDICTIONS = GRID["cells"], GRID["predictions"]
SMALL = grid_tables(tasks=("recall", "relation"), frames=(4,), variants=("mask", "paper"), clips=20, layers=1)
BY_CONDITION = accuracy_by_condition(SMALL["cells"], SMALL["predictions"])


def test_mean_and_interval_are_those_of_the_seeds():
    table = accuracy(CELLS)
    assert len(table) == 3 * len(VARIANTS)
    assert list(table["variant"][:7]) == list(VARIANTS)
    assert list(table["task"].drop_duplicates()) == list(TASKS)
    for row in table.to_dict("records"):
        hits = [
            PREDICTIONS[PREDICTIONS["cell"] == cell.cell]["correct"].mean()
            for cell in CELLS.itertuples()
            if (cell.task, cell.variant) == (row["task"], row["variant"])
        ]
        assert row["mean"] == pytest.approx(np.mean(hits))
        low, high = stats.t.interval(0.95, 2, np.mean(hits), stats.sem(hits))
        assert [row["low"], row["high"]] == pytest.approx([max(low, 0), min(high, 1)])
        assert (row["n"], row["sd"]) == (3, pytest.approx(np.std(hits, ddof=1)))


def test_bases_are_what_cells_differ_in():
    assert base_fields(CELLS) == ["task", "frames", "class_token"]
    more = grid_tables(frames=(4, 8), variants=("videomamba", "paper"), clips=20, layers=1)["cells"]
    changed = more.assign(d_state=np.where(more["frames"] == 4, 8, 16))
    assert base_fields(changed) == ["task", "frames", "class_token", "d_state"]
    assert list(accuracy(changed)["n"]) == [3] * 8


def test_conditions_are_averaged_over_seeds():
    table = accuracy_by_condition(CELLS, PREDICTIONS)
    expected = {}
    for cell in CELLS.itertuples():
        rows = PREDICTIONS[PREDICTIONS["cell"] == cell.cell]
        for name in ("read_distance", "mediator", "gap", "source"):
            for level in rows[name].dropna().unique():
                hits = rows[rows[name] == level]["correct"]
                expected.setdefault((cell.task, cell.variant, name, str(level)), []).append(hits.mean())
    got = {
        (row["task"], row["variant"], row["condition"], row["level"]): (row["mean"], row["n"])
        for row in table.to_dict("records")
    }
    assert got.keys() == expected.keys()
    for key, values in expected.items():
        assert got[key] == (pytest.approx(np.mean(values)), len(values))
    distances = table[table["condition"] == "read_distance"]
    assert set(distances["read_direction"]) == {"backward"}
    assert "mamba" not in set(distances["variant"])  # It cannot read, and has no distance.
    assert list(distances["at"]) == [float(level) for level in distances["level"]]
    assert set(table[table["condition"] != "read_distance"]["read_direction"]) == {""}
    kinds = table[(table["condition"] == "mediator") & (table["variant"] == "mamba")]["level"]
    assert list(kinds) == ["neutral", "similar to one", "similar to both", "interleaved"]


@given(st.randoms(use_true_random=False))
def test_order_of_rows_changes_nothing(random):
    seed = random.randrange(2**32)
    cells, predictions = (SMALL[name].sample(frac=1, random_state=seed) for name in ("cells", "predictions"))
    pd.testing.assert_frame_equal(accuracy(cells), accuracy(SMALL["cells"]))
    pd.testing.assert_frame_equal(accuracy_by_condition(cells, predictions), BY_CONDITION)


def test_one_seed_has_no_interval_and_no_clips_no_rows():
    one = CELLS[CELLS["seed"] == 0]
    table = accuracy(one)
    assert table["low"].isna().all()
    assert set(table["note"]) == {"one seed: no interval"}
    nothing = accuracy_by_condition(one, PREDICTIONS[:0])
    assert nothing.empty
    assert list(nothing) == list(accuracy_by_condition(CELLS, PREDICTIONS))


def test_left_chance_is_told_by_the_binomial_distribution():
    table = left_chance(CELLS)
    mask = table.set_index(["task", "variant"]).loc[("relation", "mask")]
    hits = round(CELLS[(CELLS["task"] == "relation") & (CELLS["variant"] == "mask")]["accuracy"].sum() * 60)
    assert mask["p_value"] == pytest.approx(stats.binom.sf(hits - 1, 180, 0.5))
    assert list(table[~table["left"]]["variant"].unique()) == ["mask"]
    # Accuracy 0.7 is far above the chance of all three tasks.
    assert table[table["variant"] == "paper"]["left"].all()


def test_what_a_guess_without_the_mark_attains_is_not_above_chance():
    # 10 classes, 16 frames of 5 digits: the most frequent one is in 4 of them (experiments/data/recall.py).
    cells = pd.DataFrame(
        [("a", "mask", 0, 1000, 0.22), ("b", "paper", 0, 1000, 0.32)],
        columns=["cell", "variant", "seed", "n_test", "accuracy"],
    ).assign(task="recall", frames=16, class_token="first", chance=0.1, blind=0.25)
    assert left_chance(cells).set_index("variant")["left"].to_dict() == {"mask": False, "paper": True}
