"""Incoming batches: readers for labelled images in an .npz file or in one folder of pictures per class.

A batch is untrusted input. The reader unpickles nothing, follows no link out of the batch, and checks the number and
the sizes of all images by their headers before it inflates or decodes any. Each fault is reported as one `DataError`,
whose message the batch's sender reads.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError, nearest
from pipeline.datasets import grouping, npz
from pipeline.datasets.arrays import Labelled, nfc
from pipeline.datasets.decoding import MOST_BYTES, declared_pixels, decode_all
from pipeline.datasets.formats.folder import pictures, visible

MOST_IMAGES = 500_000  # of a batch (chosen): the checks of so many take some minutes
MOST_PIXELS = 20_000_000_000  # of all pictures of a batch (chosen): 1,600 photographs of 12 million pixels


def read(path: Path, shape: tuple[int, int, int], class_names: tuple[str, ...], group: str | None = None) -> Labelled:
    """Return the images and labels of a batch.

    There is at least one image, and all have the dataset's shape. Labels that are whole numbers may be any.

    Args:
        path: A file ``*.npz`` with ``images`` and ``labels``, or a folder with a folder of PNG or JPEG files per class.
        shape: Height, width and channels; pictures are resized to fit, arrays must match.
        class_names: The names of labels 0, 1, ….
        group: The pattern that finds the group of a picture in its path.

    Raises:
        DataError: The path is a link, is not a batch, or the batch is empty or has another shape.
    """
    if path.is_symlink():
        raise DataError(f"{path.name} is a link", expected="a file or folder", found="a link")
    if path.is_dir():
        batch = _read_folder(path, shape, class_names)
        if group is not None and len(batch):
            below = [file.removeprefix(f"{path.name}/") for file in batch.files]
            batch = replace(batch, groups=grouping.of_paths(path.name, group, below))
    elif path.suffix.lower() == ".npz" and path.is_file():
        batch = npz.read_batch(path, shape, MOST_IMAGES, class_names)
    else:
        expected = "an .npz file, or a folder with a folder of images per class"
        found = f"a file named {path.name}" if path.is_file() else "neither a file nor a folder"
        raise DataError(f"{path.name} is not a batch", expected=expected, found=found)
    if not len(batch):
        found = "no picture in any class folder" if path.is_dir() else "arrays of length 0"
        raise DataError(f"{path.name} is empty", expected="at least one image", found=found)
    return batch


def _read_folder(path: Path, shape: tuple[int, int, int], class_names: tuple[str, ...]) -> Labelled:
    """Return the pictures in the class folders."""
    numbers = {nfc(name): number for number, name in enumerate(class_names)}
    try:
        found = visible(path)
        labels = [numbers.get(nfc(folder.name), -1) for folder in found]
        for folder, label in zip(found, labels, strict=True):
            if folder.is_dir() and label < 0:
                expected = nearest(folder.name, class_names)
                raise DataError(f"{path.name}: unknown class", expected=expected, found=repr(folder.name))
        named = [
            (picture, label) for folder, label in zip(found, labels, strict=True) for picture in pictures(folder, path)
        ]
    except OSError as error:
        raise DataError(f"{path.name} cannot be read", expected="folders of pictures", found=error.strerror) from None
    _require_few([picture for picture, _ in named], path, shape)
    contents = ((str(picture.relative_to(path)), _content(picture)) for picture, _ in named)
    images = decode_all(path.name, contents, (shape[0], shape[1]), shape[2])
    files = tuple(picture.relative_to(path.parent).as_posix() for picture, _ in named)
    return Labelled(images, np.array([label for _, label in named], np.int64), files)


def _require_few(pictures: list[Path], batch: Path, shape: tuple[int, int, int]) -> None:
    """Check the number of pictures, and by their headers the number of pixels to decode.

    Raises:
        DataError: There are too many.
    """
    most = min(MOST_IMAGES, npz.MOST_BATCH_BYTES // math.prod(shape))
    if len(pictures) > most:
        raise DataError(f"{batch.name} has too many pictures", expected=f"at most {most:,}", found=f"{len(pictures):,}")
    pixels = sum(declared_pixels(picture) for picture in pictures)
    if pixels > MOST_PIXELS:
        raise DataError(
            f"{batch.name} has too many pixels",
            expected=f"at most {MOST_PIXELS:,} in all pictures",
            found=f"{pixels:,}",
            next_step="make the pictures smaller, or send them in several batches",
        )


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{path.name} is too large", expected=f"at most {MOST_BYTES:,} bytes", found=f"{size:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read", expected="a picture", found=error.strerror) from None
