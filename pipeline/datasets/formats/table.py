"""Source format `table`: your own pictures, listed in a CSV file with ``path`` and ``label``.

It may have ``split``, which is ``train`` or ``test``, and ``group``: pictures of one group stay on one side of every
split. Paths are relative to the table and stay below its folder. Pictures are packed and read as in `folder`.
"""

from __future__ import annotations

import csv
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import RawImages, nfc
from pipeline.datasets.decoding import SUFFIXES
from pipeline.datasets.formats import folder
from pipeline.datasets.formats.folder import UNSPLIT, Entry


class Settings(folder.Settings):
    """The dataset's section under ``download``: as for `folder`, with the path of the table."""


def collect(path: Path) -> list[Entry]:
    """Return the pictures that a table lists.

    Names have the line number as a prefix, so that equal file names in different folders differ.

    Raises:
        DataError: The table is missing or is not CSV, or a row has no picture below its folder.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = set(reader.fieldnames or ())
            if not {"path", "label"} <= columns:
                raise DataError(f"{path}: columns", expected="path, label", found=", ".join(columns) or "none")
            return sorted(_entry(path, reader.line_num, row, "split" in columns) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read", expected="a CSV file in UTF-8", found=str(error)) from None


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels, or an upper limit of it; None if the settings do not say."""
    return folder.shorter_side(settings)


def read(raw: Path, settings: Settings) -> RawImages:
    """Return the pictures of the pinned file; see `folder.read`."""
    return folder.read(raw, settings)


def _entry(table: Path, line: int, row: dict[str, str | None], has_split: bool) -> Entry:
    where = f"{table} line {line}"
    split = row["split"] if has_split else UNSPLIT
    if has_split and split not in ("train", "test"):
        raise DataError(f"{where}: split", expected="train or test", found=repr(split))
    name, label = row["path"] or "", nfc(row["label"] or "")
    picture = (table.parent / name).resolve()
    if not picture.is_relative_to(table.parent.resolve()):
        raise DataError(f"{where}: path is outside the folder", expected=f"a picture below {table.parent}", found=name)
    if picture.suffix.lower() not in SUFFIXES or not picture.is_file():
        raise DataError(f"{where}: no such picture", expected=" ".join(SUFFIXES), found=repr(name))
    return Entry(split or UNSPLIT, label, f"{line:07}-{picture.name}", picture, (row.get("group") or "").strip())
