"""Source format `idx`: the format of MNIST and its drop-in replacements (Fashion-MNIST, KMNIST, EMNIST).

Layout, big endian (http://yann.lecun.com/exdb/mnist/): two zero bytes, a type code (0x08: unsigned byte), the number of
dimensions, one 4-byte size per dimension, then the values in C order. A header is untrusted input: its
sizes are checked against the length of the file before memory is allocated.

The files are those that download fetches, or your own, in a folder that ``path`` names: `pipeline ingest` then copies
and pins them. EMNIST's files differ from MNIST's in their names, their images are transposed, and letters have labels
from 1: ``roles``, ``transpose`` and ``first_label`` say so.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline.core import params
from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, Labelled, Labels, RawImages, SourceSettings, read_unpacked

_UBYTE = 0x08
_ROLES = ("train_images", "train_labels", "test_images", "test_labels")
_SAID = {"train": {"train"}, "test": {"test", "t10k"}}  # words in names of files
_IMAGES_HEADER, _LABELS_HEADER = 16, 8  # bytes
_MAX_DEFLATE_RATIO = 1032  # the maximum of deflate, so a file cannot unpack to more than this many times its size


class Roles(params.Settings):
    """The names of the files, where they do not say what each is for."""

    train_images: str
    train_labels: str
    test_images: str
    test_labels: str


class Settings(SourceSettings):
    """The dataset's section under ``download``; names of files give roles (``train-images…`` and so on)."""

    path: str | None = None  # of a folder with your own files; none: download fetches them
    roles: Roles | None = None
    first_label: Annotated[int, pydantic.Field(ge=0, le=255)] = 0  # of the first class
    transpose: bool | None = None  # whether images are stored column by column; must be set for EMNIST's files


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels, or an upper limit of it; None if the settings do not say."""
    names = [file.name for file in settings.files]
    try:
        chosen = {of: _with_role(f"train_{of}", names, settings.roles) for of in ("images", "labels")}
    except DataError:
        return None
    sizes = {file.name: file.unpacked_bytes for file in settings.files}
    images, labels = sizes[chosen["images"]], sizes[chosen["labels"]]
    if images is None or labels is None or images < _IMAGES_HEADER or labels <= _LABELS_HEADER:
        return None
    return (
        math.isqrt((images - _IMAGES_HEADER) // (labels - _LABELS_HEADER)) or None
    )  # the side of a square with as many pixels


def local_files(path: Path, section: Mapping[str, Any]) -> list[Path]:
    """Return the four files of a dataset in a folder.

    Raises:
        DataError: There is no such folder, or it has not exactly one file of each role.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", expected="a folder of IDX files", found="none")
    files = {file.name: file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")}
    roles = params.parse("roles", section["roles"], Roles) if section.get("roles") else None
    return [files[_with_role(role, sorted(files), roles)] for role in _ROLES]


def plain_name(name: str) -> str:
    """Return the name of a file as it may stand among pins."""
    return re.sub("[^A-Za-z0-9._-]", "_", name)


def local_classes(files: list[Path], section: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes: those that the section lists, or the labels of the files as text."""
    if section.get("classes"):
        return list(section["classes"])
    labels = np.concatenate(
        [np.unique(parse(file, 1)) for role, file in zip(_ROLES, files, strict=True) if "labels" in role]
    )
    first = int(section.get("first_label", 0))
    if labels.min() > first:
        _refuse_labels(str(files[1]), int(labels.min()), int(labels.max()), f"a label {first}, the first class")
    return [str(label) for label in range(first, int(labels.max()) + 1)]


def read(folder: Path, settings: Settings) -> RawImages:
    """Return the train and test images, (N, H, W, 1), of the four IDX files in a folder.

    Raises:
        DataError: A file is missing, damaged, or does not match its header or pin, labels do not match images, or the
            settings do not say whether EMNIST's images are transposed.
    """
    if settings.transpose is None and any("emnist" in file.name.casefold() for file in settings.files):
        raise DataError(
            f"{folder}: names of files are those of EMNIST, whose images are transposed",
            expected="transpose: true or false in the dataset's section",
            found="neither",
            next_step="set transpose: true, or false for files that somebody has turned upright",
        )
    train = _read_split(folder, "train", settings)
    test = _read_split(folder, "test", settings)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{folder}: test images differ in size from train images",
            expected=train.images.shape[1:],
            found=test.images.shape[1:],
        )
    return RawImages(train, test, settings.classes)


def parse(path: Path, dimensions: int, unpacked_bytes: int | None = None) -> npt.NDArray[np.uint8]:
    """Return the values of an IDX file, plain or gzip, as an array with `dimensions` axes.

    Args:
        path: The file.
        dimensions: The expected number of axes: 1 for labels, 3 for images.
        unpacked_bytes: The limit of the unpacked size. Defaults to the most that a file of its size can unpack to.

    Raises:
        DataError: The file is not IDX with these axes, or its declared size is wrong.
    """
    limit = unpacked_bytes or _size(path) * _MAX_DEFLATE_RATIO
    content = read_unpacked(path, limit)
    shape = _shape(path, content, dimensions)
    header = 4 + 4 * dimensions
    declared = header + math.prod(shape)
    if declared != len(content):
        what = "ends early" if declared > len(content) else "has bytes after its end"
        raise DataError(f"{path} {what}", expected=f"{declared:,} bytes (declared {shape})", found=f"{len(content):,}")
    if 0 in shape:
        raise DataError(f"{path} is empty", expected="at least one value", found=f"declared {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _shape(path: Path, content: bytes, dimensions: int) -> tuple[int, ...]:
    """Check the magic number and return the declared size of every dimension."""
    magic = bytes([0, 0, _UBYTE, dimensions])
    if content[:2] != magic[:2] or len(content) < 4:
        raise DataError(
            f"{path} is not an IDX file", expected=f"magic {magic.hex()}", found=content[:4].hex() or "none"
        )
    if content[2] != _UBYTE:
        raise DataError(f"{path} has the wrong value type", expected="0x08 (ubyte)", found=f"0x{content[2]:02x}")
    if content[3] != dimensions:
        raise DataError(f"{path} has the wrong number of dimensions", expected=dimensions, found=content[3])
    if len(content) < 4 + 4 * dimensions:
        raise DataError(f"{path} ends in its header", expected=f"{4 + 4 * dimensions} bytes", found=len(content))
    return struct.unpack_from(f">{dimensions}I", content, 4)


def _read_split(folder: Path, split: str, settings: Settings) -> Labelled:
    names = [file.name for file in settings.files]
    images_name, labels_name = (_with_role(f"{split}_{of}", names, settings.roles) for of in ("images", "labels"))
    images: Images = parse(folder / images_name, 3, settings.unpacked_limit(images_name))[..., np.newaxis]
    labels: Labels = parse(folder / labels_name, 1, settings.unpacked_limit(labels_name)).astype(np.int64)
    if len(images) != len(labels):
        raise DataError(
            f"{folder}: {labels_name} does not match {images_name}",
            expected=f"{len(images):,} labels",
            found=f"{len(labels):,}",
        )
    first, count = settings.first_label, len(settings.classes)
    outside = np.flatnonzero((labels < first) | (labels >= first + count))
    if len(outside):
        if first == 0 and labels.min() > 0 and labels.max() - labels.min() < count:
            expected = f"0 to {count - 1} (download's classes)"
            _refuse_labels(str(folder / labels_name), int(labels.min()), int(labels.max()), expected)
        raise DataError(
            f"{folder / labels_name}: label {outside[0]} is out of range",
            expected=f"{first} to {first + count - 1} (download's classes)",
            found=labels[outside[0]],
        )
    if settings.transpose:
        images = np.ascontiguousarray(images.transpose(0, 2, 1, 3))
    return Labelled(images, labels - first)


def _refuse_labels(where: str, lowest: int, highest: int, expected: str) -> NoReturn:
    raise DataError(
        f"{where}: labels are out of range",
        expected=expected,
        found=f"{lowest} to {highest}",
        next_step=f"set first_label: {lowest}",
    )


def _with_role(role: str, names: Sequence[str], roles: Roles | None) -> str:
    """Return the name of the one file with a role: the one that `roles` names, or whose own name says so."""
    split, of = role.split("_")
    if roles is not None:
        wanted = getattr(roles, role)
        found = [name for name in names if name == wanted or name.endswith(f"-{plain_name(wanted)}")]
    else:
        official = f"{'t10k' if split == 'test' else split}-{of}"
        found = [name for name in names if name.startswith(official)]
        if not found:
            words = {name: set(re.split("[^a-z0-9]+", name.casefold())) for name in names}
            found = [name for name, said in words.items() if of in said and said & _SAID[split]]
        wanted = f"{official}…"
    if len(found) != 1:
        raise DataError("download: files", expected=f"one named {wanted}", found=", ".join(names))
    return found[0]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
