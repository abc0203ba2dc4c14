"""Statistics of a grid: pure functions of its tables to tidy tables."""
