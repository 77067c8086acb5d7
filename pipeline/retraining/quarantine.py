"""Quarantine: a folder per rejected batch, with the batch as it came and a report of the reasons."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import stat
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.core.files import sync, write_json
from pipeline.retraining import removal
from pipeline.retraining.places import Places, listed

_MOST_NAME = 200  # bytes of a folder's name, so that a number fits behind it; file systems allow 255


def put(path: Path, places: Places, report: dict[str, Any]) -> Path:
    """Write the report of a batch, then move the batch beside it, and return the path of the report.

    A batch that is in quarantine already, byte for byte, is removed: a killed run had copied it.
    """
    folder = _folder(path, places)
    there = os.path.lexists(folder / "batch" / path.name)
    (folder / "batch").mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report)
    if there or not _renamed(path, folder / "batch" / path.name):
        if not there:
            _copy(path, folder)
        removal.remove(path, places.done)
    return folder / "report.json"


def _folder(path: Path, places: Places) -> Path:
    """Return a folder without a batch (a killed run leaves a report alone), or the one with this batch."""
    stem = os.fsdecode(os.fsencode(path.name)[:_MOST_NAME])
    folders = (places.quarantine / (stem if n == 1 else f"{stem}-{n}") for n in count(1))
    return next(each for each in folders if not listed(each / "batch") or _same(path, each / "batch" / path.name))


def _renamed(source: Path, target: Path) -> bool:
    """Move a batch; return False if the target is on another disk."""
    try:
        os.rename(source, target)  # noqa: PTH104 - a link moves as a link
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _copy(source: Path, folder: Path) -> None:
    """Copy a batch to another disk: written, compared with the source, and only then given its name."""
    partial = folder / ".batch.partial"
    if partial.exists():  # left by a killed run
        removal.delete(partial)
    partial.mkdir()
    try:
        target = partial / source.name
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, target, symlinks=True, copy_function=_copy_file)
        else:
            _copy_file(source, target)
        sync(partial)
        if not _same(source, target):
            raise OSError(errno.EIO, "it was not copied to quarantine correctly")
        os.replace(partial, folder / "batch")  # noqa: PTH105 - onto the empty folder
    finally:
        if partial.exists():
            removal.delete(partial)


def _copy_file(source: Path | str, target: Path | str) -> None:
    if stat.S_ISFIFO(os.lstat(source).st_mode):
        os.mkfifo(target)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _same(one: Path, other: Path) -> bool:
    """Return whether two batches have the same files, byte for byte."""
    if not os.path.lexists(other):
        return False
    kinds = [stat.S_IFMT(path.lstat().st_mode) for path in (one, other)]
    if kinds[0] != kinds[1]:
        return False
    if one.is_symlink():
        return one.readlink() == other.readlink()
    if one.is_dir():
        names = [path.name for path in listed(one)]
        return names == [path.name for path in listed(other)] and all(_same(one / name, other / name) for name in names)
    return not one.is_file() or filecmp.cmp(one, other, shallow=False)
