"""What a mixer did to its tokens, as a matrix: one protocol for every scope of every family.

Start with `analysis.matrix.scopes.scoped`, which gives a capture's matrix in a scope, and `analysis.matrix.base`, which
says what every matrix can be asked for.
"""
