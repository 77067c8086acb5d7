"""Durable count of how often the process ended while it checked a batch.

A batch that needs more memory than there is ends the process without an exception. Its count is written before it is
read and removed after it was checked, so a count that is left over means that the process was killed in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.files import write_json


class Attempts:
    """The counts of the batches of one dataset, kept in a JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._counts: dict[str, int] = {}
        with suppress(FileNotFoundError, ValueError, AttributeError, TypeError):  # damaged by hand: counts nothing
            content = json.loads(file.read_text(encoding="utf-8"))
            self._counts = {str(name): int(count) for name, count in content.items()}

    def ended(self, name: str) -> int:
        """Return how often the process ended while it checked the batch of this name."""
        return self._counts.get(ascii(name), 0)

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        """Count an attempt that ends with the block, whether by an exception or not."""
        self._counts[ascii(name)] = self.ended(name) + 1
        write_json(self._file, self._counts)
        try:
            yield
        finally:
            self.forget(name)

    def forget(self, name: str) -> None:
        """Remove the count of a batch."""
        if self._counts.pop(ascii(name), None) is None:
            return
        with suppress(OSError):  # a full disk: the error that the caller is handling counts
            if self._counts:
                write_json(self._file, self._counts)
            else:
                self._file.unlink(missing_ok=True)
