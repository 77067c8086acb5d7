"""Registered models, as MLflow loads them: a module each, which imports nothing of this package."""
