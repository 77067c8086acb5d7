"""Incoming batches: labelled images that somebody put down, as an .npz file or as a folder of pictures per class.

A batch is a claim made by a stranger. Nothing is unpickled, followed out of the batch, or allocated before its size
has been checked, and what is wrong is told as one `DataError`, which is what the batch's sender gets to read.
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

MOST_BATCH_BYTES = 2 << 30  # of a batch in memory (chosen): 2.7 million images of 28×28
_MEMBERS = ["images.npy", "labels.npy"]
_MAX_HEADER = 10_000  # characters, as numpy has it
_NO_ZIP = {b"": "an empty file", b"PK": "the first part of one"}
_DAMAGE = (ValueError, SyntaxError, EOFError, KeyError, RuntimeError, zlib.error)


def read(path: Path, shape: tuple[int, int, int], class_names: tuple[str, ...]) -> Labelled:
    """Return a batch's images, at least one and all of the dataset's shape, and labels, which may be any numbers.

    Args:
        path: A file ``*.npz`` with ``images`` and ``labels``, or a folder with a folder of PNG or JPEG files per class.
        shape: Height, width and channels; pictures are fitted to them, arrays must have them.
        class_names: What label 0, 1, … is called.

    Raises:
        DataError: It is anything else.
    """
    if path.is_symlink():
        raise DataError(f"{path.name} is a link", expected="the batch itself", found="a link")
    if path.is_dir():
        batch = _read_folder(path, shape, class_names)
    elif path.suffix.lower() == ".npz" and path.is_file():
        batch = read_npz(path)
    else:
        expected = "an .npz file, or a folder with a folder of images per class"
        found = f"a file called {path.name}" if path.is_file() else "what is neither a file nor a folder"
        raise DataError(f"{path.name} is no batch", expected=expected, found=found)
    if not len(batch):
        found = "no picture in a folder of a class" if path.is_dir() else "arrays of none"
        raise DataError(f"{path.name} is empty", expected="at least one image", found=found)
    if batch.images.shape[1:] != shape:
        raise DataError(f"{path.name}: shape of an image", expected=shape, found=batch.images.shape[1:])
    return batch


def read_npz(path: Path) -> Labelled:
    """Return the arrays ``images``, uint8 (N, H, W) or (N, H, W, C), and ``labels``, whole numbers (N,), of a file.

    Raises:
        DataError: The file is damaged, holds or declares something else, or more than `MOST_BATCH_BYTES`.
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
        found = str(error) if zipfile.is_zipfile(path) else _NO_ZIP.get(_start(path), "a file of another kind")
        raise DataError(f"{path.name} is damaged", expected="a whole .npz file", found=found) from None
    except _DAMAGE as error:
        raise DataError(f"{path.name} is damaged", expected="a whole .npz file", found=str(error)) from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        not_numbers = images.dtype.kind == "f" and np.isnan(images).any()
        found = f"{images.dtype} {images.shape}" + (" with NaN among its values" if not_numbers else "")
        raise DataError(f"{path.name}: images", expected="uint8 of shape (N, H, W) or (N, H, W, C)", found=found)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        found = f"{labels.dtype} {labels.shape}"
        raise DataError(f"{path.name}: labels", expected="whole numbers of shape (N,)", found=found)
    if len(labels) != len(images):
        raise DataError(f"{path.name}: labels do not fit", expected=f"{len(images):,} labels", found=f"{len(labels):,}")
    if len(labels) and int(labels.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{path.name}: labels", expected="numbers of classes", found=labels.max())
    return Labelled(images if images.ndim == 4 else images[..., np.newaxis], labels.astype(np.int64))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def _read_member(name: str, archive: zipfile.ZipFile, member: str) -> npt.NDArray[Any]:
    """Return one array; what its header declares is compared with its size in the archive before memory is taken."""
    size = archive.getinfo(member).file_size
    if size > MOST_BATCH_BYTES:
        raise DataError(
            f"{name}: {member} is too large", expected=f"at most {MOST_BATCH_BYTES:,} bytes", found=f"{size:,}"
        )
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if reader is None:
            raise DataError(f"{name}: {member}", expected="version 1 or 2 of the format", found=version)
        shape, fortran, dtype = reader(file, max_header_size=_MAX_HEADER)
        if dtype.hasobject:
            raise DataError(
                f"{name}: {member} holds Python objects", expected="numbers", found="a pickle, never opened"
            )
        declared, there = math.prod(shape) * dtype.itemsize, size - file.tell()
        if declared != there or min(shape, default=0) < 0:
            raise DataError(f"{name}: {member} declares {shape}", expected=f"{declared:,} bytes", found=f"{there:,}")
        values = np.frombuffer(file.read(declared), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _read_folder(path: Path, shape: tuple[int, int, int], class_names: tuple[str, ...]) -> Labelled:
    """Return the pictures in the folders of classes."""
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
