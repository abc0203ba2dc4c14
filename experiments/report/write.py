"""The report's folder: one page, tables as CSV and parquet, and figures."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.style

from analysis.draw import STYLE, save_figure
from analysis.files import replacing
from experiments.report.contents import contents, incompleteness, opening
from experiments.report.findings import compute_findings
from experiments.report.page import render
from experiments.report.saved import SavedGrid
from experiments.report.viewer import pack

WRITTEN = frozenset({"index.html", "figures", "tables"})
"""What the report's folder holds."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


def write_report(grid: SavedGrid, directory: Path, command: str, progress: Progress | None = None) -> None:
    """Write index.html, tables and figures of a grid, all or nothing.

    Args:
        grid: the grid.
        directory: the folder of the report; an earlier report in it is replaced.
        command: the command line, which the page shows.
        progress: told what is drawn.

    Raises:
        analysis.files.ResultError: if the folder cannot be written or holds other files, or the rows of a cell
            cannot be read.
    """
    with replacing(directory, WRITTEN) as new:
        packed = pack(grid)
        findings = compute_findings(grid)
        sections = contents(findings, packed, command)
        (new / "tables").mkdir()
        for name, table in findings.tables.items():
            table.to_parquet(new / "tables" / f"{name}.parquet", index=False)
            table.to_csv(new / "tables" / f"{name}.csv", index=False)
        (new / "figures").mkdir()
        drawn = [figure for section in sections for part in section.parts for figure in part.figures]
        with matplotlib.style.context(STYLE):
            for done, figure in enumerate(drawn, 1):
                save_figure(figure.draw(), new / "figures" / figure.name)
                if progress is not None:
                    progress(f"drawing {figure.name}", done, len(drawn))
        said = {"opening": opening(findings), "unfinished": incompleteness(grid)}
        page = render(sections, packed, new / "figures", **said)
        (new / "index.html").write_text(page, encoding="utf-8")
