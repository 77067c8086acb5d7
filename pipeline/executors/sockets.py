"""A folder for the sockets of worker processes: the path of a socket has at most 107 characters, 103 on macOS.

Python's fork server puts its socket into the folder for temporary files. Where that has a long path, as in batch jobs
and build systems, another one is used for the socket alone.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.errors import EngineError

MISSING = "no folder can hold the socket of worker processes"
EXPECTED = "a short TMPDIR that this user can write to, /tmp, /var/tmp or /dev/shm"
NEXT_STEP = "set TMPDIR to such a folder"
_PREFIX, _NAME = "pymp-", "listener-12345678"  # as multiprocessing names the folder and the socket in it


def folder() -> Path | None:
    """Return a folder in which a socket can be made: that for temporary files if possible. None if there is none."""
    return _first_of((tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"))


@contextmanager
def in_short_folder() -> Iterator[None]:
    """Make new temporary folders where a socket can be made.

    Raises:
        EngineError: There is no such place.
    """
    place = folder()
    if place is None:
        raise EngineError(MISSING, expected=EXPECTED, found=tempfile.gettempdir(), next_step=NEXT_STEP)
    before = tempfile.tempdir
    tempfile.tempdir = str(place)
    try:
        yield
    finally:
        tempfile.tempdir = before


@functools.cache
def _first_of(places: tuple[str, ...]) -> Path | None:
    return next((Path(place) for place in places if place and _takes(place)), None)


def _takes(place: str) -> bool:
    """Return whether a socket can be made in a folder: by making one."""
    try:
        trial = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(Path(trial, _NAME)))
    except OSError:
        return False
    finally:
        with suppress(OSError):
            shutil.rmtree(trial)
    return True
