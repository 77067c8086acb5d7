"""Hyperparameter search: the study, the trial scheduler, the samplers, and the MLflow mirror."""
