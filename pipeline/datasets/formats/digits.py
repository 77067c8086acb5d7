"""Source format `digits`: the 1,797 real 8×8 scans that ship inside scikit-learn, in MNIST's layout. No network.

The file is UCI's "Optical Recognition of Handwritten Digits" (its test part) as comma-separated text without a header:
64 values from 0 (paper) to 16 (ink), row by row, then the digit. It has no official split; see `is_test`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, Labelled, Labels, RawImages, SourceSettings, read_unpacked

_SIDE = 8
_MAX_VALUE = 16
_DIGIT_SIDE, _FRAME_SIDE = 20, 28  # as in MNIST: the digit fills 20×20 in the middle of a 28×28 image
_TEST_EVERY = 5
_MAX_BYTES = 1 << 24  # the file has 264,712; a larger one than 16 MB is another file


class Settings(SourceSettings):
    """The dataset's section under ``download``: one file of digits."""


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels, or an upper limit of it; None if the settings do not say."""
    del settings
    return _FRAME_SIDE


def read(folder: Path, settings: Settings) -> RawImages:
    """Return the digits as (N, 28, 28, 1) images, ink bright on black, split by `is_test`.

    Raises:
        DataError: The file is missing or damaged, or a row is not 64 values of 0..16 and a known digit.
    """
    if len(settings.files) != 1:
        raise DataError("download: files", expected="one file of digits", found=len(settings.files))
    pin = settings.files[0]
    path = folder / pin.name
    rows = _parse(path, read_unpacked(path, settings.unpacked_limit(pin.name) or _MAX_BYTES), len(settings.classes))
    labels: Labels = rows[:, -1]
    images = enlarge(rows[:, :-1].reshape(-1, _SIDE, _SIDE))
    held_out = is_test(labels)
    return RawImages(
        train=Labelled(images[~held_out], labels[~held_out]),
        test=Labelled(images[held_out], labels[held_out]),
        class_names=settings.classes,
    )


def is_test(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return a mask of the test split: every fifth row of each class, in file order.

    The split is stratified and the same with every version of numpy, which a seeded generator does not guarantee.
    """
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        held_out[np.flatnonzero(labels == label)[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    return held_out


def enlarge(values: npt.NDArray[np.int64]) -> Images:
    """Return (N, 8, 8) values of 0..16 as (N, 28, 28, 1) uint8: bicubic to 20×20, centred, 16 mapped to 255."""
    pixels = np.rint(values * (255 / _MAX_VALUE)).astype(np.uint8)
    framed = np.zeros((len(pixels), _FRAME_SIDE, _FRAME_SIDE, 1), np.uint8)
    edge = (_FRAME_SIDE - _DIGIT_SIDE) // 2
    inside = slice(edge, edge + _DIGIT_SIDE)
    for target, scan in zip(framed, pixels, strict=True):
        enlarged = Image.fromarray(scan).resize((_DIGIT_SIDE, _DIGIT_SIDE), Image.Resampling.BICUBIC)
        target[inside, inside, 0] = np.asarray(enlarged)
    return framed


def _parse(path: Path, content: bytes, classes: int) -> npt.NDArray[np.int64]:
    """Return the file's rows as an array of shape (N, 65), with every value checked."""
    rows = [_parse_row(path, number, line) for number, line in enumerate(content.splitlines(), start=1)]
    if not rows:
        raise DataError(f"{path} is empty", expected="one digit per line", found="no line")
    values = np.array(rows, dtype=np.int64)
    bounds = np.array([_MAX_VALUE] * _SIDE**2 + [classes - 1])
    bad = np.argwhere((values < 0) | (values > bounds))
    if len(bad):
        row, column = bad[0]
        kind = "a label" if column == _SIDE**2 else f"pixel {column}"
        raise DataError(
            f"{path} line {row + 1}: {kind} is out of range",
            expected=f"0 to {bounds[column]}",
            found=values[row, column],
        )
    return values


def _parse_row(path: Path, number: int, line: bytes) -> list[int]:
    cells = line.split(b",")
    expected = _SIDE**2 + 1
    if len(cells) != expected:
        raise DataError(f"{path} line {number}", expected=f"{expected} values", found=len(cells))
    try:
        row = [int(cell) for cell in cells]
    except ValueError as error:
        raise DataError(f"{path} line {number}", expected="integers", found=str(error)) from None
    if max(map(abs, row)) > 255:  # prevents overflow of the 64-bit array
        raise DataError(f"{path} line {number}", expected=f"values of 0 to {_MAX_VALUE}", found=max(map(abs, row)))
    return row
