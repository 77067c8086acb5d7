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
from pipeline.datasets import grouping, npz, own_files
from pipeline.datasets.arrays import PLAIN, Labelled, Reading, nfc
from pipeline.datasets.decoding import declared_pixels, decode_all
from pipeline.datasets.faults import Fault
from pipeline.datasets.own_files import Found, OwnFile

MOST_IMAGES = 500_000  # of a batch (chosen): the checks of so many take some minutes
MOST_PIXELS = 20_000_000_000  # of all pictures of a batch (chosen): 1,600 photographs of 12 million pixels


def read(
    path: Path,
    shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    group: str | None = None,
    reading: Reading = PLAIN,
) -> Labelled:
    """Return the images and labels of a batch.

    There is at least one image, and all have the dataset's shape. Labels that are whole numbers may be any.

    Args:
        path: A file ``*.npz`` with ``images`` and ``labels``, or a folder with a folder of pictures per class.
        shape: Height, width and channels; pictures are resized to fit, arrays must match.
        class_names: The names of labels 0, 1, ….
        group: The pattern that finds the group of a picture in its path.
        reading: How the pictures of the dataset become arrays.

    Raises:
        DataError: The path is a link, is not a batch, or the batch is empty or has another shape.
    """
    if path.is_symlink():
        raise DataError(f"{path.name} is a link", expected="a file or folder", found="a link")
    if path.is_dir():
        batch = _read_folder(path, shape, class_names, reading)
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


def _read_folder(path: Path, shape: tuple[int, int, int], class_names: tuple[str, ...], reading: Reading) -> Labelled:
    """Return the pictures in the class folders."""
    numbers = {nfc(name): number for number, name in enumerate(class_names)}
    found, home = Found(), own_files.opened(path)
    try:
        folders, files = own_files.listing(home, home, found)
        found.faults += [Fault(str(file.path), "a file next to the class folders") for file in files]
        named = []
        for each in folders:
            if (label := numbers.get(nfc(each.name), -1)) < 0:
                expected = nearest(each.name, class_names)
                raise DataError(f"{path.name}: unknown class", expected=expected, found=repr(each.name))
            below, inside = own_files.listing(each, home, found)
            found.faults += [Fault(str(one.path), "does not have the suffix of a picture: a folder") for one in below]
            named += [(picture, label) for picture in own_files.pictures(inside, found)]
    except OSError as error:
        raise DataError(f"{path.name} cannot be read", expected="folders of pictures", found=error.strerror) from None
    found.faults += [Fault(name, "in a format that is not read: convert it to JPEG or PNG") for name in found.unread]
    found.require(path.name, len(named), path)
    _require_few([picture.path for picture, _ in named], path, shape)
    contents = ((str(picture.path.relative_to(path)), _content(picture)) for picture, _ in named)
    section = "the section of the dataset in params.yaml"
    decoded = decode_all(path.name, contents, (shape[0], shape[1]), shape[2], reading, section)
    names = tuple(picture.path.relative_to(path.parent).as_posix() for picture, _ in named)
    labels = np.array([label for _, label in named], np.int64)
    return Labelled(decoded.images, labels, names, covers=decoded.covers)


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


def _content(picture: OwnFile) -> bytes:
    try:
        return picture.content()
    except OSError as error:
        raise DataError(f"{picture.name} cannot be read", expected="a picture", found=error.strerror) from None
