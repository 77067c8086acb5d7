"""Datasets: base contracts, and one module per source format, found by its name."""
