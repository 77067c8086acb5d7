"""The gate: what images must meet before anything learns from them, and the pages and plots that show them."""
