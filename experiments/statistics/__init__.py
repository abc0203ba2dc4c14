"""Statistics of a grid: pure functions of its tables to tidy tables."""

from experiments.statistics.accuracy import (
    CONDITIONS,
    accuracy,
    accuracy_by_condition,
    cell_accuracy_by,
    left_chance,
)
from experiments.statistics.association import GROUPS, cell_probes, rank_correlations
from experiments.statistics.intervals import Estimate, seed_interval
from experiments.statistics.mcnemar import McNemar, mcnemar, mcnemar_counts
from experiments.statistics.multiple import holm
from experiments.statistics.paired import paired_differences
from experiments.statistics.tables import (
    REFERENCE,
    base_fields,
    can_read,
    ordered,
    paired_values,
    strata,
)

__all__ = [
    "CONDITIONS",
    "GROUPS",
    "REFERENCE",
    "Estimate",
    "McNemar",
    "accuracy",
    "accuracy_by_condition",
    "base_fields",
    "can_read",
    "cell_accuracy_by",
    "cell_probes",
    "holm",
    "left_chance",
    "mcnemar",
    "mcnemar_counts",
    "ordered",
    "paired_differences",
    "paired_values",
    "rank_correlations",
    "seed_interval",
    "strata",
]
