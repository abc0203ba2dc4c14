"""Saved results to one HTML page, figures and a table: `python -m experiments.report --out report`."""
