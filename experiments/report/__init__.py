"""A grid's saved tables to one HTML page, with figures and tables beside it: `python -m experiments.report`."""
