"""Datasets: arrays on disk, source formats, downloads, incoming batches and your own pictures."""
