"""The sources of a dataset's file, in the order in which `download` tries them."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline.core.addresses import without_secrets
from pipeline.datasets.arrays import Pin, PinnedFile, SourceSettings


class Unavailable(Exception):
    """A source does not have the file; if `unreachable`, the connection failed and a later attempt may succeed."""

    def __init__(self, reason: str, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable


@dataclass(frozen=True)
class Environment:
    """MIRROR, a folder or URL, and the folder in which the command was started."""

    mirror: str | None = None
    typed_in: Path = Path()


@dataclass(frozen=True)
class Candidate:
    """A URL or path that may have a file, and the pin that the file must meet there."""

    location: str
    pin: Pin

    @property
    def key(self) -> str:
        """The name of its partial file: bytes of one source are never continued with those of another."""
        return hashlib.sha256(f"{self.location} {self.pin.sha256}".encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return without_secrets(self.location)


def candidates(dataset: str, pin: PinnedFile, settings: SourceSettings, around: Environment) -> list[Candidate]:
    """Return the URLs and paths that may have a file, in the order in which they are tried."""
    mirror = around.mirror.rstrip("/") if around.mirror else None
    found = []
    for source in settings.sources:
        if source.file == pin.name:
            absolute = ":" in source.url.partition("/")[0] or Path(source.url).is_absolute()
            if mirror and not absolute and not source.url.startswith(".."):
                found.append(Candidate(f"{mirror}/{source.url}", source))
            found.append(Candidate(source.url if absolute else str(around.typed_in / source.url), source))
    bases = [f"{mirror}/{dataset}"] if mirror else []
    return found + [Candidate(f"{base.rstrip('/')}/{pin.name}", pin) for base in [*bases, *settings.mirrors]]


def locate(source: str) -> Path | None:
    """Return the path a source means, or None for one that is reached over HTTP.

    ``package:sklearn/datasets/data/x.gz`` is a file inside an installed package, found without importing it.

    Raises:
        Unavailable: The package is not installed, the URL is malformed, or its scheme is not known.
    """
    scheme, separator, rest = source.partition(":")
    if scheme in ("http", "https"):
        return None
    if scheme == "file":
        try:
            return Path(url2pathname(urlsplit(source).path))
        except ValueError:
            raise Unavailable("malformed URL") from None
    if scheme == "package":
        package, _, inside = rest.partition("/")
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # a dotted name without its parent, or an empty name
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise Unavailable(f"no package {package} is installed")
        return Path(spec.submodule_search_locations[0]) / inside
    if separator and rest.startswith("//"):
        raise Unavailable(f"{scheme}: is not supported (https, http, file or a folder)")
    return Path(source)
