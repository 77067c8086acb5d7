"""One file from one source: copied or resumed, never larger than its pin, and renamed once it is verified."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.datasets.arrays import Pin
from pipeline.datasets.download.http import HttpClient
from pipeline.datasets.download.partial_file import PartialFile
from pipeline.datasets.download.sources import Candidate, Unavailable, locate

_CHUNK = 1 << 18
_REPACKED_SLACK = 1 << 16  # incompressible data grows by gzip's headers


def obtain(candidate: Candidate, target: Path, client: HttpClient, show: Callable[[int], None]) -> None:
    """Make `target` a file that meets the candidate's pin, resuming the partial file of an earlier run.

    Raises:
        Unavailable: The candidate does not have that file. The partial file beside `target` is kept if the connection
            failed, and removed otherwise.
    """
    pin = candidate.pin
    limit = pin.bytes if pin.unpacked_bytes is None else max(pin.bytes, pin.unpacked_bytes + _REPACKED_SLACK)
    part = PartialFile(target.with_name(f"{target.name}.{candidate.key}.part"), limit, show)
    try:
        wrong, resumed = mismatch(part.path, pin) if part.size else "empty", False
        if wrong:
            resumed = _complete(part, candidate.location, client)
            wrong = mismatch(part.path, pin)
        if wrong and resumed:  # the earlier bytes may be to blame
            part.restart()
            _complete(part, candidate.location, client)
            wrong = mismatch(part.path, pin)
        if wrong:
            raise Unavailable(f"{wrong}; file removed")
    except Unavailable as error:
        if not error.unreachable:
            part.remove()
        raise
    part.path.replace(target)
    part.remove()


def _complete(part: PartialFile, location: str, client: HttpClient) -> bool:
    """Fetch or copy what is missing; return whether earlier bytes were kept."""
    path = locate(location)
    if path is None:
        return client.download(location, part)
    part.restart()
    part.append(_read(path))
    return False


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise Unavailable(f"{error.strerror or error}") from None
    except ValueError:  # a null byte
        raise Unavailable("malformed path") from None


def mismatch(path: Path, pin: Pin) -> str | None:
    """Return why a file does not meet its pin, or None when it does: as served, or by its unpacked content."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == pin.sha256:
        return None
    message = f"expected sha256 {pin.sha256} found {found}"
    if (size := path.stat().st_size) != pin.bytes:
        message += f" ({size:,} bytes instead of {pin.bytes:,})"
    if pin.unpacked_bytes is None:
        return message
    unpacked = _unpacked_sha256(path, pin.unpacked_bytes)
    return None if unpacked == pin.unpacked_sha256 else f"{message} (unpacked {unpacked})"


def _unpacked_sha256(path: Path, limit: int) -> str:
    """Return the sha256 of a gzip file's content, or why it has none; reads at most a chunk beyond `limit`."""
    sha, size = hashlib.sha256(), 0
    try:
        with gzip.open(path) as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    return f"more than {limit:,} bytes"
                sha.update(chunk)
    except (EOFError, zlib.error, OSError) as error:
        return f"not possible: {error}"
    return sha.hexdigest()
