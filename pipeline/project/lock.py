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

from pipeline.core import stage_lock
from pipeline.core.errors import PipelineError
from pipeline.core.files import write_json
from pipeline.project import dvc_lock

FILE = Path(".pipeline.lock")
HOLDER = Path(".pipeline.lock.json")  # beside the lock, so that a reader needs no lock
Log = Callable[[str], None]
_ORPHAN_S = 2.0  # a stage ends within a second of the command above it


class LockedError(PipelineError):
    """Another command is at work on the same project or workspace."""


def to_stderr(line: str) -> None:
    """Print a line on standard error: the usual place for notes about locks."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def hold(root: Path, command: str, *, wait_s: float | None = None, log: Log = to_stderr) -> Iterator[None]:
    """Hold the lock of a project or workspace; a process that holds it already may enter again.

    No stage runs when it is taken: neither one of a plain `dvc repro`, nor one that a killed command left behind.
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
        _wait_for_stages(root, wait_s, log)
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
        raise _locked(root, wait_s, _holder(root)) from None


def _wait_for_stages(root: Path, wait_s: float | None, log: Log) -> None:
    if stage_lock.wait_until_free(root, _ORPHAN_S):
        return
    if wait_s != 0:
        log("waiting for a stage of `dvc repro` to end; Ctrl-C is safe")
        if stage_lock.wait_until_free(root, wait_s):
            return
    raise _locked(root, wait_s, "a stage of `dvc repro`")


def _locked(root: Path, wait_s: float | None, found: str) -> LockedError:
    return LockedError(
        f"another command is at work in {root.resolve()}",
        expected="nothing else" if not wait_s else f"its end within {wait_s:.0f} seconds",
        found=found,
        done="nothing was changed",
        next_step="wait for it to end",
    )


def _holder(root: Path) -> str:
    """Return who holds the lock, as it has written: a holder that starts or ends this moment may be missing."""
    try:
        holder = json.loads((root / HOLDER).read_text(encoding="utf-8"))
        return f"`{holder['command']}` (pid {holder['pid']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another `pipeline` command"
