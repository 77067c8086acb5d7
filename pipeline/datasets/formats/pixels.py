"""Source format `pixels`: a CSV file with an image in each line, its label beside its pixels.

    label,pixel0,pixel1,…,pixel783        or no header: the label first        or one column with all pixels, `0 0 12 …`
    5,0,0,…,0

Values are whole numbers from 0 to 255, row by row. Columns ``split`` and ``group`` mean what they mean in `table`. The
path is one file, or a folder with a file for each split, such as train.csv and test.csv. Each line becomes a picture,
packed and pinned as those of `folder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from pipeline.core.errors import DataError
from pipeline.datasets import faults
from pipeline.datasets.arrays import RawImages
from pipeline.datasets.csv_files import read_lines
from pipeline.datasets.faults import Fault
from pipeline.datasets.formats import folder
from pipeline.datasets.formats.folder import SPLITS, UNSPLIT, Collection, Entry
from pipeline.datasets.own_files import Found

_LABEL, _PIXELS, _SPLIT, _GROUP = "label", "pixels", "split", "group"
_Side = Annotated[int, pydantic.Field(ge=1, le=1024)]


class Settings(folder.OwnSettings):
    """The dataset's section under ``download``; `pipeline ingest` writes mirrors, files and classes."""

    size: tuple[_Side, _Side] | None = None  # height, width of the images in the table; none: they are square
    channels: Literal[1, 3] = 1  # 3: red, green and blue of each pixel one after another
    label: str = _LABEL  # the column of the labels
    transpose: bool = False  # whether pixels come column by column, as in EMNIST


@dataclass(frozen=True)
class _Line:
    """The picture that a line holds, as a PNM file: equal lines give equal files on every machine."""

    data: bytes

    def content(self) -> bytes:
        """Return the file."""
        return self.data


@dataclass(frozen=True)
class _Columns:
    """Where the values of a line are, and the shape of its image."""

    label: int
    split: int | None
    group: int | None
    pixels: tuple[int, ...]
    size: tuple[int, int]
    channels: int
    transpose: bool


