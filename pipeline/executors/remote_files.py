"""Files of a task, carried to a machine that does not share this one's disk, and back."""

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
    """A task that knows its files. What it leaves in its folder are subfolders, each complete once it is there."""

    @property
    def inputs(self) -> Sequence[Path]:
        """Folders that are only read, the same for many tasks."""

    @property
    def folder(self) -> Path:
        """Folder that is read and written, by this task alone."""

    @property
    def ledger(self) -> Path:
        """File that lines are added to."""

    def placed(self, inputs: Sequence[Path], folder: Path, ledger: Path) -> Any:
        """Return the same task with its files elsewhere."""


def pack(folder: Path) -> Files:
    """Return the files of a folder, of one that does not exist none."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in paths}


def unpack(files: Mapping[str, npt.NDArray[np.uint8]], folder: Path) -> None:
    """Write packed files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content.tofile(folder / name)


def bring_home(files: Mapping[str, npt.NDArray[np.uint8]], folder: Path) -> None:
    """Make a task's folder what it was where the task ran: first what is new, then without what was removed there."""
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
    """Return what tells a folder's content from another's without reading it all: names, sizes and times."""
    told = [
        (path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def at_hand(folder: Path, mark: str, files: Mapping[str, npt.NDArray[np.uint8]]) -> Path:
    """Return where a folder can be read on this machine: itself on a shared disk, else a copy, made once.

    Args:
        folder: Where it lies on the machine that packed it.
        mark: Its `fingerprint` there.
        files: Its content.
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
            except OSError:  # another worker of this machine was first
                if not copy.exists():
                    raise
    return copy
