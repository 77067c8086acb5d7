"""Keras: which backend and devices, how it compiles, how arrays reach it, and in which precision."""
