"""One file from one source: copied or resumed, bounded and hashed on the way, and only then called by its name."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Generator
from pathlib import Path

from pipeline.datasets.arrays import Pin
from pipeline.datasets.download import http
from pipeline.datasets.download.sources import Candidate, locate
from pipeline.datasets.download.timeouts import WORTH_A_WAIT, Broken, Unavailable, WaitBudget

_CHUNK = 1 << 18
_REPACKED_SLACK = 1 << 16  # incompressible data grows by gzip's headers


class Part:
    """A file that grows: bytes are counted and hashed as they come, those of an earlier run when it is made."""

    def __init__(self, path: Path, limit: int, show: Callable[[int], None]) -> None:
        self.path, self.limit, self.show = path, limit, show
        self._note = path.with_name(f"{path.name}.validator")
        self.sha, self.size, self.resumed = hashlib.sha256(), 0, False
        if path.exists():
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    self.sha.update(chunk)
                    self.size += len(chunk)

    @property
    def validator(self) -> str:
        """What the server that sent the bytes calls this edition of the file; empty when it has no name."""
        return self._note.read_text(encoding="utf-8") if self._note.exists() else ""

    def restart(self, validator: str = "") -> None:
        """Forget the bytes, and note the edition of those that are to come."""
        self.path.write_bytes(b"")
        self._note.write_text(validator, encoding="utf-8")
        self.sha, self.size, self.resumed = hashlib.sha256(), 0, False

    def extend(self, chunks: Generator[bytes]) -> None:
        """Append what comes, as it comes; raise `Unavailable` when it is too much."""
        with self.path.open("ab", buffering=0) as file:
            for chunk in chunks:
                if self.size + len(chunk) > self.limit:
                    raise Unavailable(f"sends more than {self.limit:,} bytes; cut off")
                file.write(chunk)
                self.sha.update(chunk)
                self.size += len(chunk)
                self.show(self.size)

    def remove(self) -> None:
        """Leave nothing behind."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def obtain(candidate: Candidate, target: Path, patience: WaitBudget, show: Callable[[int], None]) -> None:
    """Make `target` a file that meets the candidate's pin, going on where an earlier run broke off.

    Raises:
        Unavailable: The candidate does not have that file. What has arrived of it lies beside `target` if the rest may
            be had later, and is gone if not.
    """
    pin = candidate.pin
    limit = pin.bytes if pin.unpacked_bytes is None else max(pin.bytes, pin.unpacked_bytes + _REPACKED_SLACK)
    part = Part(target.with_name(f"{target.name}.{candidate.key}.part"), limit, show)
    try:
        wrong = _fill(part, candidate, patience)
        if wrong and part.resumed:  # the earlier bytes may be to blame
            part.restart()
            wrong = _fill(part, candidate, patience)
    except Unavailable as error:
        if not error.unreachable and not patience.over.is_set():
            part.remove()
        raise
    if wrong:
        part.remove()
        raise Unavailable(f"{wrong}; file removed")
    part.path.replace(target)
    part.remove()


def _fill(part: Part, candidate: Candidate, patience: WaitBudget) -> str | None:
    """Bring all bytes of a file; return why it does not meet its pin, or None."""
    path = locate(candidate.location)
    if path is not None:
        part.restart()
        part.extend(_read(path))
    elif part.sha.hexdigest() != candidate.pin.sha256:
        _transfer(candidate.location, part, patience)
    return _mismatch(part.sha.hexdigest(), part.path, candidate.pin)


def _transfer(url: str, part: Part, patience: WaitBudget) -> None:
    """Ask for what is missing until it is there; a connection that brings nothing new is tried again a few times."""
    import urllib3

    tries, furthest = http.retries(), part.size
    if part.size >= part.limit:
        part.restart()
    while True:
        try:
            with http.ask(url, part.size, part.validator, patience) as answer:
                if answer.announced > part.limit:
                    raise Unavailable(f"announces {answer.announced:,} bytes, more than {part.limit:,}")
                if answer.offset == 0:
                    part.restart(answer.validator)
                part.resumed = answer.offset > 0
                part.extend(answer.chunks())
                return
        except Broken as error:
            if part.size >= furthest + WORTH_A_WAIT:
                tries = http.retries()
            furthest = max(furthest, part.size)
            try:
                tries = tries.increment("GET", url, error=urllib3.exceptions.ProtocolError(str(error)))
            except urllib3.exceptions.MaxRetryError:
                raise Unavailable(str(error), unreachable=True) from None
            tries.sleep()


def mismatch(path: Path, pin: Pin) -> str | None:
    """Return why a file does not meet its pin, or None when it does: as it lies there, or by its unpacked content."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return _mismatch(found, path, pin)


def _mismatch(found: str, path: Path, pin: Pin) -> str | None:
    if found == pin.sha256:
        return None
    reason = f"expected sha256 {pin.sha256} found {found}"
    if (size := path.stat().st_size) != pin.bytes:
        reason += f" ({size:,} bytes instead of {pin.bytes:,})"
    if pin.unpacked_bytes is None:
        return reason
    unpacked = _unpacked_sha256(path, pin.unpacked_bytes)
    return None if unpacked == pin.unpacked_sha256 else f"{reason} (unpacked {unpacked})"


def _read(path: Path) -> Generator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise Unavailable(f"{error.strerror or error}") from None


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
