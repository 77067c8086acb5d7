"""Source format `idx`: the format of MNIST and its drop-in replacements (Fashion-MNIST, KMNIST, EMNIST).

Layout, big endian (http://yann.lecun.com/exdb/mnist/): two zero bytes, a type code (0x08: unsigned byte), the number of
dimensions, one 4-byte size per dimension, then the values in C order. A header is untrusted input: its
sizes are checked against the length of the file before memory is allocated.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, Labelled, Labels, RawImages, SourceSettings, read_unpacked

_UBYTE = 0x08
_IMAGES_HEADER, _LABELS_HEADER = 16, 8  # bytes
_MAX_DEFLATE_RATIO = 1032  # the maximum of deflate, so a file cannot unpack to more than this many times its size


class Settings(SourceSettings):
    """The dataset's section under ``download``; the official names give file roles (``train-images…`` and so on)."""


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels, or an upper limit of it; None if the settings do not say."""
    sizes = {file.name.partition("-idx")[0]: file.unpacked_bytes for file in settings.files}
    images, labels = sizes.get("train-images"), sizes.get("train-labels")
    if images is None or labels is None or images < _IMAGES_HEADER or labels <= _LABELS_HEADER:
        return None
    return (
        math.isqrt((images - _IMAGES_HEADER) // (labels - _LABELS_HEADER)) or None
    )  # the side of a square with as many pixels


def read(folder: Path, settings: Settings) -> RawImages:
    """Return the train and test images, (N, H, W, 1), of the four IDX files in a folder.

    Raises:
        DataError: A file is missing, damaged, or does not match its header or pin, or labels do not match images.
    """
    train = _read_split(folder, "train", settings)
    test = _read_split(folder, "t10k", settings)
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


def _read_split(folder: Path, prefix: str, settings: Settings) -> Labelled:
    images_name = _with_role(f"{prefix}-images", settings)
    labels_name = _with_role(f"{prefix}-labels", settings)
    images: Images = parse(folder / images_name, 3, settings.unpacked_limit(images_name))[..., np.newaxis]
    labels: Labels = parse(folder / labels_name, 1, settings.unpacked_limit(labels_name)).astype(np.int64)
    if len(images) != len(labels):
        raise DataError(
            f"{folder}: {labels_name} does not match {images_name}",
            expected=f"{len(images):,} labels",
            found=f"{len(labels):,}",
        )
    outside = np.flatnonzero(labels >= len(settings.classes))
    if len(outside):
        raise DataError(
            f"{folder / labels_name}: label {outside[0]} is out of range",
            expected=f"0 to {len(settings.classes) - 1} (download's classes)",
            found=labels[outside[0]],
        )
    return Labelled(images, labels)


def _with_role(prefix: str, settings: Settings) -> str:
    """Return the name of the one pinned file with a role's prefix."""
    names = [file.name for file in settings.files]
    found = [name for name in names if name.startswith(prefix)]
    if len(found) != 1:
        raise DataError("download: files", expected=f"one named {prefix}…", found=", ".join(names))
    return found[0]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
