"""What stands behind `analysis.theory`, which is the module to import."""
