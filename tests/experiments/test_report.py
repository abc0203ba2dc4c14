"""The report: made once of two tiny models, then read as its readers would; sentences from numbers made by hand."""

import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from analysis.decay.result import DecayResult
from analysis.results import Measurement, load
from experiments.report import findings, sources
from experiments.report.card import read_card
from tests.analysis.models import TINY
from vmp import create_model
from vmp.checkpoint import read_checkpoint, save_checkpoint

MODELS = ("paper", "videomamba")


def run_report(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.report", *map(str, arguments)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # Test workers share the cores.
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=alone)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Two tiny models; the second has a card of its weights."""
    folder = tmp_path_factory.mktemp("ckpt")
    paths = {}
    for name in MODELS:
        torch.manual_seed(0)
        paths[name] = folder / f"{name}.safetensors"
        save_checkpoint(create_model("vmp_micro", variant=name, num_classes=6, **TINY), paths[name])
    card = {
        "weights_sha256": read_checkpoint(paths["videomamba"]).weights_sha256,
        "accuracy": 0.8125,
        "interval": [0.7861, 0.836],
        "chance": 1 / 6,
        "clips": 960,
        "test_seed": 1,
        "parameters": 12345,
    }
    paths["videomamba"].with_suffix(".json").write_text(json.dumps(card))
    return paths


@pytest.fixture(scope="module")
def report(checkpoints, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "report"
    flags = [part for name in MODELS for part in (f"--{name}", checkpoints[name])]
    done = run_report("--out", out, "--clips", 3, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report written; open {out}/index.html\n"
    assert "probing two models on 3 clips" in done.stderr
    return out


class Page(HTMLParser):
    """Text, images, attributes that load something, and tables as rows of cells."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.loads: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self._skipped = ""
        self._in_table = False
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "img":
            self.images.append(given)
        self.loads += [given[key] for key in ("src", "href") if given.get(key)]
        if tag in ("style", "script"):
            self._skipped = tag
        if tag == "table":
            self.tables.append([])
            self._in_table = True
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if tag == self._skipped:
            self._skipped = ""
        self._in_table = self._in_table and tag != "table"

    def handle_data(self, data):
        if self._skipped:
            return
        self.words.append(data)
        if self._in_table and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page((report / "index.html").read_text(encoding="utf-8"))


def test_the_folder_holds_page_table_figures_and_results(report):
    assert sorted(path.name for path in report.iterdir()) == [
        "decay.csv", "figures", "index.html", "paper", "videomamba",
    ]  # fmt: skip
    assert [path.name for path in report.parent.iterdir()] == ["report"]
    stems = {path.stem for path in (report / "figures").iterdir()}
    assert {path.name for path in (report / "figures").iterdir()} == {
        f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")
    }
    for name in MODELS:
        for scope in ("ssm", "contribution"):
            kinds = ("lag_profile", "frame_lag_profile", "half_life", "frame_matrix", "class_row")
            assert {f"{kind}_{scope}_{name}" for kind in kinds} <= stems
            assert {f"attention_{scope}_layer0{layer}_{name}" for layer in (0, 1)} <= stems


def test_both_models_saw_the_same_clips(report):
    results = [load(DecayResult, report / name / "result.json") for name in MODELS]
    shown = [result.provenance.input for result in results]
    assert shown[0] == shown[1]
    assert shown[0].count == 3
    assert shown[0].source == "photo-pan"
    assert [result.provenance.checkpoint.config["variant"] for result in results] == list(MODELS)


def test_the_page_needs_nothing_else_and_every_figure_is_said_in_words(report, page):
    assert all(target.startswith(("data:image/svg+xml;base64,", "#")) for target in page.loads)
    assert len(page.images) == len(list((report / "figures").glob("*.svg")))
    alts = [image["alt"] for image in page.images]
    assert all(len(alt) > 40 for alt in alts)
    assert len(set(alts)) > len(alts) / 2
    for anchor in (target for target in page.loads if target.startswith("#")):
        assert f'id="{anchor[1:]}"' in (report / "index.html").read_text()


def test_the_page_shows_no_raw_gaps(page):
    assert not re.search(r"\b(nan|None|Infinity|Undefined)\b", page.text)


def test_tables_hold_the_numbers_of_the_csv(report, page):
    with (report / "decay.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {
        "paper",
        "videomamba",
        "paper - videomamba",
        "paper - videomamba, untrained",
    }
    table = next(t for t in page.tables if t[0][-1] == "paper less videomamba")
    assert len(table) == 1 + 4
    for layer, direction, *cells in table[1:]:
        for model, cell in zip(("paper", "videomamba", "paper - videomamba"), cells, strict=True):
            (row,) = [
                row
                for row in rows
                if (row["model"], row["layer"], row["direction"]) == (model, layer, direction)
                and (row["scope"], row["quantity"]) == ("ssm", "half_life_tokens")
            ]
            if row["value"] in ("", "inf"):
                assert cell.startswith(("none: ", ">65", "∞"))
                continue
            value, low, high = (float(part) for part in re.findall(r"-?[\d.]+", cell.replace(">", "")))
            assert value == pytest.approx(float(row["value"]), rel=0.05)
            assert low <= value <= high


