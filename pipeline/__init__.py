"""An MLOps pipeline for small vision models: DVC stages, Optuna searches, an MLflow registry."""
