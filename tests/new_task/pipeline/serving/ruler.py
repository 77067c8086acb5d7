"""Serves a measurer; only its path is needed here."""
