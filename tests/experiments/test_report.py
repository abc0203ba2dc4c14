"""The report's folder, read as its readers would, and what it refuses."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from experiments.grid_tables import SCHEMAS
from experiments.report.__main__ import app
from experiments.report.contents import incompleteness
from experiments.report.saved import read_grid
from experiments.report.untested import UNTESTED
from experiments.report.write import WRITTEN
from tests.experiments.commands import assert_refused, run_command
from tests.experiments.reports import GRID, UNFINISHED


class Page(HTMLParser):
    """Words outside of scripts, styles and drawings; what is loaded; and tables by caption, as rows of cells."""

    def __init__(self, source):
        super().__init__()
        self.loads, self.words, self.tables = [], [], {}
        self._inside, self._caption = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loads += [given[key] for key in ("src", "href", "srcset", "data") if given.get(key)]
        if tag in ("style", "script", "svg", "caption", "td", "th"):
            self._inside.append(tag)
        if tag == "caption":
            self._caption = ""
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in ("td", "th"):
            self.tables[self._caption][-1].append("")

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()
        if tag == "caption":
            # Several bases have tables of one caption: the later ones get a number.
            while self._caption in self.tables:
                self._caption += "'"
            self.tables[self._caption] = []

    def handle_data(self, data):
        where = self._inside[-1] if self._inside else ""
        if where in ("style", "script", "svg"):
            return
        self.words.append(data)
        if where == "caption":
            self._caption += data.replace("\N{NO-BREAK SPACE}", " ")
        if where in ("td", "th"):
            self.tables[self._caption][-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "index.html").read_text(encoding="utf-8"))


def table(report, name):
    return pd.read_parquet(report / "tables" / f"{name}.parquet")


def test_the_folder_holds_the_page_figures_and_tables_twice(report):
    assert {path.name for path in report.iterdir()} == WRITTEN
    figures = {path.name for path in (report / "figures").iterdir()}
    assert figures == {f"{name.rpartition('.')[0]}.{kind}" for name in figures for kind in ("png", "svg")}
    names = {path.stem for path in (report / "tables").iterdir()}
    assert set(SCHEMAS) < names
    for name in names:
        whole = table(report, name)
        text = pd.read_csv(report / "tables" / f"{name}.csv", keep_default_na=False)
        assert list(text) == list(whole)
        assert len(text) == len(whole)
    for name in SCHEMAS:
        saved = pd.read_parquet(report.with_name("grid") / f"{name}.parquet")
        pd.testing.assert_frame_equal(table(report, name), saved, check_dtype=False)


def test_the_page_loads_nothing_and_shows_no_raw_gap(page):
    assert all(target.startswith(("#", "data:,")) for target in page.loads)
    assert not re.search(r"\b(nan|None|NaT|inf|Undefined)\b", page.text)


def test_the_ablation_table_has_the_numbers_of_the_cells(report, page):
    cells = [
        json.loads(path.read_text()) for path in (report.with_name("grid") / "cells").glob("*/cell.json")
    ]
    chosen = {
        variant: {
            cell["seed"]: cell
            for cell in cells
            if (cell["class_token"], cell["variant"]) == ("first", variant)
        }
        for variant in ("videomamba", "attention")
    }
    caption = "Chance is 16.7 %. 4 frames of 16 x 16 pixels in patches of 8; width 16, depth 2; 12 steps of 4 clips; "
    head, reference, attention = page.tables[f"{caption}judged on 12 clips."]
    assert head[:4] == ["model", "parameters", "accuracy", "seeds"]
    for row, seeds in ((reference, chosen["videomamba"]), (attention, chosen["attention"])):
        mean = np.mean([cell["accuracy"] for cell in seeds.values()])
        assert row[2].startswith(f"{100 * mean:.1f} %\n(")
        assert row[1] == f"{seeds[0]['parameters']:,}"
        assert row[3] == str(len(seeds))
    assert reference[0] == "VideoMamba"
    assert reference[4:] == ["-"] * 4
    less = [chosen["attention"][seed]["accuracy"] - chosen["videomamba"][seed]["accuracy"] for seed in (0, 1)]
    assert attention[4].startswith(f"{100 * np.mean(less):+.1f}\n(")


def test_the_probes_table_has_the_means_of_the_probes(report, page):
    """Of VideoMamba with a class token: seeds, of directions, of layers, from the rows of the probes."""
    probes = table(report, "probes").merge(table(report, "cells"), on="cell")
    probes = probes[(probes["scope"] == "contribution") & (probes["quantity"] == "block_rank")]
    head, *rows = page.tables["Contradiction"]
    column = head.index("effective block rank")
    for name, variant in (("VideoMamba", "videomamba"), ("self-attention", "attention")):
        (row,) = [row for row in rows if row[0] == name]
        of_model = probes[(probes["variant"] == variant) & (probes["class_token"] == "first")]
        for line, trained in zip(row[column].split("\n"), (True, False), strict=True):
            by_seed = of_model[of_model["trained"] == trained].groupby(["seed", "direction"])["value"].mean()
            shown = float(re.match(r"(?:before )?(\S+)", line)[1])
            assert shown == pytest.approx(by_seed.groupby("seed").mean().mean(), abs=0.006)


def test_every_claim_has_its_verdict_and_measurement(report, page):
    verdicts = table(report, "verdicts")
    _, *rows = page.tables["In short, in the order below"]
    assert [row[0].replace(" ", "-") for row in rows] == list(verdicts["id"])
    assert [row[1:4] for row in rows] == [[v.verdict, v.shown, str(v.n)] for v in verdicts.itertuples()]
    plain = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for verdict in verdicts.itertuples():
        assert f"{verdict.verdict} {verdict.says} {verdict.sentence}" in plain
    for claim in UNTESTED:
        assert f"{claim.says} Needs {claim.needs}." in plain
        assert all(" ".join(command.split()) in plain for command in claim.commands)


def test_every_model_and_its_weights_are_named(report, page):
    cells = table(report, "cells").set_index("cell")
    _, *rows = page.tables["Every model"]
    assert {row[0] for row in rows} == set(cells.index)
    for row in rows:
        assert row[-1] == cells.loc[row[0], "weights_sha256"][:16]
    assert "python -m experiments.report --grid" in page.text


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def rewrite(path, change):
    change(pd.read_parquet(path)).to_parquet(path)


def every_rows(grid, change):
    for path in (grid / "cells").glob("*/rows.npz"):
        change(path)


DAMAGES = {
    "grid: holds no grid (no grid.json); make one: python -m experiments.grid": shutil.rmtree,
    "grid.json: is no grid of this version": lambda g: (g / "grid.json").write_text('{"preset": "quick"}'),
    "probes.parquet: is missing; run the grid again": lambda g: (g / "probes.parquet").unlink(),
    "predictions.parquet: not a parquet table": lambda g: cut(g / "predictions.parquet", -100),
    "profiles.parquet: has no column 'scope', so another version wrote it": lambda g: rewrite(
        g / "profiles.parquet", lambda frame: frame.rename(columns={"scope": "view"})
    ),
    "cells.parquet: no cell is finished": lambda g: rewrite(g / "cells.parquet", lambda frame: frame[:0]),
    "provenance.json: not JSON": lambda g: (g / "provenance.json").write_text("{"),
    "rows.npz: not the rows of a cell": lambda g: every_rows(g, lambda path: cut(path, 200)),
    "rows.npz: has no array 'frames', so another version wrote it": lambda g: every_rows(
        g, lambda path: np.savez(path, P=np.zeros(3))
    ),
}
"""What is said of a grid, and what was done to it."""


@pytest.mark.parametrize("said", DAMAGES)
def test_a_grid_that_cannot_be_read_is_told_in_one_line_and_nothing_is_lost(said, report, tmp_path):
    grid = shutil.copytree(report.with_name("grid"), tmp_path / "grid")
    DAMAGES[said](grid)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("the last report")
    ran = run_command(app, "--grid", grid, "--out", tmp_path / "out")
    assert_refused(ran, said)
    assert ran.stderr.startswith(f"error: {grid}")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]
    assert {path.name for path in tmp_path.iterdir()} <= {"grid", "out"}


def test_a_strangers_folder_is_not_replaced(report, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    ran = run_command(app, "--grid", report.with_name("grid"), "--out", tmp_path)
    assert_refused(ran, "holds 'thesis.tex', which no earlier run wrote")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_leaves_the_last_report(report, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "figures/accuracy.png")

    monkeypatch.setattr("experiments.report.write.save_figure", full)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("the last report")
    ran = run_command(app, "--grid", report.with_name("grid"), "--out", tmp_path / "out")
    assert (ran.exit_code, ran.stderr) == (2, "error: figures/accuracy.png: No space left on device\n")
    assert (tmp_path / "out" / "index.html").read_text() == "the last report"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_incomplete_grid_is_said_to_be_so(report, page, tiny_grid):
    total, gone = len(GRID.cells()), UNFINISHED
    assert f"Incomplete: {total - 1} of {total} models are finished." in page.text
    assert f"Missing: {gone.task} {gone.variant} seed {gone.seed}." in page.text
    assert read_grid(report.with_name("grid")).unfinished == (gone,)
    assert incompleteness(read_grid(tiny_grid)) == ""
