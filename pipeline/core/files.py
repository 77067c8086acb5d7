"""Files and folders that appear whole or not at all, whatever is killed in between.

A file is written under a temporary name that no other process uses, then renamed. What a killed process leaves is
removed when the same file or folder is written again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.core.errors import PipelineError

_STEM = 100  # bytes of the name in a temporary name, which has at most 255
_STALE_S = 24 * 3600.0  # chosen: after it, a temporary file of another machine is a leftover


@contextmanager
def new_folder(folder: Path, *, keep: bool = True) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` at the end of the block, and is removed on an exception.

    Args:
        folder: The folder to create or replace.
        keep: False removes the temporary folder in any case: a place to work in, on the same disk.
    """
    with temporary(folder) as partial:
        partial.mkdir()
        yield partial
        if keep:
            sync(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)


@contextmanager
def new_file(path: Path, *, mode: int | None = None) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `path` when the block succeeds, and is removed when it fails.

    Args:
        path: The file to appear.
        mode: Its permissions; None leaves the default.
    """
    with temporary(path) as partial:
        yield partial
        publish(partial, path, mode=mode)


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield an unused path beside `path`, for a file or folder that is removed at the end unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{os.fsdecode(os.fsencode(path.name)[:_STEM])}."
    host = f"{zlib.crc32(socket.gethostname().encode()):08x}"
    _remove_leftovers(path.parent, stem, host)
    partial = path.with_name(f"{stem}{host}-{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
    finally:
        _remove(partial)


def publish(partial: Path, path: Path, *, mode: int | None = None) -> None:
    """Rename a temporary file once its content is on the disk."""
    _fsync(partial)
    if mode is not None:
        partial.chmod(mode)
    partial.replace(path)


def sync(folder: Path) -> None:
    """Wait until the content of all files below a folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            _fsync(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, with a final newline so that git diffs stay small."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: temporary name, fsync, rename."""
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def rewrite_text(path: Path, text: str) -> None:
    """Write a text file that belongs to a person: as `write_text` does, through links, with its owner, group and mode.

    Raises:
        PipelineError: This user may not write it, or cannot keep its group; then it is as it was.
    """
    target = path.resolve()
    try:
        with new_file(target) as partial:
            partial.write_text(text, encoding="utf-8")
            if target.exists():
                _keep_access(partial, target.stat())
    except PermissionError as error:
        raise PipelineError(
            f"{path} cannot be written",
            found=error.strerror,
            done="it is as it was",
            next_step=f"let this user write {target.parent}, and belong to the group of {target.name}",
        ) from None


def _keep_access(partial: Path, found: os.stat_result) -> None:
    """Give a new file the group and mode of the one that it replaces, and its owner where this user may."""
    with suppress(PermissionError):  # only root may
        os.chown(partial, found.st_uid, -1)
    if partial.stat().st_gid != found.st_gid:
        os.chown(partial, -1, found.st_gid)
    partial.chmod(stat.S_IMODE(found.st_mode))


def unwritable(folder: Path) -> str | None:
    """Return why this user can neither write to a folder nor create it; None if it can."""
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not existing.is_dir():
        return f"{existing}, which is no folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing}, to which this user may not write"


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_leftovers(folder: Path, stem: str, host: str) -> None:
    """Remove temporary files of processes that have ended: of this machine at once, of others after a day."""
    for path in folder.iterdir():
        if path.name.startswith(stem) and path.suffix == ".partial":
            owner, _, process = path.name[len(stem) :].partition("-")
            pid = process.partition("-")[0]
            with suppress(OSError):
                ended = owner == host and pid.isdigit() and not psutil.pid_exists(int(pid))
                if ended or time.time() - path.lstat().st_mtime > _STALE_S:
                    _remove(path)
