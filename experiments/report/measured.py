"""Everything that the report says, computed from a grid's tables before any of it is drawn or written."""

from dataclasses import dataclass

import pandas as pd

from experiments.report.probed import probe_profiles, probe_summary
from experiments.report.saved import SavedGrid
from experiments.statistics import accuracy, accuracy_by_condition, paired_differences, rank_correlations


@dataclass(frozen=True)
class Measured:
    """The grid and the tables made from its tables, which stand beside the page under the names of these fields."""

    grid: SavedGrid
    accuracy: pd.DataFrame
    accuracy_by_condition: pd.DataFrame
    differences: pd.DataFrame
    correlations: pd.DataFrame
    probe_summary: pd.DataFrame
    probe_profiles: pd.DataFrame


def measure(grid: SavedGrid) -> Measured:
    cells, predictions, probes = (grid.tables[name] for name in ("cells", "predictions", "probes"))
    return Measured(
        grid=grid,
        accuracy=accuracy(cells),
        accuracy_by_condition=accuracy_by_condition(cells, predictions),
        differences=paired_differences(cells, predictions),
        correlations=rank_correlations(cells, probes),
        probe_summary=probe_summary(grid),
        probe_profiles=probe_profiles(grid),
    )
