"""Verdicts on tables drawn from known effects: how a statement can fall, and what every sentence must hold."""

import dataclasses
import functools
import importlib.util
import re
import shlex

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.main import get_command

from experiments.report.effects import EFFECTS, mediator_costs, slopes
from experiments.report.judgement import FAILS, HOLDS, UNTOLD, judge, judgement_table
from experiments.report.statements import GAINS, STATEMENTS
from experiments.report.untested import UNTESTED
from experiments.statistics.association import rank_correlations
from experiments.train import RECIPES
from tests.experiments.made_tables import VARIANTS, Truth, grid_tables

KNOWN = Truth(
    base=0.75,
    accuracy={"paper": 0.85, "attention": 0.9, "mask": 0.5, "residual_initial": 0.01},
    slope={"videomamba": -0.06},
    mediators={("videomamba", "similar to both"): -0.3, ("videomamba", "similar to one"): -0.3},
    probes={
        ("paper", "decay_index_tokens"): -0.2,
        ("attention", "decay_index_tokens"): -0.3,
        ("paper", "contradictory_mass"): 0.1,
    },
)


def judged(truth=KNOWN, **options):
    grid = grid_tables(truth, **{"class_tokens": ("first", "none"), "layers": 1, **options})
    associated = [statement.association[1] for statement in STATEMENTS if statement.association]
    probes = grid["probes"][grid["probes"]["quantity"].isin(associated)]
    correlations = rank_correlations(grid["cells"], probes, resamples=50, permutations=50)
    return grid, {verdict.statement.id: verdict for verdict in judge(grid, correlations)}


def judged_alone(name, grid):
    """The judgement of one statement that is about no correlation."""
    (found,) = judge(grid, pd.DataFrame(), [statement for statement in STATEMENTS if statement.id == name])
    return found


@functools.cache
def known():
    """The tables of KNOWN at five seeds, and their verdicts."""
    return judged(seeds=5)


def test_known_effects_are_told_with_their_sign():
    _, verdicts = known()
    expected = {
        "both-help": HOLDS,
        "attention-better": HOLDS,
        "released-residual-helps": UNTOLD,
        "mamba-decays": HOLDS,
        "vmp-decays-less": HOLDS,
        "double-diagonal": UNTOLD,
        "distance-costs": HOLDS,
        "distance-costs-more": HOLDS,
        "vmp-recalls-further": HOLDS,
        "mediators-cost": HOLDS,
        "mediators-cost-more": HOLDS,
        "contradiction": HOLDS,
        "vmp-contradicts-less": FAILS,
    }
    assert {name: verdicts[name].verdict for name in expected} == expected


def test_a_difference_is_the_mean_over_bases_with_welchs_interval():
    grid, verdicts = known()
    cells = grid["cells"].pivot(index=["task", "class_token", "seed"], columns="variant", values="accuracy")
    differences = (cells["paper"] - cells["videomamba"]).groupby(["task", "class_token"])
    mean = differences.mean().mean()
    squared = differences.var() / 5
    df = squared.sum() ** 2 / (squared**2 / 4).sum()
    reach = stats.t.ppf(0.975, df) * np.sqrt(squared.sum()) / 4
    found = verdicts["both-help"]
    assert (found.value, found.low, found.high) == pytest.approx((mean, mean - reach, mean + reach))
    assert (found.n, len(found.bases)) == (20, 4)


def test_slopes_and_mediator_costs_against_other_routes():
    grid, _ = known()
    predictions = grid["predictions"]
    for cell, slope in slopes(predictions).items():
        rows = predictions[predictions["cell"] == cell].dropna(subset="read_distance")
        line = stats.linregress(rows["read_distance"].astype(float), rows["correct"].astype(float))
        assert slope == pytest.approx(line.slope)
    for cell, cost in mediator_costs(predictions).items():
        rows = predictions[predictions["cell"] == cell]
        right = {kind: rows[rows["mediator"] == kind]["correct"].mean() for kind in rows["mediator"].unique()}
        assert cost == pytest.approx(
            (right["similar to one"] + right["similar to both"]) / 2 - right["neutral"]
        )


def test_a_model_at_chance_is_left_out_and_named():
    _, verdicts = known()
    # Accuracy 0.5 is chance in relation and far above it in recall.
    mask = verdicts["mask-helps"]
    assert {evidence.base for evidence in mask.bases} == {"recall, class token first", "recall, mean pooling"}
    assert mask.left_out == (
        "relation, class token first (+ mask at chance)",
        "relation, mean pooling (+ mask at chance)",
    )
    released = verdicts["released-residual-helps"]
    assert np.isnan(released.value)
    assert (released.verdict, len(released.left_out)) == (UNTOLD, 4)
    assert "no base in which the models compared left chance" in released.sentence


