"""Executors: who runs a training task, on this machine or on a cluster."""