def test_differences_are_those_of_the_saved_results(report):
    one, other = (load(DecayResult, report / name / "result.json") for name in MODELS)
    with (report / "decay.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["model"] == "paper - videomamba"]
    checked = 0
    for row in found:
        if row["value"] in ("", "inf"):
            continue
        key = (int(row["layer"]), row["direction"], row["scope"], row["quantity"])
        assert float(row["value"]) == pytest.approx(
            one.measurement(*key).value - other.measurement(*key).value, abs=1e-12
        )
        checked += 1
    assert checked > 200


def test_the_control_is_of_fresh_weights(report, page):
    """The tiny checkpoints were drawn from seed 0 as the control is, so that both must agree to the last digit."""
    with (report / "decay.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trained, control = (
        [{**row, "model": ""} for row in rows if row["model"] == model]
        for model in ("paper - videomamba", "paper - videomamba, untrained")
    )
    assert trained == control
    assert "Untrained models of the same two configurations differ in the same way" in page.text


def test_accuracy_comes_from_the_card_of_these_weights_alone(checkpoints, page):
    table = page.tables[0]
    assert table[1][:2] == ["paper", "no model card of these weights"]
    assert table[2] == ["videomamba", "81.2 %", "78.6 % to 83.6 %", "16.7 %", "960 (seed 1)", "12,345"]
    assert read_card(checkpoints["videomamba"], "another hash") is None


def test_the_page_says_whose_reading_and_which_version(page):
    assert 'The paper speaks of an "elemental residual connection"' in page.text
    assert "is this toolkit's reading" in page.text
    assert "disagree by a factor of 2.8 to 7.4" in page.text
    assert "Each variant was trained once." in page.text
    for scope in ("ssm", "mixer", "contribution"):
        assert f"Scope {scope}" in page.text


def test_an_earlier_report_is_replaced_and_a_strangers_folder_is_not(checkpoints, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    done = run_report("--out", tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: {tmp_path}: holds 'thesis.tex', which no earlier run wrote; name another folder\n"
    )
    assert done.stdout == ""


def difference(low, high, quantity="half_life_tokens", value=1.0):
    return Measurement(0, "forward", "ssm", quantity, "tokens", value, low, high, 5, "")


def test_differences_are_counted_by_what_they_say_of_decay():
    rows = [difference(0.5, 2), difference(-2, -0.5), difference(-1, 1), difference(None, None)]
    rows.append(difference(None, None, value=None))
    found = findings.tally(rows, "half_life_tokens", "ssm")
    assert (found.slower, found.faster, found.unclear, found.gaps) == (1, 1, 2, 1)
    # A larger decay index is faster decay.
    index = findings.tally([difference(0.5, 2, "decay_index_tokens")], "decay_index_tokens", "ssm")
    assert (index.slower, index.faster) == (0, 1)
    assert findings.tally(rows, "half_life_tokens", "mixer").compared == 0


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((5, 0, 3), "for"),
        ((0, 5, 3), "against"),
        ((2, 0, 6), "weakly for"),
        ((0, 2, 6), "weakly against"),
        ((3, 3, 2), "mixed"),
        ((0, 0, 8), "null"),
        ((0, 0, 0), "not comparable"),
    ],
)
def test_results_that_agree_disagree_or_say_nothing_are_named_alike(counts, verdict):
    found = findings.Tally("half_life_tokens", "ssm", *counts, gaps=0)
    assert found.verdict == verdict
    said = findings.sentence(found, ("paper", "videomamba"), "half-life")
    assert said.startswith("By half-life in scope ssm, paper decays more slowly than videomamba in")
    assert f"in {counts[0]} of {sum(counts)} layers and directions, faster in {counts[1]}" in said
    assert said.endswith(f"{findings.VERDICTS[verdict]}.")


@pytest.mark.parametrize(
    ("trained", "untrained", "said"),
    [
        ((5, 0, 3), (4, 0, 4), "differ in the same way (4 slower, 0 faster, 4 undecided)"),
        ((0, 5, 3), (4, 0, 4), "differ the other way round"),
        ((5, 0, 3), (0, 0, 8), "do not differ so"),
        ((5, 0, 3), (2, 2, 4), "do not differ so"),
        ((2, 2, 4), (5, 0, 3), "Before training: 5 slower, 0 faster, 3 undecided."),
    ],
)
def test_a_difference_that_was_there_before_training_is_said_to_be(trained, untrained, said):
    tallies = [findings.Tally("half_life_tokens", "ssm", *counts, gaps=0) for counts in (trained, untrained)]
    assert said in findings.control_sentence(*tallies)


def test_intervals_that_chance_would_give_are_counted():
    tallies = [findings.Tally("half_life_tokens", "ssm", 10, 5, 25, 2)]
    assert findings.chance_note(tallies).startswith(
        "Of 40 intervals, 15 exclude 0; were there no difference anywhere, about 2 would."
    )


def test_abstracts_are_quoted_as_the_versions_have_them():
    assert [(g.version, g.low, g.high) for g in sources.GAINS] == [
        ("v3", 7.9, 7.9),
        ("v3", 8.1, 8.1),
        ("v4", 1.6, 2.8),
        ("v4", 1.1, 1.9),
    ]
    assert sources.disagreement() == pytest.approx((7.9 / 2.8, 8.1 / 1.1))
