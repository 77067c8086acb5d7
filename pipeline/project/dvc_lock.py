"""DVC's own lock of files (`.dvc/tmp/rwlock`): taken before a tracked file is written, and repaired after a kill.

A stage holds a read lock on its dependencies, params.yaml among them, until DVC has hashed them. A writer that takes
DVC's write lock therefore never changes a file between a stage's end and the hash that DVC records.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from pipeline.core.errors import PipelineError
from pipeline.core.files import write_text

_FOLDER = Path(".dvc/tmp")
_WAIT_S = 60.0
_RETRY_S = 0.2
_CLOCK_S = 1.0  # by which the start of a process and the time of a file may differ
Log = Callable[[str], None]


class BusyError(PipelineError):
    """A DVC command is at work with the files."""


@contextmanager
def writing(root: Path, *paths: Path, log: Log, wait_s: float = _WAIT_S, alone: bool = False) -> Iterator[None]:
    """Hold DVC's write lock of files that stages depend on; without a DVC repository there is nothing to hold.

    Args:
        root: The project or workspace.
        paths: Files or folders that are about to be written.
        log: Receives a line about what is waited for.
        wait_s: Seconds to wait for stages that read them.
        alone: Wait also for a DVC command that is between two stages, and keep others from starting.

    Raises:
        BusyError: A stage still reads one of them.
    """
    with ExitStack() as stack:
        if (root / _FOLDER.parent).is_dir():
            _enter(stack, root, paths, log, wait_s, alone)
        yield


def _enter(stack: ExitStack, root: Path, paths: tuple[Path, ...], log: Log, wait_s: float, alone: bool) -> None:
    names = ", ".join(map(str, paths))
    deadline, waiting = time.monotonic() + wait_s, False
    while (holder := _try(stack, root, paths, alone=alone)) is not None:
        if time.monotonic() > deadline:
            raise BusyError(
                f"{names} cannot be written now",
                expected="no stage that reads it",
                found=f"{holder} at work",
                done="nothing was written",
                next_step="wait for it to end, and run this again",
            )
        if not waiting:
            log(f"waiting for {holder}, which reads {names}")
        waiting = True
        time.sleep(_RETRY_S)


def _try(stack: ExitStack, root: Path, paths: tuple[Path, ...], *, alone: bool) -> str | None:
    """Take the locks and leave them to `stack`, or return who holds one of them."""
    from dvc.fs import LocalFileSystem
    from dvc.lock import LockError, make_lock
    from dvc.rwlock import rwlock

    folder, hardlink = (root / _FOLDER).resolve(), _hardlink(root)
    folder.mkdir(parents=True, exist_ok=True)
    written = [str(name) for path in paths for name in _names(path)]
    with _dvc_errors(root), ExitStack() as taken:
        try:
            if alone:
                taken.enter_context(make_lock(str(folder / "lock"), tmp_dir=str(folder), hardlink_lock=hardlink))
            taken.enter_context(rwlock(str(folder), LocalFileSystem(), " ".join(sys.argv), [], written, hardlink))
        except LockError as error:
            blockers = [f"`{command}` (pid {pid})" for pid, command in re.findall(r"\(PID (\d+)\): (.*)", str(error))]
            return blockers[0] if blockers else "another DVC command"
        stack.push(taken.pop_all())
    return None


def _names(path: Path) -> set[Path]:
    """Return a path as DVC names it, and the file that it links to: another stage may depend on that."""
    return {path.parent.resolve() / path.name, path.resolve()}


def remove_stale(root: Path, log: Log) -> None:
    """Remove from DVC's lock what no living process holds, and the whole file if it cannot be read.

    DVC takes every process with the pid of an entry for its holder. After a reboot, or in another container, that may
    be any process, and each DVC command fails until somebody removes the file.
    """
    file = root / _FOLDER / "rwlock"
    if not file.exists() or not _stale(_read(file), file):
        return
    from dvc.lock import make_lock

    folder, hardlink = file.parent.resolve(), _hardlink(root)
    with _dvc_errors(root), make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder), hardlink_lock=hardlink):
        held = _read(file)
        stale = _stale(held, file)
        if held is None:
            file.unlink(missing_ok=True)
            log(f"note: {file} could not be read, as after a crash, and was removed")
        elif stale:
            write_text(file, json.dumps(_without(held, stale)))
            for entry in stale:
                log(f"note: {file}: a lock was removed, for its holder has ended: pid {entry['pid']}, {entry['cmd']}")


def _read(file: Path) -> dict[str, Any] | None:
    """Return the entries by mode and path, or None if the file is none that DVC could read."""
    try:
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        entries = _entries(held)
        sound = all(isinstance(entry["pid"], int) and isinstance(entry["cmd"], str) for entry in entries)
        return held if sound and held.keys() <= {"read", "write"} else None
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _entries(held: dict[str, Any]) -> list[dict[str, Any]]:
    return [*held.get("write", {}).values(), *(entry for some in held.get("read", {}).values() for entry in some)]


def _stale(held: dict[str, Any] | None, file: Path) -> list[dict[str, Any]]:
    """Return the entries without a living holder, each once; one that stands for all if nothing could be read."""
    if held is None:
        return [{}]
    written = file.stat().st_mtime
    distinct = {(entry["pid"], entry["cmd"]): entry for entry in _entries(held)}
    return [entry for entry in distinct.values() if not _holds(entry, written)]


def _holds(entry: dict[str, Any], written: float) -> bool:
    """Return whether an entry's process lives, started before the file was written, and runs the entry's command."""
    try:
        process = psutil.Process(entry["pid"])
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > written + _CLOCK_S:
            return False
        options = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # of another user: it cannot be looked into
        return True
    _, space, last = entry["cmd"].rpartition(" ")
    return not space or options.endswith(last)


def _without(held: dict[str, Any], stale: list[dict[str, Any]]) -> dict[str, Any]:
    read = {path: [each for each in some if each not in stale] for path, some in held.get("read", {}).items()}
    return {
        "write": {path: entry for path, entry in held.get("write", {}).items() if entry not in stale},
        "read": {path: some for path, some in read.items() if some},
    }


def _hardlink(root: Path) -> bool:
    """Return whether DVC is set up to lock by hard links, for file systems without other locks."""
    from dvc.config import Config

    with _dvc_errors(root):
        return bool(Config(str(root / _FOLDER.parent))["core"].get("hardlink_lock", False))


@contextmanager
def _dvc_errors(root: Path) -> Iterator[None]:
    """Raise what DVC refuses, such as a damaged configuration, as one line."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        raise PipelineError(
            f"DVC cannot be used in {root.resolve()}", found=str(error).splitlines()[0], next_step="dvc status"
        ) from None
