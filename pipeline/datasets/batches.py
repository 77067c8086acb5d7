"""Incoming batches: readers for labelled images in an .npz file or in one folder of pictures per class.

A batch is untrusted input. The reader unpickles nothing, follows no link out of the batch, and checks every size
before it allocates memory. Each fault is reported as one `DataError`, whose message the batch's sender reads.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError, nearest
from pipeline.datasets.arrays import Labelled
from pipeline.datasets.decoding import MOST_BYTES, decode_all
from pipeline.datasets.formats.folder import pictures, visible

MOST_BATCH_BYTES = 2 << 30  # of a batch in memory (chosen): 2.7 million images of 28×28 pixels
_MEMBERS = ["images.npy", "labels.npy"]
_MAX_HEADER = 10_000  # characters, numpy's own default
_NO_ZIP = {b"": "an empty file", b"PK": "only the start of an .npz file"}
_DAMAGE = (ValueError, SyntaxError, EOFError, KeyError, RuntimeError, zlib.error)


def read(path: Path, shape: tuple[int, int, int], class_names: tuple[str, ...]) -> Labelled:
    """Return the images and labels of a batch.

    There is at least one image, and all have the dataset's shape. Labels are not checked and may be any integers.

    Args:
        path: A file ``*.npz`` with ``images`` and ``labels``, or a folder with a folder of PNG or JPEG files per class.
        shape: Height, width and channels; pictures are resized to fit, arrays must match.
        class_names: The names of labels 0, 1, ….

    Raises:
        DataError: The path is a link, is not a batch, or the batch is empty or has another shape.
    """
    if path.is_symlink():
        raise DataError(f"{path.name} is a link", expected="a file or folder", found="a link")
    if path.is_dir():
        batch = _read_folder(path, shape, class_names)
    elif path.suffix.lower() == ".npz" and path.is_file():
        batch = read_npz(path)
    else:
        expected = "an .npz file, or a folder with a folder of images per class"
        found = f"a file named {path.name}" if path.is_file() else "neither a file nor a folder"
        raise DataError(f"{path.name} is not a batch", expected=expected, found=found)
    if not len(batch):
        found = "no picture in any class folder" if path.is_dir() else "arrays of length 0"
        raise DataError(f"{path.name} is empty", expected="at least one image", found=found)
    if batch.images.shape[1:] != shape:
        raise DataError(f"{path.name}: image shape", expected=shape, found=batch.images.shape[1:])
    return batch


def read_npz(path: Path) -> Labelled:
    """Return the images and labels of an .npz file.

    ``images`` is uint8 of shape (N, H, W) or (N, H, W, C); ``labels`` are integers of shape (N,).

    Raises:
        DataError: The file is damaged, has other arrays, or declares more than `MOST_BATCH_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sorted(archive.namelist()) != _MEMBERS:
                found = ", ".join(sorted(archive.namelist())[:5]) or "nothing"
                raise DataError(f"{path.name}: arrays", expected=" and ".join(_MEMBERS), found=found)
            images, labels = (_read_member(path.name, archive, member) for member in _MEMBERS)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read", expected="an .npz file", found=error.strerror or error) from None
    except zipfile.BadZipFile as error:
        found = str(error) if zipfile.is_zipfile(path) else _NO_ZIP.get(_start(path), "another file type")
        raise DataError(f"{path.name} is damaged", expected="a complete .npz file", found=found) from None
    except _DAMAGE as error:
        raise DataError(f"{path.name} is damaged", expected="a complete .npz file", found=str(error)) from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        not_numbers = images.dtype.kind == "f" and np.isnan(images).any()
        found = f"{images.dtype} {images.shape}" + (" with NaN values" if not_numbers else "")
        raise DataError(f"{path.name}: images", expected="uint8 of shape (N, H, W) or (N, H, W, C)", found=found)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        found = f"{labels.dtype} {labels.shape}"
        raise DataError(f"{path.name}: labels", expected="integers of shape (N,)", found=found)
    if len(labels) != len(images):
        raise DataError(
            f"{path.name}: labels do not match images", expected=f"{len(images):,} labels", found=f"{len(labels):,}"
        )
    if len(labels) and int(labels.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{path.name}: labels", expected="class numbers", found=labels.max())
    return Labelled(images if images.ndim == 4 else images[..., np.newaxis], labels.astype(np.int64))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def _read_member(name: str, archive: zipfile.ZipFile, member: str) -> npt.NDArray[Any]:
    """Return one array; its declared size is checked against the archive before memory is allocated."""
    size = archive.getinfo(member).file_size
    if size > MOST_BATCH_BYTES:
        raise DataError(
            f"{name}: {member} is too large", expected=f"at most {MOST_BATCH_BYTES:,} bytes", found=f"{size:,}"
        )
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if reader is None:
            raise DataError(f"{name}: {member}", expected="npy format version 1 or 2", found=version)
        shape, fortran, dtype = reader(file, max_header_size=_MAX_HEADER)
        if dtype.hasobject:
            raise DataError(f"{name}: {member} holds Python objects", expected="numbers", found="a pickle (not opened)")
        declared, actual = math.prod(shape) * dtype.itemsize, size - file.tell()
        if declared != actual or min(shape, default=0) < 0:
            raise DataError(f"{name}: {member} declares {shape}", expected=f"{declared:,} bytes", found=f"{actual:,}")
        values = np.frombuffer(file.read(declared), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _read_folder(path: Path, shape: tuple[int, int, int], class_names: tuple[str, ...]) -> Labelled:
    """Return the pictures in the class folders."""
    try:
        found = visible(path)
        for folder in found:
            if folder.is_dir() and folder.name not in class_names:
                expected = nearest(folder.name, class_names)
                raise DataError(f"{path.name}: unknown class", expected=expected, found=repr(folder.name))
        named = [(picture, folder.name) for folder in found for picture in pictures(folder, path)]
    except OSError as error:
        raise DataError(f"{path.name} cannot be read", expected="folders of pictures", found=error.strerror) from None
    if len(named) * math.prod(shape) > MOST_BATCH_BYTES:
        most = MOST_BATCH_BYTES // math.prod(shape)
        raise DataError(f"{path.name} has too many pictures", expected=f"at most {most:,}", found=f"{len(named):,}")
    contents = ((str(picture.relative_to(path)), _content(picture)) for picture, _ in named)
    images = decode_all(path.name, contents, (shape[0], shape[1]), shape[2])
    return Labelled(images, np.array([class_names.index(name) for _, name in named], np.int64))


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{path.name} is too large", expected=f"at most {MOST_BYTES:,} bytes", found=f"{size:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read", expected="a picture", found=error.strerror) from None
