"""The report's folder: one page, a table, figures, and each model's result."""

import csv
from collections.abc import Mapping
from pathlib import Path

import matplotlib.style

from analysis import plots
from analysis.figures import save_figure
from analysis.results import COLUMNS, measurement_rows, replacing, save
from experiments.report.comparison import Comparison, Progress
from experiments.report.illustrate import Illustration, illustrations
from experiments.report.page import render

WRITTEN = frozenset({"index.html", "decay.csv", "figures", "paper", "videomamba"})
"""What the report's folder holds."""


def write_report(comparison: Comparison, directory: Path, progress: Progress | None = None) -> None:
    """Write index.html, decay.csv, figures and each model's result.json, all or nothing.

    Raises analysis.results.ResultError where the folder cannot be written or holds files of others.
    """
    with replacing(directory, WRITTEN) as new:
        for name, result in comparison.results.items():
            (new / name).mkdir()
            save(result, new / name / "result.json")
        _write_table(comparison, new / "decay.csv")
        figures = illustrations(comparison.results, comparison.heatmaps, comparison.differences)
        _draw(figures, new / "figures", progress)
        page = render(comparison, figures, new / "figures")
        (new / "index.html").write_text(page, encoding="utf-8")


def _draw(figures: Mapping[str, Illustration], folder: Path, progress: Progress | None) -> None:
    folder.mkdir()
    with matplotlib.style.context(plots.STYLE):
        for done, (name, figure) in enumerate(figures.items(), 1):
            save_figure(figure.draw(), folder / name)
            if progress is not None:
                progress(f"drawing {name}", done, len(figures))


def _write_table(comparison: Comparison, path: Path) -> None:
    """Every number of both models and of their differences, told apart by the column "model"."""
    one, other = comparison.results
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", *COLUMNS])
        for name, result in comparison.results.items():
            curves = [curve for curve in result.curves if curve.quantity != "lag_profile"]
            writer.writerows([name, *row] for row in measurement_rows(result.measurements, curves))
        for note, rows in (("", comparison.differences), (", untrained", comparison.untrained)):
            writer.writerows([f"{one} - {other}{note}", *row] for row in measurement_rows(rows))
