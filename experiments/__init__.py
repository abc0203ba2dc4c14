"""Data, training and reports built on vmp and analysis."""
