"""Model families, a package each, found by its name."""
