"""Reader of labelled images in `.npz` files from untrusted senders.

An `.npz` file is a zip archive of `.npy` arrays. The headers of both are checked before anything is inflated: method,
type, shape and size. The header of an array is parsed here, not by NumPy: NumPy evaluates it as a Python literal, and
reads as many bytes as it declares.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.datasets import class_names as names
from pipeline.datasets.arrays import Images, Labelled

MOST_BATCH_BYTES = 2 << 30  # of a batch in memory (chosen): 2.7 million images of 28×28 pixels
_MEMBERS = ["images.npy", "labels.npy"]
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_MAGIC = b"\x93NUMPY"
_LENGTHS = {(1, 0): "<H", (2, 0): "<I"}  # of the header, by version
_MOST_TEXT = 4_000  # bytes of a text: 1,000 characters
_MOST_HEADER = 10_000  # bytes; NumPy's own default
_NAN_BYTES = 64 << 20  # of images of type float that are read to see whether they contain NaN
_NO_ZIP = {b"": "an empty file", b"PK": "only the start of an .npz file"}
_CHUNK = 1 << 20
_ENTRY = re.compile(
    r"""\s*(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*:\s*
        (?P<value>True|False|\(\s*(?:-?\d{1,18}L?\s*,\s*)*(?:-?\d{1,18}L?\s*)?\)|'[^'\\]{1,20}'|"[^"\\]{1,20}")\s*(?:,|$)""",
    re.VERBOSE,
)
_TYPE = re.compile(r"[<>|=]?[?A-Za-z]\d{0,6}")