def test_before_training_is_told_apart():
    learned = dataclasses.replace(KNOWN, probes={**KNOWN.probes, ("mask", "decay_index_tokens"): -0.3})
    grid = grid_tables(learned, tasks=("recall",), variants=("videomamba", "mask"), layers=1, seeds=5)
    probes = grid["probes"]
    mask = grid["cells"].set_index("cell")["variant"].loc[probes["cell"]].to_numpy() == "mask"
    there = mask & (probes["quantity"] == "decay_index_tokens") & ~probes["trained"]
    for shift, said in (
        (0.3, "the effect comes with training"),
        (0.9, "so it is learned"),
        (0.0, "need not be learned"),
    ):
        grid["probes"] = probes.assign(value=probes["value"] + shift * there)
        assert said in judged_alone("double-diagonal", grid).sentence


def test_no_effect_is_never_told_more_often_than_it_says():
    told = 0
    for draw in range(4):
        _, verdicts = judged(Truth(), draw=draw, clips=60, class_tokens=("first",))
        null = [v for name, v in verdicts.items() if name != "contradiction"]
        assert len(null) == len(STATEMENTS) - 1
        told += sum(verdict.verdict != UNTOLD for verdict in null)
    # Holm's correction errs in one grid of twenty; of four, two that do would come once in 70.
    assert told <= 1


def test_bases_that_disagree_tell_nothing():
    up, down = (
        grid_tables(
            Truth(accuracy={"paper": accuracy}, seed_sd=0.001),
            tasks=(task,),
            variants=("videomamba", "paper"),
            seeds=8,
            layers=1,
        )
        for task, accuracy in (("recall", 0.99), ("relation", 0.6))
    )
    found = judged_alone("both-help", {name: pd.concat([up[name], down[name]]) for name in up})
    assert found.low > 0
    assert found.verdict == UNTOLD
    assert "The bases disagree: relation taken alone says the opposite." in found.sentence


def test_one_seed_and_absent_variants_tell_nothing():
    _, verdicts = judged(seeds=1, variants=("videomamba", "paper"))
    assert {verdict.verdict for verdict in verdicts.values()} == {UNTOLD}
    assert "one seed: no interval" in verdicts["both-help"].sentence
    assert "not measured" in verdicts["attention-better"].sentence


def test_every_number_of_a_sentence_is_measured():
    _, verdicts = known()
    for verdict in verdicts.values():
        counted = [f"n = {verdict.n} "] if verdict.n else []
        for text in (verdict.shown, verdict.measured, *counted, *verdict.left_out):
            assert text[1:] in verdict.sentence  # Its first letter is a capital there.
        assert verdict.sentence.count("nan") == 0
    table = judgement_table(list(verdicts.values()))
    assert list(table["id"]) == [statement.id for statement in STATEMENTS]
    assert set(table["verdict"]) <= {HOLDS, FAILS, UNTOLD}
    assert table.set_index("id").loc["both-help", "value"] == verdicts["both-help"].value


def test_statements_name_what_there_is():
    assert len({statement.id for statement in STATEMENTS}) == len(STATEMENTS)
    for statement in STATEMENTS:
        assert statement.sign in (1, -1)
        assert (statement.association is None) == (statement.effect in EFFECTS)
        assert {statement.variant, statement.reference} <= {*VARIANTS, None, ""}
    # The only numbers that a statement holds are the abstracts'.
    stated = " ".join(statement.says for statement in STATEMENTS)
    known = {f"{gain.low}" for gain in GAINS} | {f"{gain.high}" for gain in GAINS}
    assert set(re.findall(r"\d+\.\d+", stated)) == known


@pytest.mark.parametrize("command", [command for one in UNTESTED for command in one.commands])
def test_every_command_that_the_report_prints_can_be_parsed_and_its_recipe_exists(command):
    loop = re.fullmatch(r"for seed in [\d ]+; do (.*); done", command)
    words = shlex.split((loop[1] if loop else command).replace("$seed", "0"))
    module, *arguments = words[words.index("-m") + 1 :]
    main = "" if importlib.util.find_spec(module).submodule_search_locations is None else ".__main__"
    parser = get_command(importlib.import_module(module + main).app)
    context = parser.make_context(module, arguments)
    if hasattr(parser, "resolve_command"):
        name, subcommand, rest = parser.resolve_command(context, arguments)
        subcommand.make_context(name, rest, parent=context)
    for recipe in re.findall(r"--recipe (\S+)", command):
        assert (RECIPES / f"{recipe}.json").is_file()
