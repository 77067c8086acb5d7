"""Engines: who runs a piece of training."""
