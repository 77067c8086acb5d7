"""Source format `table`: your own pictures, listed in a CSV file with ``path`` and ``label``.

It may have ``split``, which is ``train``, ``val`` or ``test``, and ``group``: pictures of one group stay on one side of
every split. Paths are relative to the table and stay below its folder. Blanks around names and values do not count.
Pictures are packed and read as in `folder`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import DataError
from pipeline.datasets import faults
from pipeline.datasets.arrays import RawImages
from pipeline.datasets.csv_files import BLANKS, read_rows
from pipeline.datasets.decoding import SUFFIXES
from pipeline.datasets.faults import Fault
from pipeline.datasets.formats import folder
from pipeline.datasets.formats.folder import SPLITS, UNSPLIT, Collection, Entry
from pipeline.datasets.own_files import UNREAD, Found, OwnFile


class Settings(folder.Settings):
    """The dataset's section under ``download``: as for `folder`, with the path of the table."""


def collect(path: Path) -> list[Entry]:
    """Return the pictures that a table lists; raise an error also about rows without one.

    Raises:
        DataError: As `find` does, or a row has no picture below the table's folder.
    """
    collection = find(path)
    collection.found.require(str(path), len(collection.entries), path)
    return collection.entries


def find(path: Path, section: Mapping[str, Any] | None = None) -> Collection:
    """Return the pictures that a table lists, and its rows without one.

    Names have the line number as a prefix, so that equal file names in different folders differ.

    Args:
        path: The table.
        section: The dataset's section of params; not used.

    Raises:
        DataError: The table is missing, is not CSV, or has no columns ``path`` and ``label``.
    """
    found, entries, spelled = Found(), [], dict[str, Counter[str]]()
    columns, rows = read_rows(path)
    if not {"path", "label"} <= set(columns):
        shown = ", ".join(faults.escaped(column) for column in columns) or "none"
        raise DataError(f"{path}: columns", expected="path, label", found=shown)
    for line, row in rows:
        picture = _picture(path, row["path"])
        label, split = folder.same_class(row["label"]), SPLITS.get(row.get("split", "").strip().casefold())
        where = f"{path} line {line}"
        if "split" in row and split is None:
            found.faults.append(Fault(where, f"split: expected train, val or test, found {row['split']!r}"))
        elif not label:
            found.faults.append(Fault(where, "has no label"))
        elif picture is None:
            found.faults.append(Fault(where, f"path is outside the folder: {row['path']!r}"))
        elif picture.suffix.lower() in UNREAD and picture.is_file():
            found.unread.append(str(picture))
        elif picture.suffix.lower() not in SUFFIXES or not picture.is_file():
            found.faults.append(Fault(where, f"no such picture: {row['path']!r}"))
        else:
            spelled.setdefault(label, Counter())[row["label"]] += 1
            name = f"{line:07}-{picture.name}"
            group = row.get("group", "").strip(BLANKS)
            entries.append(Entry(split or UNSPLIT, label, name, picture, OwnFile(picture.name, picture), group))
    for label, of_label in spelled.items():
        if len(of_label) > 1:
            (first, _), (second, count) = of_label.most_common(2)
            both = folder.differ(first, second)
            found.notes.append(f"labels {both} ({count:,} rows have the latter): read as one class, {label!r}")
    return Collection(sorted(entries), found)


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels, or an upper limit of it; None if the settings do not say."""
    return folder.shorter_side(settings)


def read(raw: Path, settings: Settings) -> RawImages:
    """Return the pictures of the pinned file; see `folder.read`."""
    return folder.read(raw, settings)


def _picture(table: Path, name: str) -> Path | None:
    """Return the path of a picture, or None if it is outside the table's folder."""
    home = table.parent.resolve()
    try:
        for spelling in (name, name.strip(BLANKS), name.strip(BLANKS).replace("\\", "/")):
            picture = (table.parent / spelling).resolve()
            if picture.is_file():
                break
    except (OSError, ValueError):  # too long a name, or a null byte in it
        return home / "no picture"
    return picture if picture.is_relative_to(home) else None
