"""Every notebook, from a fresh kernel, gives the outputs that are committed; and what each has to be."""

import ast
import json
import os
import re
from decimal import Decimal
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def said(notebook: nbformat.NotebookNode) -> list[tuple[int, str, str]]:
    """Cell, kind and text of every output; an image counts by being there, as fonts differ between machines."""
    out = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                # What a cell prints comes in as many pieces as the kernel happens to send.
                before = out.pop()[2] if out and out[-1][:2] == (number, output.name) else ""
                out.append((number, output.name, before + output.text))
                continue
            for kind, data in sorted(output.data.items()):
                out.append((number, kind, "" if kind.startswith("image/") else data))
    return out


DECIMAL = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")


def words(output: tuple[int, str, str]) -> tuple[int, str, str]:
    """An output without its decimal numbers; whole numbers count as words."""
    return (*output[:2], DECIMAL.sub("#", output[2]))


def different(got: str, expected: str) -> list[tuple[str, str]]:
    """Decimal numbers that are more than one unit of their last printed digit apart.

    Processors sum in vectors of other widths, so that a number next to the border rounds the other way.
    """
    pairs = zip(DECIMAL.findall(got), DECIMAL.findall(expected), strict=True)
    return [(one, two) for one, two in pairs if abs(Decimal(one) - Decimal(two)) > max(map(unit, (one, two)))]


def unit(number: str) -> Decimal:
    """One in the last digit of a number as it is printed."""
    return Decimal((0, (1,), Decimal(number).as_tuple().exponent))


def test_numbers_are_compared_to_their_last_digit():
    assert not different("a 0.0156 [1.2e-05] 3", "a 0.0155 [1.3e-05] 3")
    assert different("0.0157", "0.0155") == [("0.0157", "0.0155")]
    assert different("1.2e-05", "1.4e-05")
    assert words((0, "", "a 0.5 of 3")) != words((0, "", "a 0.5 of 4"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_fresh_run_gives_the_committed_outputs(path):
    committed = read(path)
    fresh = read(path)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(path.parent)}}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    NotebookClient(fresh, timeout=1800, kernel_name="python3", resources=where).execute(env=environment)
    assert [words(output) for output in said(fresh)] == [words(output) for output in said(committed)]
    for got, expected in zip(said(fresh), said(committed), strict=True):
        assert not different(got[2], expected[2]), (path.name, got[:2])
    assert any(kind == "image/png" for _, kind, _ in said(fresh))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_three_lines_defines_nothing_and_names_no_machine(path):
    notebook = read(path)
    title, *lines = (line for line in notebook.cells[0].source.splitlines() if line.strip())
    assert title.startswith("# ")
    assert len(lines) == 3
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tree = ast.parse(re.sub(r"(?m)^%.*$", "", cell.source))
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            assert not [node for node in ast.walk(tree) if isinstance(node, kinds)]
    text = json.dumps(said(notebook))
    assert not re.search(r'"stderr"|/home/|/usr/|site-packages|0x[0-9a-f]{6,}', text)
    assert path.stat().st_size < 600_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    for cell in read(path).cells:
        for target in re.findall(r"\]\(([^)\s]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert "://" in target or (path.parent / target.partition("#")[0]).exists(), target
