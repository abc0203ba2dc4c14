"""The import path of `reduce` that users rely on; the code is in `analysis.matrix.reduce`."""

from analysis.matrix.reduce import (
    AbsoluteMean,
    ColumnMass,
    Distances,
    DistancesResult,
    EffectiveContext,
    EffectiveContextResult,
    FrameMatrix,
    FrameMatrixResult,
    LagProfile,
    LagProfileResult,
    Reducer,
    RowMass,
    SignedMean,
    Strip,
    reduce,
)

__all__ = [
    "AbsoluteMean",
    "ColumnMass",
    "Distances",
    "DistancesResult",
    "EffectiveContext",
    "EffectiveContextResult",
    "FrameMatrix",
    "FrameMatrixResult",
    "LagProfile",
    "LagProfileResult",
    "Reducer",
    "RowMass",
    "SignedMean",
    "Strip",
    "reduce",
]
