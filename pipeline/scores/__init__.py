"""How models are scored on the test split and compared with the champion: a module per task, found by its name."""
