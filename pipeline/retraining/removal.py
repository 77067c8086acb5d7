"""Removal of batches that are stored elsewhere: at once for the next run, then file by file.

Half of a folder would be another batch, so a batch is first moved out of the way. What cannot be removed is reported
and does no harm: it is known to be dealt with.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def remove(path: Path, done: Path) -> Path | None:
    """Remove a batch, and return its leftover in the folder `done` if it cannot be removed."""
    done.mkdir(exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=done))
    path.replace(aside / path.name)
    delete(aside)
    with suppress(OSError):
        done.rmdir()
    return aside / path.name if aside.exists() else None


def delete(folder: Path) -> None:
    """Delete as much of a folder as is possible; folders without write permission get it first.

    No link is followed, also where a sender put one in the folder's place.
    """
    if folder.is_symlink():
        folder.unlink()
        return
    with suppress(OSError):
        folder.chmod(0o700)
    for parent, names, _ in os.walk(folder):
        for inside in (Path(parent, name) for name in names):
            if not inside.is_symlink():
                with suppress(OSError):  # of another user
                    inside.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
