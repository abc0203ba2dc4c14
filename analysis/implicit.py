"""The import path of `ImplicitAttention` that users rely on; the code is in `analysis.matrix`."""

from analysis.matrix.base import AttentionMatrix
from analysis.matrix.implicit import ImplicitAttention

__all__ = ["AttentionMatrix", "ImplicitAttention"]
