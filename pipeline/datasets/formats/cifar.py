"""Source format `cifar`: CIFAR-10's binary edition, a tar archive of records. No pickle, nothing extracted to disk.

Layout (https://www.cs.toronto.edu/~kriz/cifar.html): ``data_batch_1.bin`` to ``data_batch_5.bin`` and
``test_batch.bin``; a record is one label byte and 3,072 bytes of pixels: the red, green and blue planes in that order.
``batches.meta.txt`` lists the classes, one per line. An archive is untrusted input: member names, sizes and the
unpacked size are checked before they are used.

Memory: the images (184 MB for CIFAR-10), and one batch (31 MB) while it is copied.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np
import pydantic

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, Labelled, Labels, RawImages, SourceSettings

_FOLDER = "cifar-10-batches-bin"
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = "test_batch.bin"
_META = "batches.meta.txt"
_SIDE, _CHANNELS = 32, 3
_RECORD = 1 + _CHANNELS * _SIDE * _SIDE
_MAX_META = 4096  # bytes; the official file has 61
_MAX_MEMBERS = 32  # the official archive has 9; archive tools may add others
_SLACK = 1 << 20  # bytes for headers, padding and a readme in addition to the batches
_MAX_RATIO = 100  # chosen: photographs compress by less than a tenth, a zip bomb a thousandfold
_RATIO_FROM = 1 << 20  # unpacked bytes; short texts may compress well


class Settings(SourceSettings):
    """The dataset's section under ``download``: one archive."""

    batch_images: pydantic.PositiveInt  # in each of the six batches


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels, or an upper limit of it; None if the settings do not say."""
    del settings
    return _SIDE


def read(folder: Path, settings: Settings) -> RawImages:
    """Return the images as (N, 32, 32, 3).

    Raises:
        DataError: The archive is missing or damaged, lacks a member, or has one that is not allowed.
    """
    if len(settings.files) != 1:
        raise DataError("download: files", expected="one archive", found=len(settings.files))
    path = folder / settings.files[0].name
    content = _Content(path, settings)
    limit = (len(_TRAIN) + 1) * settings.batch_images * _RECORD + _SLACK
    try:
        with path.open("rb") as file, _Bounded(path, file, limit) as bounded:
            with tarfile.open(fileobj=cast(BinaryIO, bounded), mode="r|") as archive:
                _walk(archive, content, limit)
            bounded.drain()
    except FileNotFoundError:
        raise DataError(f"{path} is missing", next_step="dvc repro download") from None
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - tarfile raises many kinds, RecursionError for headers before a header
        raise DataError(
            f"{path} cannot be unpacked",
            expected="a complete tar archive",
            found=str(error),
            next_step="dvc repro -f download",
        ) from None
    return content.finish()


def _walk(archive: tarfile.TarFile, content: _Content, limit: int) -> None:
    """Read the wanted members in archive order; reject members that the official archive cannot contain."""
    for count, member in enumerate(archive, start=1):
        place = PurePosixPath(member.name)
        if count > _MAX_MEMBERS:
            raise content.error("has too many members", expected=f"at most {_MAX_MEMBERS}", found="more")
        if archive.offset > limit:  # of the next header: tarfile seeks to it, endlessly if the file is shorter
            found = f"{member.size:,} in {member.name}"
            raise content.error("declares too many bytes", expected=f"at most {limit:,} bytes", found=found)
        if place.is_absolute() or ".." in place.parts:
            raise content.error("has a member outside its folder", expected=_FOLDER, found=repr(member.name))
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            kind = "a link" if member.issym() or member.islnk() else "not a regular file"
            raise content.error(f"member {member.name} is {kind}", expected="files and folders", found=kind)
        if place.parent == PurePosixPath(_FOLDER) and place.name in content.readers:
            content.take(member, archive)


class _Bounded:
    """A reader of the unpacked bytes of a file, gzip or plain, that raises an error past a limit."""

    def __init__(self, path: Path, file: BinaryIO, limit: int) -> None:
        self.path, self._file, self._limit, self._count = path, file, limit, 0
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        self._source = gzip.GzipFile(fileobj=file) if packed else file

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *exception: object) -> None:
        if isinstance(self._source, gzip.GzipFile):
            self._source.close()

    def read(self, size: int) -> bytes:
        chunk = self._source.read(min(size, _RATIO_FROM))
        self._count += len(chunk)
        if self._count > self._limit:
            raise DataError(
                f"{self.path} unpacks to too many bytes", expected=f"at most {self._limit:,} bytes", found="more"
            )
        if self._count > _RATIO_FROM and self._count > _MAX_RATIO * self._file.tell():
            expected = f"at most {_MAX_RATIO} times its size"
            raise DataError(f"{self.path} is packed too tightly for images", expected=expected, found="more")
        return chunk

    def drain(self) -> None:
        """Read to the end, so that gzip verifies its checksum."""
        while self.read(_RATIO_FROM):
            pass


@dataclass
class _Content:
    """The content of an archive read so far; `finish` checks that it is complete."""

    path: Path
    settings: Settings
    images: dict[str, Images] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        size = self.settings.batch_images
        self.train: Images = np.empty((len(_TRAIN) * size, _SIDE, _SIDE, _CHANNELS), np.uint8)
        self.readers: dict[str, Callable[[str, bytes], None]] = dict.fromkeys((*_TRAIN, _TEST), self._batch)
        self.readers[_META] = self._names
        self._members_read: set[str] = set()

    def error(self, fault: str, *, expected: object, found: object) -> DataError:
        return DataError(f"{self.path} {fault}", expected=expected, found=found)

    def take(self, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        """Check the size of a wanted member and read it."""
        name = PurePosixPath(member.name).name
        if name in self._members_read:
            raise self.error(f"has {name} twice", expected="every member once", found="a second one")
        self._members_read.add(name)
        images = self.settings.batch_images
        if name == _META and member.size > _MAX_META:
            raise self.error(f"{name} is too large", expected=f"at most {_MAX_META:,} bytes", found=f"{member.size:,}")
        if name != _META and member.size % _RECORD:
            wanted = f"a multiple of {_RECORD:,} bytes"
            raise self.error(
                f"{name} does not have a whole number of records", expected=wanted, found=f"{member.size:,}"
            )
        if name != _META and member.size != images * _RECORD:
            found = f"{member.size // _RECORD:,}"
            raise self.error(f"{name} has the wrong number of images", expected=f"{images:,} images", found=found)
        source = archive.extractfile(member)
        self.readers[name](name, source.read(member.size) if source else b"")

    def _batch(self, name: str, content: bytes) -> None:
        """Store the images of a batch as (N, H, W, C)."""
        records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
        self.labels[name] = records[:, 0].astype(np.int64)
        outside = np.flatnonzero(self.labels[name] >= len(self.settings.classes))
        if len(outside):
            expected = f"0 to {len(self.settings.classes) - 1} (download's classes)"
            found = self.labels[name][outside[0]]
            raise self.error(f"{name}: label {outside[0]} is out of range", expected=expected, found=found)
        planes = records[:, 1:].reshape(-1, _CHANNELS, _SIDE, _SIDE)
        size = self.settings.batch_images
        start = _TRAIN.index(name) * size if name in _TRAIN else 0
        target = self.train[start : start + size] if name in _TRAIN else np.empty_like(self.train[:size])
        target[:] = planes.transpose(0, 2, 3, 1)
        self.images[name] = target

    def _names(self, name: str, content: bytes) -> None:
        """Check that the archive and params list the same classes in the same order, so that labels match."""
        expected = self.settings.classes
        try:
            found = tuple(line.strip() for line in content.decode("ascii").splitlines() if line.strip())
        except UnicodeDecodeError as error:
            raise self.error(f"{name} is not text", expected="one class name per line", found=error.reason) from None
        if len(found) != len(expected):
            raise self.error(f"{name} lists the wrong number of classes", expected=len(expected), found=len(found))
        for label, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
            if theirs != ours:
                wanted = f"{ours!r} (download's classes)"
                raise self.error(f"{name} names class {label} differently", expected=wanted, found=repr(theirs[:40]))
        self.classes = found

    def finish(self) -> RawImages:
        """Return the dataset.

        Raises:
            DataError: Members are missing.
        """
        missing = [name for name in (*_TRAIN, _TEST, _META) if name not in self._members_read]
        if missing or self.classes is None:
            found = ", ".join(sorted(self._members_read)) or "none of them"
            raise self.error(f"lacks {', '.join(missing)}", expected="six batches and their names", found=found)
        train = Labelled(self.train, np.concatenate([self.labels[name] for name in _TRAIN]))
        return RawImages(train, Labelled(self.images[_TEST], self.labels[_TEST]), self.classes)
