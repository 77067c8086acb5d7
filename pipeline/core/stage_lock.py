"""The lock that every running stage holds, so that no command begins while a stage of an earlier one still runs.

Stages share it: DVC decides which of them may run together. A command that is killed leaves DVC and its stage behind
for up to a second, and a plain `dvc repro` has no command above it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = Path(".pipeline.stages.lock")
_INTERVAL_S = 0.1


@contextmanager
def shared(root: Path) -> Iterator[None]:
    """Hold the lock of a project or workspace together with other stages; where there is no project, hold nothing."""
    if not (root / "dvc.yaml").exists():
        yield
        return
    with _open(root) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


def wait_until_free(root: Path, wait_s: float | None) -> bool:
    """Wait until no stage holds the lock, and return whether that is so.

    Args:
        root: The project or workspace.
        wait_s: Seconds to wait at most; None waits for as long as it takes.
    """
    if not (root / FILE).exists():  # no stage has run here: leave nothing in a folder that may be no project
        return True
    deadline = None if wait_s is None else time.monotonic() + wait_s
    with _open(root) as descriptor:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                time.sleep(_INTERVAL_S)
            else:
                return True


@contextmanager
def _open(root: Path) -> Iterator[int]:
    descriptor = os.open(root / FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # which releases the lock
