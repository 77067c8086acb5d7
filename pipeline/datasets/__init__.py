"""How data gets here and how it lies on disk: arrays, source formats, downloads, incoming batches, own pictures."""
