"""Everything that the report says, computed from a grid's tables before any of it is drawn or written."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from experiments.report.judgement import Judgement, judge, judgement_table
from experiments.report.probed import probe_profiles, probe_summary
from experiments.report.saved import SavedGrid
from experiments.statistics.accuracy import accuracy, accuracy_by_condition
from experiments.statistics.association import rank_correlations
from experiments.statistics.paired import paired_differences


@dataclass(frozen=True)
class Findings:
    """A grid, the judgements on it, and the tables made from its tables."""

    grid: SavedGrid
    judgements: tuple[Judgement, ...]
    accuracy: pd.DataFrame
    accuracy_by_condition: pd.DataFrame
    differences: pd.DataFrame
    correlations: pd.DataFrame
    probe_summary: pd.DataFrame
    probe_profiles: pd.DataFrame

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """What stands beside the page, by name: the grid's tables and those made from them."""
        made = {name: table for name, table in vars(self).items() if isinstance(table, pd.DataFrame)}
        return {**self.grid.tables, "verdicts": judgement_table(self.judgements), **made}


def compute_findings(grid: SavedGrid) -> Findings:
    """Compute everything that the report says of a grid."""
    cells, predictions, probes = (grid.tables[name] for name in ("cells", "predictions", "probes"))
    correlations = rank_correlations(cells, probes)
    return Findings(
        grid=grid,
        judgements=judge(grid.tables, correlations),
        accuracy=accuracy(cells),
        accuracy_by_condition=accuracy_by_condition(cells, predictions),
        differences=paired_differences(cells, predictions),
        correlations=correlations,
        probe_summary=probe_summary(grid),
        probe_profiles=probe_profiles(grid),
    )
