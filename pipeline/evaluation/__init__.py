"""Scores on the test split and all else that differs between tasks: a module per task, found by its name."""
