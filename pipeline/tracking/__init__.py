"""The only writer to MLflow runs, and where a run comes from."""
