"""Hyperparameter search: the study, the scheduler of its trials, samplers, and the MLflow mirror."""
