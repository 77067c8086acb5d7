"""Model families: base contracts, and one module per family, found by its name."""
