"""A file that is not complete yet, which a later run can continue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.download.sources import Unavailable


@dataclass(frozen=True)
class PartialFile:
    """A file that grows to at most `limit` bytes; the server's validator of its edition is kept beside it."""

    path: Path
    limit: int
    show: Callable[[int], None]

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.validator")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def validator(self) -> str:
        return self._note.read_text(encoding="utf-8") if self._note.exists() else ""

    def restart(self, validator: str = "") -> None:
        """Drop all bytes; note the edition of those that follow."""
        self.path.write_bytes(b"")
        self._note.write_text(validator, encoding="utf-8")

    def append(self, chunks: Iterable[bytes]) -> None:
        """Write chunks as they arrive; raise `Unavailable` beyond the limit."""
        size = self.size
        with self.path.open("ab", buffering=0) as file:
            for chunk in chunks:
                size += len(chunk)
                if size > self.limit:
                    raise Unavailable(f"sends more than {self.limit:,} bytes; cut off")
                file.write(chunk)
                self.show(size)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
