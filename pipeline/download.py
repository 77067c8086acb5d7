"""Stage `download`: fetch a dataset's files and check each against its pin.

Sources are tried in order: MIRROR from the environment (a folder or URL, laid out ``<dataset>/<file>``), then the
mirrors of params.yaml. Files are fetched to a partial folder and only a complete, verified set becomes the output, so
that an interrupted run fetches only what is missing, and nothing unverified is ever read.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import os
import shutil
import sys
import zlib
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline import entry, params
from pipeline.datasets.base import PinnedFile, SourceSettings, new_folder
from pipeline.errors import DownloadError
from pipeline.transfer import Patience, Progress, Unavailable, stream

_CHUNK = 1 << 18
_REPACKED_SLACK = 1 << 16  # incompressible data grows by gzip's headers
_NOTHING_TO_FETCH = "This dataset is drawn from its settings in params.yaml.\n"
_OFFLINE = (
    "offline? `make demo` runs on embedded data, or set MIRROR=<folder or URL laid out <dataset>/<file>> and run again"
)


class Settings(SourceSettings, extra="ignore"):
    """The dataset's section under ``download``; keys that its format declares beside are for the format to check."""


@dataclass(frozen=True)
class Result:
    """The verified files of a dataset, and where each came from (``kept`` for one that was there already)."""

    folder: Path
    sources: dict[str, str]


def run(dataset: str, settings: Settings, partial: Path, output: Path, mirror: str | None = None) -> Result:
    """Make `output` hold exactly the pinned files, as served.

    Args:
        dataset: Its name, a folder of MIRROR.
        settings: Pins and mirrors.
        partial: Where files lie until all are there; never inside an output.
        output: Appears whole or not at all.
        mirror: The value of MIRROR, a folder or URL; tried before the mirrors of params.

    Raises:
        DownloadError: No source has a file, or only files that do not match the pin.
    """
    partial.mkdir(parents=True, exist_ok=True)
    patience = Patience()
    came_from: dict[str, str] = {}
    at: dict[str, Path] = {}
    for pin in settings.files:
        kept = present(pin, [output, partial])
        at[pin.name] = kept or partial / pin.name
        sources = candidates(dataset, pin, settings.mirrors, mirror)
        came_from[pin.name] = "kept" if kept else _fetch(dataset, pin, sources, partial, patience)
    if {path.parent for path in at.values()} != {output} or {path.name for path in output.iterdir()} != set(at):
        with new_folder(output) as folder:
            for name, path in at.items():
                _link(path, folder / name)
            if not at:
                (folder / "README.txt").write_text(_NOTHING_TO_FETCH)  # DVC warns of an empty output
    for name in at:
        (partial / name).unlink(missing_ok=True)
    with suppress(OSError):  # something else lies there: not ours to remove
        partial.rmdir()
    return Result(output, came_from)


def present(pin: PinnedFile, folders: list[Path]) -> Path | None:
    """Return where a file that meets its pin lies already, or None when it is needed; files are hashed, not trusted."""
    paths = [folder / pin.name for folder in folders]
    return next((path for path in paths if path.is_file() and mismatch(path, pin) is None), None)


def candidates(dataset: str, pin: PinnedFile, mirrors: tuple[str, ...], mirror: str | None) -> list[str]:
    """Return the URLs and paths a file may come from, in the order they are to be tried."""
    bases = [f"{mirror.rstrip('/')}/{dataset}"] if mirror else []
    return [f"{base.rstrip('/')}/{pin.name}" for base in [*bases, *mirrors]]


def mismatch(path: Path, pin: PinnedFile) -> str | None:
    """Return why a file does not meet its pin, or None when it does: as it lies there, or by its unpacked content."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == pin.sha256:
        return None
    told = f"expected sha256 {pin.sha256} found {found}"
    if pin.unpacked_bytes is None:
        return told
    unpacked = _unpacked_sha256(path, pin.unpacked_bytes)
    return None if unpacked == pin.unpacked_sha256 else f"{told} (unpacked {unpacked})"


def locate(source: str) -> Path | None:
    """Return the path a source means, or None for one that is reached over HTTP.

    ``package:sklearn/datasets/data/x.gz`` is a file inside an installed package, found without importing it.

    Raises:
        Unavailable: The package is not installed, or the URL's scheme is not known.
    """
    scheme, separator, rest = source.partition(":")
    if scheme in ("http", "https"):
        return None
    if scheme == "file":
        return Path(url2pathname(urlsplit(source).path))
    if scheme == "package":
        package, _, inside = rest.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise Unavailable(f"no package {package} is installed")
        return Path(spec.submodule_search_locations[0]) / inside
    if separator and rest.startswith("//"):
        raise Unavailable(f"{scheme}: is not supported (https, http, file or a folder)")
    return Path(source)


def _fetch(dataset: str, pin: PinnedFile, sources: list[str], partial: Path, patience: Patience) -> str:
    """Return the first source whose file meets the pin, which then lies in the partial folder."""
    refused: list[str] = []
    unreachable = False
    part = partial / f"{pin.name}.part"
    for source, following in zip(sources, [*sources[1:], None], strict=True):
        try:
            _store(source, pin, part, patience)
            wrong = mismatch(part, pin)
        except Unavailable as error:
            wrong, unreachable = str(error), unreachable or error.unreachable
        else:
            if wrong is None:
                part.replace(partial / pin.name)
                return source
            wrong += "; file removed"
        part.unlink(missing_ok=True)
        refused.append(f"{source} ({wrong})")
        if following is not None:
            print(f"{dataset}: {pin.name} from {source}: {wrong}; next mirror: {following}", file=sys.stderr)
    online = "correct download's mirrors in params.yaml, or set MIRROR=<folder or URL laid out <dataset>/<file>>"
    raise DownloadError(
        f"{dataset}: {pin.name} is at none of its {len(sources)} sources: {', '.join(refused)}",
        next_step=_OFFLINE if unreachable else online,
    )


def _store(source: str, pin: PinnedFile, part: Path, patience: Patience) -> None:
    """Copy a source's bytes to a file, never more than a file that meets the pin could have."""
    limit = pin.bytes if pin.unpacked_bytes is None else max(pin.bytes, pin.unpacked_bytes + _REPACKED_SLACK)
    written = 0
    progress = Progress(pin.name, pin.bytes)
    path = locate(source)
    chunks = _read(path) if path else stream(source, limit, patience)
    with part.open("wb") as file, progress, closing(chunks):
        for chunk in chunks:
            written += len(chunk)
            if written > limit:
                raise Unavailable(f"sends more than {limit:,} bytes; cut off")
            file.write(chunk)
            progress.advance(len(chunk))


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


def _link(source: Path, target: Path) -> None:
    """Give a verified file its place without copying where the file system allows; the partial stays until the end."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def main() -> None:
    """Run the stage as dvc.yaml calls it."""
    parser = argparse.ArgumentParser(prog="pipeline.download", description=run.__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--partial", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    settings = params.load(f"download.{args.dataset}", Settings)
    result = run(args.dataset, settings, args.partial, args.output, os.environ.get("MIRROR"))
    for name, source in result.sources.items():
        print(f"{args.dataset}: {name} verified ({source})")


if __name__ == "__main__":
    entry.stage(main)