def find(path: Path, section: Mapping[str, Any] | None = None) -> Collection:
    """Return a picture for each line of a table, or of the tables in a folder, and the lines that hold none.

    Args:
        path: The table or folder.
        section: The dataset's section of params.

    Raises:
        DataError: There is no table, or its columns are not those of images.
    """
    found, entries = Found(), []
    for split, file in _tables(path).items():
        entries += _of_table(file, split, section or {}, found)
    return Collection(sorted(entries), found)


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels; None if the settings do not say."""
    return min(settings.size) if settings.size else None


def read(raw: Path, settings: Settings) -> RawImages:
    """Return the pictures of the pinned file; see `folder.read`."""
    return folder.read_pack(raw, settings, settings.size, settings.channels)


def _tables(path: Path) -> dict[str, Path]:
    """Return the tables by split."""
    if path.is_file():
        return {UNSPLIT: path}
    if not path.is_dir():
        raise DataError(f"{path}: no such file", expected="a CSV file, or a folder of them", found="none")
    files = sorted(child for child in path.iterdir() if child.suffix.lower() == ".csv")
    named = [(_split_of(file.stem), file) for file in files]
    splits = [split for split, _ in named]
    if "train" not in splits or None in splits or len(set(splits)) < len(splits):
        expected = "one CSV file with train in its name, and at most one each with test and val"
        raise DataError(
            f"{path}: tables",
            expected=expected,
            found=faults.some([faults.escaped(file.name) for file in files]) or "none",
            next_step="name one file as the path",
        )
    return {str(split): file for split, file in named}


def _split_of(stem: str) -> str | None:
    """Return the split that the name of a file says."""
    words = "".join(letter if letter.isalpha() else " " for letter in stem.casefold()).split()
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def _of_table(path: Path, split: str, section: Mapping[str, Any], found: Found) -> list[Entry]:
    first, lines = read_lines(path)
    header = [column.strip().casefold() for column in first]
    has_header = not all(_is_number(cell) for value in first[1:] for cell in value.split() or [""])
    has_header = has_header or header == [str(place) for place in range(len(header))]  # as pandas writes them
    columns = _columns(path, header if has_header else None, len(first), section)
    entries = [] if has_header else [(1, first)]
    pictures = []
    for line, cells in (*entries, *lines):
        where = f"{path} line {line}"
        try:
            of_line = split if columns.split is None else SPLITS.get(cells[columns.split].strip().casefold())
            label = folder.same_class(cells[columns.label])
            if of_line is None:
                raise ValueError(f"split: expected train, val or test, found {cells[columns.split or 0]!r}")
            if not label:
                raise ValueError("has no label")
            group = "" if columns.group is None else cells[columns.group].strip()
            content = _picture(cells, columns)
        except (ValueError, IndexError, OverflowError) as error:
            reason = str(error) if not isinstance(error, IndexError) else f"has {len(cells):,} values"
            found.faults.append(Fault(where, reason))
        else:
            pictures.append(Entry(of_line, label, f"{line:07}.pnm", Path(where), _Line(content), group))
    _require_full_range(path, pictures)
    return pictures


def _columns(path: Path, header: list[str] | None, width: int, section: Mapping[str, Any]) -> _Columns:
    """Return which columns hold what.

    Raises:
        DataError: There is no column of labels, or the others are no images.
    """
    name = str(section.get("label", _LABEL)).strip().casefold()
    if header is not None and name not in header:
        raise DataError(
            f"{path}: columns",
            expected=f"one called {name}, or no header and the label first",
            found=faults.some([faults.escaped(column) for column in header]),
            next_step="set label: to the column of the labels",
        )
    label = header.index(name) if header else 0
    split, group = (header.index(name) if header and name in header else None for name in (_SPLIT, _GROUP))
    one_cell = header is not None and _PIXELS in header
    if one_cell and header:
        pixels: tuple[int, ...] = (header.index(_PIXELS),)
    else:
        pixels = tuple(place for place in range(width) if place not in (label, split, group))
    channels = section.get("channels", 1)
    size = section.get("size")
    if size is None:
        count = len(pixels) if not one_cell else 0
        side = math.isqrt(count // channels)
        if not one_cell and (side**2 * channels != count or not side):
            raise DataError(
                f"{path}: {count:,} columns beside the label",
                expected=f"a square number of pixels with {channels} values each",
                found=f"{count:,}",
                next_step="set size: [height, width], and channels",
            )
        size = (side, side)
    elif not one_cell and size[0] * size[1] * channels != len(pixels):
        expected = f"{size[0]} × {size[1]} × {channels}, by size and channels"
        raise DataError(f"{path}: columns beside the label", expected=expected, found=f"{len(pixels):,}")
    return _Columns(label, split, group, pixels, (size[0], size[1]), channels, bool(section.get("transpose", False)))


def _picture(cells: list[str], columns: _Columns) -> bytes:
    """Return the picture of a line.

    Raises:
        ValueError: A value is missing, or is no whole number from 0 to 255.
    """
    values = [cells[place] for place in columns.pixels]
    if len(values) == 1:
        values = values[0].split()
    (height, width), channels = columns.size, columns.channels
    if not height:
        height = width = math.isqrt(len(values) // channels)
    if len(values) != height * width * channels or not height:
        raise ValueError(f"has {len(values):,} pixel values")
    numbers = np.array(values, float)
    if not ((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))).all():
        wrong = numbers[~((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers)))][0]
        raise ValueError(f"has a pixel of {wrong:g}: expected whole numbers from 0 to 255")
    image = numbers.astype(np.uint8).reshape(height, width, channels)
    if columns.transpose:
        image = numbers.astype(np.uint8).reshape(width, height, channels).transpose(1, 0, 2)
    return b"P%d %d %d 255\n" % (5 if channels == 1 else 6, width, height) + image.tobytes()


def _require_full_range(path: Path, pictures: list[Entry]) -> None:
    """Check that pixels are not 0 and 1 only, or up to 15 or 16 as in some small sets.

    Raises:
        DataError: They are.
    """
    most = max((max(entry.source.content().partition(b"\n")[2]) for entry in pictures), default=255)
    if 0 < most < 32:
        raise DataError(
            f"{path}: pixels",
            expected="whole numbers from 0 to 255",
            found=f"at most {most} in the whole table",
            next_step=f"multiply them by {255 // most}",
        )


def _is_number(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
