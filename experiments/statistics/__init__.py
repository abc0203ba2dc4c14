"""Statistics of a grid: pure functions of its tables to tidy tables."""

from experiments.statistics.accuracy import (
    CONDITIONS,
    accuracy,
    accuracy_by_condition,
    cell_accuracy_by,
    left_chance,
)
from experiments.statistics.association import GROUPS, cell_probes, rank_correlations
from experiments.statistics.bases import (
    REFERENCE,
    base_fields,
    can_read,
    groups,
    ordered,
    paired_values,
    strata,
)
from experiments.statistics.intervals import Estimate, holm, seed_interval
from experiments.statistics.mcnemar import McNemar, mcnemar, mcnemar_counts
from experiments.statistics.paired import paired_differences

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
    "groups",
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
