"""Scores on the test split and comparisons with the champion, a module per task, found by its name."""
