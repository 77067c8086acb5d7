"""Transfers a task's files to a machine without a shared disk, and back."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.core.files import new_folder

Files = dict[str, npt.NDArray[np.uint8]]  # content by path inside a folder
_TRIES = 5  # at putting a copy in its place, while other workers of the machine do the same


@dataclass(frozen=True)
class Mark:
    """What identifies a packed folder on every machine.

    Attributes:
        fingerprint: From the names, sizes and times of its files; see `fingerprint`.
        digest: From their names and contents; see `digest`.
    """

    fingerprint: str
    digest: str


@runtime_checkable
class Portable(Protocol):
    """A task that lists its files. Its folder contains subfolders only, each of which appears complete."""

    @property
    def inputs(self) -> Sequence[Path]:
        """Folders that are only read, shared by many tasks."""

    @property
    def folder(self) -> Path:
        """Folder that only this task reads and writes."""

    @property
    def ledger(self) -> Path:
        """File to which the task appends lines."""

    def placed(self, inputs: Sequence[Path], folder: Path, ledger: Path) -> Any:
        """Return the same task with other paths of its files."""


def pack(folder: Path) -> Files:
    """Return the files of a folder; empty if it does not exist."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in paths}


def unpack(files: Mapping[str, npt.NDArray[np.uint8]], folder: Path) -> None:
    """Write packed files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content.tofile(folder / name)


def bring_home(files: Mapping[str, npt.NDArray[np.uint8]], folder: Path) -> None:
    """Copy a task's remote changes into its folder: first add new subfolders, then delete the removed ones."""
    names = {name.partition("/")[0] for name in files}
    for name in sorted(names):
        if not (folder / name).exists():
            inside = {path.partition("/")[2]: content for path, content in files.items() if path.startswith(f"{name}/")}
            with new_folder(folder / name) as partial:
                unpack(inside, partial)
    for path in folder.iterdir():
        if path.name not in names:
            shutil.rmtree(path)


def fingerprint(folder: Path) -> str:
    """Return a fingerprint of a folder from the names, sizes and times of its files, without reading them."""
    files = [
        (path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def digest(files: Mapping[str, npt.NDArray[np.uint8]]) -> str:
    """Return a digest of packed files: of their names and contents."""
    return _digest((name, files[name]) for name in sorted(files))


def at_hand(folder: Path, mark: Mark, files: Mapping[str, npt.NDArray[np.uint8]]) -> Path:
    """Return a local path of a packed folder: the folder itself on a shared disk, otherwise a copy, made once.

    What is found on this machine is used only if its content is what was packed: a cleaner of temporary files may have
    removed a part of a copy, and another user may have put something in its place. Otherwise it is made again.

    Args:
        folder: Path of the folder on the machine that packed it.
        mark: Its mark on that machine.
        files: Its packed content.
    """
    if folder.is_dir() and fingerprint(folder) == mark.fingerprint and _holds(folder, mark.digest):
        return folder
    copy = _own_folder() / mark.digest[:16]
    for _ in range(_TRIES):
        if _holds(copy, mark.digest):
            return copy
        with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
            unpack(files, Path(scratch) / "new")
            _place(Path(scratch), copy, mark)
    raise OSError(f"{copy} does not hold the files that were written into it")


def _place(scratch: Path, copy: Path, mark: Mark) -> None:
    """Put ``new`` of a scratch folder in a copy's place, unless another worker was faster; remove anything else."""
    with suppress(OSError):  # something lies there
        (scratch / "new").rename(copy)
    if not _holds(copy, mark.digest):
        with suppress(OSError):  # another worker has taken it away
            copy.rename(scratch / "old")


def _holds(folder: Path, expected: str) -> bool:
    """Return whether a folder holds the files with a digest; a process reads them once, unless they change."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        return _read_digest(folder, fingerprint(folder)) == expected
    except OSError:  # a file vanished meanwhile, or cannot be read
        return False


@functools.lru_cache(maxsize=32)
def _read_digest(folder: Path, _fingerprint: str) -> str:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return _digest((name, np.fromfile(paths[name], np.uint8)) for name in sorted(paths))


def _digest(files: Iterable[tuple[str, npt.NDArray[np.uint8]]]) -> str:
    whole = hashlib.sha256()
    for name, content in files:
        whole.update(f"{name}\0{len(content)}\0".encode())
        whole.update(np.ascontiguousarray(content).data)
    return whole.hexdigest()


def _own_folder() -> Path:
    """Return a folder for copies that only this user can write to."""
    shared = Path(tempfile.gettempdir()) / f"vision-pipeline-{os.getuid()}"
    try:
        shared.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = shared.lstat()
    except OSError:  # another user's file or broken link has its name
        return Path(_private_folder().name)
    closed = not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return (
        shared
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and closed
        else Path(_private_folder().name)
    )


@functools.cache
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder of this process, where the one that a user's workers share is not the user's own."""
    return tempfile.TemporaryDirectory(prefix="vision-pipeline-")
