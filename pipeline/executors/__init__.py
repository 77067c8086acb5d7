"""Executors: run training tasks on this machine or on a cluster."""
