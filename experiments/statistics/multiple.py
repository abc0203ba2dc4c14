"""Correction for the number of tests."""

import pandas as pd
from statsmodels.stats.multitest import multipletests


def holm(p_values: pd.Series) -> pd.Series:
    """Holm's adjusted p-values; NaN stays NaN and is no part of the family."""
    adjusted = p_values.astype(float).copy()
    known = adjusted.notna()
    if known.any():
        adjusted[known] = multipletests(adjusted[known], method="holm")[1]
    return adjusted
