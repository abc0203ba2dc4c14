"""The grid: its tables, and that they are the same whatever happens to the processes that make them."""

import pandas as pd

from tests.experiments.grids import TINY_GRID, tiny_grid  # noqa: F401


def test_a_grid_leaves_its_tables(tiny_grid):  # noqa: F811
    cells = pd.read_parquet(tiny_grid / "cells.parquet")
    assert list(cells["cell"]) == [cell.id for cell in TINY_GRID.cells()]
    predictions = pd.read_parquet(tiny_grid / "predictions.parquet")
    right = predictions.groupby("cell")["correct"].mean()
    assert cells.set_index("cell")["accuracy"].to_dict() == right.to_dict()
