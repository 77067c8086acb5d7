"""Incoming data, and what a scheduled job decides and does."""