@dataclass(frozen=True)
class _Header:
    """The header of an array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class _Contents:
    """The arrays of a file: images (N, H, W, C), labels (N,) that are numbers or texts, and further texts by name."""

    images: Images
    labels: npt.NDArray[Any]
    texts: dict[str, tuple[str, ...]]


def read_npz(path: Path) -> Labelled:
    """Return the images and labels of an accepted batch, with their files and groups where those are stored.

    ``images`` is uint8 of shape (N, H, W) or (N, H, W, C); ``labels`` are integers of shape (N,).

    Raises:
        DataError: The file is damaged, or has other arrays.
    """
    found = _opened(path, ("files", "groups"), None, None)
    if found.labels.dtype.kind not in "iu":
        raise DataError(f"{path.name}: labels", expected="integers of shape (N,)", found=found.labels.dtype)
    labels, texts = found.labels.astype(np.int64), found.texts
    return Labelled(found.images, labels, texts.get("files", ()), texts.get("groups", ()))


def read_batch(path: Path, shape: tuple[int, int, int], most_images: int, class_names: tuple[str, ...]) -> Labelled:
    """Return the images and labels of an incoming batch, with its groups where it has some.

    ``images`` is uint8 of shape (N, H, W) or (N, H, W, C). ``labels`` (N,) are names of classes, or integers: places in
    ``class_names`` where the file has this array, else numbers of the dataset's classes. ``groups`` (N,) may be there.

    Args:
        path: The file.
        shape: The shape that every image must have.
        most_images: The largest number of images.
        class_names: The names of the dataset's classes 0, 1, ….

    Raises:
        DataError: The file is damaged, has other arrays, declares more than the limits, or has labels whose meaning is
            not certain.
    """
    found = _opened(path, ("class_names", "groups", "group"), shape, most_images)
    labels, theirs = found.labels, found.texts.get("class_names")
    if labels.dtype.kind == "U":
        numbers = names.numbers(path.name, labels, class_names)
    elif theirs is not None:
        if len(set(theirs)) < len(theirs):
            raise DataError(f"{path.name}: class_names", expected="every name once", found=", ".join(theirs))
        outside = labels[(labels < 0) | (labels >= len(theirs))]
        if len(outside):
            expected = f"places in class_names, 0 to {len(theirs) - 1}"
            raise DataError(f"{path.name}: labels", expected=expected, found=outside[0])
        numbers = names.numbers(path.name, np.array(theirs, dtype=str)[labels.astype(np.int64)], class_names)
    else:
        names.require_plain_numbers(path.name, class_names)
        numbers = labels.astype(np.int64)
    files = tuple(f"{path.name}[{index}]" for index in range(len(numbers)))
    return Labelled(found.images, numbers, files, found.texts.get("groups") or found.texts.get("group") or ())


def _opened(
    path: Path, optional: tuple[str, ...], shape: tuple[int, int, int] | None, most_images: int | None
) -> _Contents:
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(path.name, archive, optional, shape, most_images)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path.name} cannot be read", expected="an .npz file", found=error.strerror or error) from None
    except zipfile.BadZipFile as error:
        found = str(error) if zipfile.is_zipfile(path) else _NO_ZIP.get(_start(path), "another file type")
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - zlib, struct, codecs and zipfile itself raise many kinds for damaged archives
        found = str(error) or type(error).__name__
    raise DataError(f"{path.name} is damaged", expected="a complete .npz file", found=found)


def _read(
    name: str,
    archive: zipfile.ZipFile,
    optional: tuple[str, ...],
    shape: tuple[int, int, int] | None,
    most_images: int | None,
) -> _Contents:
    members = sorted(archive.namelist())
    further = [member for member in members if member not in _MEMBERS]
    if len(members) != len(_MEMBERS) + len(further) or not set(further) <= {f"{each}.npy" for each in optional}:
        expected = f"{' and '.join(_MEMBERS)}, and if you like {', '.join(f'{each}.npy' for each in optional)}"
        raise DataError(f"{name}: arrays", expected=expected, found=", ".join(members[:5]) or "nothing")
    headers = {member: _member_header(name, archive, member) for member in members}
    images, labels = (headers[member] for member in _MEMBERS)
    if images.dtype != np.uint8 or len(images.shape) not in (3, 4):
        found = f"{images.dtype} {images.shape}" + (" with NaN values" if _has_nan(archive, images) else "")
        raise DataError(f"{name}: images", expected="uint8 of shape (N, H, W) or (N, H, W, C)", found=found)
    if labels.dtype.kind not in "iuUS" or len(labels.shape) != 1:
        expected = "integers or names of shape (N,)"
        raise DataError(f"{name}: labels", expected=expected, found=f"{labels.dtype} {labels.shape}")
    count = images.shape[0]
    for member in ("labels.npy", *(each for each in further if each != "class_names.npy")):
        if headers[member].shape != (count,):
            what, found = member.removesuffix(".npy"), f"{headers[member].shape[0] if headers[member].shape else 0:,}"
            raise DataError(f"{name}: {what} do not match images", expected=f"{count:,} {what}", found=found)
    if most_images is not None and count > most_images:
        raise DataError(
            f"{name} has too many images", expected=f"at most {most_images:,} in a batch", found=f"{count:,}"
        )
    of_one = images.shape[1:] if len(images.shape) == 4 else (*images.shape[1:], 1)
    if count and shape is not None and of_one != shape:
        raise DataError(f"{name}: image shape", expected=shape, found=of_one)
    texts = {member.removesuffix(".npy"): _texts(name, archive, member, headers[member]) for member in further}
    pixels = _values(archive, _MEMBERS[0], images)
    if labels.dtype.kind in "US":
        given = np.array(_texts(name, archive, _MEMBERS[1], labels), dtype=str)
    else:
        given = _values(archive, _MEMBERS[1], labels)
        if count and int(given.max()) > np.iinfo(np.int64).max:
            raise DataError(f"{name}: labels", expected="class numbers", found=given.max())
    return _Contents(pixels.reshape(count, *of_one), given, texts)


def _texts(name: str, archive: zipfile.ZipFile, member: str, header: _Header) -> tuple[str, ...]:
    """Return an array of texts or integers as texts; bytes are UTF-8."""
    if header.dtype.kind not in "iuUS" or len(header.shape) != 1 or header.dtype.itemsize > _MOST_TEXT:
        expected, found = "texts of shape (N,)", f"{header.dtype} {header.shape}"
        raise DataError(f"{name}: {member.removesuffix('.npy')}", expected=expected, found=found)
    values = _values(archive, member, header).tolist()
    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def _member_header(name: str, archive: zipfile.ZipFile, member: str) -> _Header:
    """Return the header of an array, once its method and its sizes are known to be right."""
    info = archive.getinfo(member)
    if info.compress_type not in _METHODS:
        expected = " or ".join(_METHODS.values())
        raise DataError(f"{name}: {member}: compression", expected=expected, found=f"method {info.compress_type}")
    if info.file_size > MOST_BATCH_BYTES:
        raise DataError(
            f"{name}: {member} is too large",
            expected=f"at most {MOST_BATCH_BYTES:,} bytes",
            found=f"{info.file_size:,}",
        )
    with archive.open(member) as file:
        header = _header(name, member, file)
        actual = info.file_size - file.tell()
    if header.bytes != actual or min(header.shape, default=0) < 0:
        fault = f"{name}: {member} declares {header.shape}"
        raise DataError(fault, expected=f"{header.bytes:,} bytes", found=f"{actual:,}")
    return header


def _header(name: str, member: str, file: IO[bytes]) -> _Header:
    """Parse the header of an array.

    Raises:
        ValueError: It is not one that NumPy writes for an array of numbers.
    """
    start = file.read(len(_MAGIC) + 2)
    if start[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"{member} has the magic string {start[: len(_MAGIC)]!r}, not {_MAGIC!r}")
    version = tuple(start[len(_MAGIC) :])
    if version not in _LENGTHS:
        raise DataError(f"{name}: {member}", expected="npy format version 1 or 2", found=version)
    packed = file.read(struct.calcsize(_LENGTHS[version]))
    (length,) = struct.unpack(_LENGTHS[version], packed)
    if length > _MOST_HEADER:
        raise ValueError(f"{member} has a header of {length:,} bytes, more than {_MOST_HEADER:,}")
    fields = _fields(member, file.read(length).decode("latin-1"))
    dtype = _dtype(member, fields["descr"][1:-1])
    if dtype.hasobject:
        expected = "numbers, or texts saved with dtype=str"
        raise DataError(f"{name}: {member} holds Python objects", expected=expected, found="a pickle (not opened)")
    shape = tuple(int(number) for number in re.findall(r"-?\d+", fields["shape"]))
    return _Header(shape, fields["fortran_order"] == "True", dtype)


def _fields(member: str, text: str) -> dict[str, str]:
    """Return the three entries of a header by key, as text."""
    inside = text.strip().removeprefix("{").removesuffix("}").strip()
    fields, place = {}, 0
    while place < len(inside) and (match := _ENTRY.match(inside, place)):
        fields[match["key"]], place = match["value"], match.end()
    kinds = {key: value[0] for key, value in fields.items()}
    right = kinds.get("descr") in ("'", '"') and kinds.get("fortran_order") in ("T", "F") and kinds.get("shape") == "("
    if place < len(inside) or not right:
        raise ValueError(f"{member} has the header {text[:80]!r}")
    return fields


def _dtype(member: str, text: str) -> np.dtype[Any]:
    try:
        if _TYPE.fullmatch(text):
            return np.dtype(text)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{member} has the type {text!r}")


def _has_nan(archive: zipfile.ZipFile, images: _Header) -> bool:
    if images.dtype.kind != "f" or images.bytes > _NAN_BYTES:
        return False
    return bool(np.isnan(_values(archive, _MEMBERS[0], images)).any())


def _values(archive: zipfile.ZipFile, member: str, header: _Header) -> npt.NDArray[Any]:
    """Return the values of an array, inflated in pieces into memory of the declared size."""
    content = np.empty(header.bytes, np.uint8)
    with archive.open(member) as file:
        _header(member, member, file)
        place = 0
        while chunk := file.read(_CHUNK):
            content[place : place + len(chunk)] = np.frombuffer(chunk, np.uint8)
            place += len(chunk)
    if place != header.bytes:
        raise ValueError(f"{member} ends after {place:,} of {header.bytes:,} bytes")
    return content.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
