"""Transfers a task's files to a machine without a shared disk, and back."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.core.files import new_folder

Files = dict[str, npt.NDArray[np.uint8]]  # content by path inside a folder


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


def at_hand(folder: Path, mark: str, files: Mapping[str, npt.NDArray[np.uint8]]) -> Path:
    """Return a local path of a packed folder: the folder itself on a shared disk, otherwise a copy, made once.

    Args:
        folder: Path of the folder on the machine that packed it.
        mark: Its `fingerprint` on that machine.
        files: Its packed content.
    """
    if folder.is_dir() and fingerprint(folder) == mark:
        return folder
    copy = Path(tempfile.gettempdir()) / f"vision-pipeline-{os.getuid()}" / mark
    if not copy.exists():
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
            unpack(files, Path(scratch) / mark)
            try:
                (Path(scratch) / mark).rename(copy)
            except OSError:  # another worker of this machine has made the copy
                if not copy.exists():
                    raise
    return copy
