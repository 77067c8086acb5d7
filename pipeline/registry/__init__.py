"""Registered models: versions and aliases, and models that training starts from."""
