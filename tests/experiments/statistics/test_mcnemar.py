"""McNemar's test: tables counted by hand, closed forms, files that experiments.evaluate wrote, bad input."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.evaluate import Evaluation, write_predictions
from experiments.statistics.__main__ import app
from experiments.statistics.mcnemar import mcnemar, mcnemar_counts
from tests.experiments.commands import assert_refused, run_command


def hits(both, one, other, neither):
    parts = (
        [(True, True)] * both + [(True, False)] * one + [(False, True)] * other + [(False, False)] * neither
    )
    return tuple(np.array(column, dtype=bool) for column in zip(*parts, strict=True))


def test_few_discordant_pairs_are_binomial():
    found = mcnemar_counts(*hits(5, 2, 9, 4))
    assert (found.both, found.only_one, found.only_other, found.neither) == (5, 2, 9, 4)
    assert found.exact
    assert found.p_value == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert found.difference == (2 - 9) / 20


def test_many_are_chi_square_with_correction():
    found = mcnemar_counts(*hits(50, 30, 12, 8))
    assert not found.exact
    assert found.statistic == pytest.approx((30 - 12 - 1) ** 2 / 42)
    assert found.p_value == pytest.approx(stats.chi2.sf((30 - 12 - 1) ** 2 / 42, 1))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80), st.randoms())
def test_swapping_models_swaps_counts_and_order_is_nothing(pairs, random):
    one, other = (np.array(column) for column in zip(*pairs, strict=True))
    found, swapped = mcnemar_counts(one, other), mcnemar_counts(other, one)
    assert (found.only_one, found.p_value) == (swapped.only_other, swapped.p_value)
    assert found.difference == -swapped.difference
    order = random.sample(range(len(pairs)), len(pairs))
    assert mcnemar_counts(one[order], other[order]) == found


def test_no_difference_rejects_as_often_as_it_says():
    rng = np.random.default_rng(0)
    p_values = [mcnemar_counts(*(rng.random((2, 300)) < 0.7)).p_value for _ in range(400)]
    # Discreteness and the correction make the test shy, never bold.
    assert np.mean(np.array(p_values) < 0.05) < 0.06
    rng = np.random.default_rng(1)
    better = [mcnemar_counts(rng.random(300) < 0.85, rng.random(300) < 0.7).p_value for _ in range(50)]
    assert np.mean(np.array(better) < 0.05) > 0.9


def evaluation(predictions):
    """An Evaluation of five clips, labelled 0, 1, 1, 2, 2, with these predictions."""
    logits = np.eye(3)[list(predictions)]
    return Evaluation(tuple("vwxyz"), np.array([0, 1, 1, 2, 2]), logits, ("01", "02", "NA"))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_files_that_evaluate_wrote(tmp_path, ending):
    one, other = tmp_path / f"one.{ending}", tmp_path / f"other.{ending}"
    write_predictions(evaluation((0, 1, 0, 2, 1)).table(), one)
    write_predictions(evaluation((0, 0, 1, 2, 2)).table().iloc[::-1], other)
    found = mcnemar(one, other)
    assert (found.both, found.only_one, found.only_other, found.neither) == (2, 1, 2, 0)
    result = run_command(app, one, other)
    assert result.exit_code == 0, result
    expected = "-20.0 points on 5 clips: 1 told right by the first alone, 2 by the second alone; McNemar p = 1 (exact)"
    assert result.stdout.strip() == expected


def test_bad_files_are_one_line(tmp_path):
    table = evaluation((0, 1, 1, 2, 2)).table()
    good = tmp_path / "good.csv"
    write_predictions(table, good)
    wrong = {
        "lacks": (table.drop(columns="correct"), "there is no column 'correct'"),
        "other": (table.assign(clip=list("vwxyq")), "clips differ: 1 of "),
        "twice": (table.assign(clip=list("vvxyz")), "clip 'v' is there twice"),
        "label": (
            table.assign(label=["02", *table["label"][1:]]),
            "labels differ on 1 clips: 'v' is '01' in ",
        ),
        "maybe": (table.assign(correct="perhaps"), "holds what is neither True nor False"),
        "empty": (table[:0], "clips differ: 5 of "),
    }
    for name, (content, message) in wrong.items():
        write_predictions(content, tmp_path / f"{name}.csv")
        assert_refused(run_command(app, good, tmp_path / f"{name}.csv"), message)
    (tmp_path / "bytes.parquet").write_bytes(b"not parquet")
    (tmp_path / "nothing.csv").write_bytes(b"")
    for name, message in (
        ("absent.csv", "absent.csv: cannot be read: No such file"),
        ("bytes.parquet", "bytes.parquet: not a table of predictions"),
        ("nothing.csv", "nothing.csv: not a table of predictions"),
    ):
        assert_refused(run_command(app, good, tmp_path / name), message)


def test_no_clips_at_all():
    nothing = pd.DataFrame({"clip": [], "label": [], "correct": []})
    with pytest.raises(ValueError, match="the first table: there are no clips"):
        mcnemar(nothing, nothing)
