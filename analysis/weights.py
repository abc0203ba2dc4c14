"""The import path of `scoped` that users rely on; the code is in `analysis.matrix.scopes`."""

from analysis.matrix.scopes import SCOPES, Contribution, MixerMatrix, Scope, normalise, scoped

__all__ = ["SCOPES", "Contribution", "MixerMatrix", "Scope", "normalise", "scoped"]
