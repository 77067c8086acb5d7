"""Progress bars for files that arrive side by side: on a terminal, for files worth one; otherwise nothing at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

_WORTH_A_BAR = 1_000_000  # bytes


class Bars:
    """The bars of one run. Use as a context manager; any thread may add a bar and move it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich import progress

            self._progress = progress.Progress(
                *progress.Progress.get_default_columns(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                transient=True,
            )
            self._progress.start()
        return self

    def add(self, name: str, size: int) -> Callable[[int], None]:
        """Return a function that shows how many bytes of a file are there."""
        shown = self._progress
        if shown is None or size < _WORTH_A_BAR:
            return lambda _: None
        task = shown.add_task(name, total=size)
        return lambda there: shown.update(task, completed=there)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
