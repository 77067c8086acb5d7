"""One lock per project or workspace: `pipeline run`, `retrain` and `ingest` work on it one after the other."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import filelock

from pipeline.core.errors import PipelineError
from pipeline.core.files import write_json
from pipeline.project import dvc_lock

FILE = Path(".pipeline.lock")
HOLDER = Path(".pipeline.lock.json")  # beside the lock, so that a reader needs no lock
Log = Callable[[str], None]


class LockedError(PipelineError):
    """Another command is at work on the same project or workspace."""


def to_stderr(line: str) -> None:
    """Print a line on standard error: the usual place for notes about locks."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def hold(root: Path, command: str, *, wait_s: float | None = None, log: Log = to_stderr) -> Iterator[None]:
    """Hold the lock of a project or workspace; a process that holds it already may enter again.

    Entries that killed processes have left in DVC's own lock are removed; see `dvc_lock.remove_stale`.

    Args:
        root: The project or workspace.
        command: What holds the lock, for others to read: ``pipeline retrain``.
        wait_s: Seconds to wait for another process; None waits for as long as it takes.
        log: Receives a line about what is waited for, and about each entry removed.

    Raises:
        LockedError: Another process holds it, and does not release it in time.
    """
    lock = filelock.FileLock(root / FILE, is_singleton=True)
    if lock.is_locked:
        yield
        return
    _acquire(lock, root, wait_s, log)
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(root / HOLDER, {"pid": os.getpid(), "command": command, "since": since})
        dvc_lock.remove_stale(root, log)
        yield
    finally:
        lock.release()


def _acquire(lock: filelock.BaseFileLock, root: Path, wait_s: float | None, log: Log) -> None:
    try:
        lock.acquire(timeout=0)
        return
    except filelock.Timeout:
        if wait_s != 0:
            log(f"waiting for {_holder(root)} to end; Ctrl-C is safe")
    try:
        lock.acquire(timeout=-1 if wait_s is None else wait_s)
    except filelock.Timeout:
        raise LockedError(
            f"another command is at work in {root.resolve()}",
            expected="nothing else" if not wait_s else f"its end within {wait_s:.0f} seconds",
            found=_holder(root),
            done="nothing was changed",
            next_step="wait for it to end",
        ) from None


def _holder(root: Path) -> str:
    """Return who holds the lock, as it has written: a holder that starts or ends this moment may be missing."""
    try:
        holder = json.loads((root / HOLDER).read_text(encoding="utf-8"))
        return f"`{holder['command']}` (pid {holder['pid']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another `pipeline` command"
