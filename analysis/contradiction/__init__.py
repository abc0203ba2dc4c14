"""Element contradiction: how a relation of two tokens depends on tokens between them and on how unlike they are."""

from analysis.contradiction.measure import Contradiction

__all__ = ["Contradiction"]
