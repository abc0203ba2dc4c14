"""The benchmarks that need a GPU."""
