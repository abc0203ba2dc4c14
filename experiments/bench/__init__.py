"""Timings against peers, behind a correctness gate."""
