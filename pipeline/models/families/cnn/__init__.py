"""Convolutional networks: one family, an architecture per module."""
