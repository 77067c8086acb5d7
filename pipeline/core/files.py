"""Files and folders that appear whole or not at all, whatever is killed in between."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_folder(folder: Path, *, keep: bool = True) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` at the end of the block, and is removed on an exception.

    Args:
        folder: The folder to create or replace.
        keep: False removes the temporary folder in any case: a place to work in, on the same disk.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    partial.mkdir()
    try:
        yield partial
        if keep:
            sync(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    _fsync(partial)
    partial.replace(path)


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
