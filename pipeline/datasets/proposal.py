"""What a tree of files is: the format, path and settings that its section of params.yaml needs to be read.

`recognised` looks at names, headers and first lines only. What the pixels show is added by whoever decodes them.
"""

from __future__ import annotations

import gzip
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.core.errors import DataError
from pipeline.datasets import faults
from pipeline.datasets.class_names import natural
from pipeline.datasets.csv_files import BLANKS, read_lines
from pipeline.datasets.formats import idx
from pipeline.datasets.formats.folder import SPLITS, Entry
from pipeline.datasets.own_files import OwnFile, OwnFolder, is_litter

_AROUND = 8  # folders, each the only one in the one before, that may be around everything
_TABLES = (".csv", ".tsv")
_LABELS = ("label", "labels", "class", "target", "digit", "y", "category")  # names of columns
_TABLE = {"path", "label"}
_MANY = 16  # columns: from there on, those without the names of a table are pixels
_IMAGES, _OF_LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"
_LONGEST = 48  # characters of a name that is made of a folder's
_PEOPLE = "author|drawer|writer|painter|signer|person|people|subject|subj|participant|patient|user|speaker|actor|donor"
_SEQUENCES = "burst|clip|video|scene|session|sequence|seq"
_NUMBERED = re.compile(rf"(?:^|[_\-. ])((?:{_PEOPLE}|{_SEQUENCES})[_\-. ]?\d+)(?=$|[_\-. ])", re.IGNORECASE)
_BETWEEN = re.compile(r"[_\-. ]")
_LEAST_GROUPS = 4  # of a class: for test, for validation and two to learn from


def name_for(path: Path) -> str:
    """Return a valid name of a dataset for a folder or file: ``my-pets-2`` for ``My Pets (2)``."""
    stem = path.name.partition(".")[0] if path.is_file() else path.name
    if path.is_file() and (SPLITS.get(stem.casefold()) or stem.casefold() in (*_LABELS, "data", "index")):
        stem = path.parent.name
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9_]+", "-", plain).strip("-_")[:_LONGEST].strip("-_") or "pictures"


def recognised(path: Path) -> dict[str, Any]:
    """Return the settings that say how a folder or file is laid out: at least its format and path.

    Raises:
        DataError: There is nothing, or it is no dataset.
    """
    if path.is_file():
        return _of_table(path) if path.suffix.lower() in _TABLES else {"format": "folder", "path": str(path)}
    if not path.is_dir():
        raise DataError(f"{path}: no such folder or file", expected="a folder, zip file or CSV file", found="none")
    place = path
    for _ in range(_AROUND):
        children = [child for child in sorted(place.iterdir()) if not _litter(child)]
        files = [child for child in children if child.is_file()]
        if not children:
            expected = "pictures in a folder per class, a CSV file, or IDX files"
            raise DataError(f"{path} is empty", expected=expected, found="no file")
        if len(children) != 1 or files:
            break
        place = children[0]
    tables = [file for file in files if file.suffix.lower() in _TABLES]
    if any(_magic(file) in (_IMAGES, _OF_LABELS) for file in files):
        return _of_idx(place)
    if lists := [table for table in tables if set(_columns(table)) >= _TABLE]:
        if len(lists) > 1:
            found = faults.some([faults.escaped(file.name) for file in lists])
            raise DataError(f"{path}: tables of pictures", expected="one", found=found, next_step="give the path of it")
        return _of_table(lists[0])
    if tables and len(tables) == len(children):
        return _of_table(tables[0]) if len(tables) == 1 else _of_tables(path, place, tables)
    return {"format": "folder", "path": str(path)}


def _litter(child: Path) -> bool:
    folder = child.is_dir()
    return is_litter(OwnFolder(child.name, child) if folder else OwnFile(child.name, child))


def _columns(table: Path) -> list[str]:
    return [column.strip(BLANKS).casefold() for column in read_lines(table)[0]]


def _of_table(table: Path) -> dict[str, Any]:
    """Return the settings of a table of pictures, or of pixels."""
    columns = _columns(table)
    if set(columns) >= _TABLE:
        return {"format": "table", "path": str(table)}
    if len(columns) < _MANY and "pixels" not in columns:
        raise DataError(
            f"{table}: columns",
            expected="path and label of pictures, or a label and the pixels of an image in each line",
            found=faults.some([faults.escaped(column) for column in columns]) or "none",
            next_step="rename the columns of its first line to path and label",
        )
    return {"format": "pixels", "path": str(table), **_of_pixels(table, columns)}


def _of_tables(path: Path, place: Path, tables: list[Path]) -> dict[str, Any]:
    """Return the settings of a folder of tables, of which one is of train."""
    words = {table: set(re.split("[^a-z]+", table.stem.casefold())) for table in tables}
    train = [table for table in tables if words[table] & {"train", "training"}]
    if not train:
        found = faults.some([faults.escaped(table.name) for table in tables])
        raise DataError(f"{path}: tables", expected="one with train in its name", found=found)
    unlabelled = [table for table in tables if not _has_label(table, _columns(train[0]))]
    if unlabelled:  # such as Kaggle's test.csv, whose labels nobody has
        if len(tables) - len(unlabelled) == 1 and train[0] not in unlabelled:
            return _of_table(train[0])
        found = faults.some([faults.escaped(table.name) for table in unlabelled])
        raise DataError(
            f"{path}: tables without labels", expected="none", found=found, next_step="give one as the path"
        )
    return {**_of_table(train[0]), "path": str(place)}


def _has_label(table: Path, like: list[str]) -> bool:
    """Return whether a table has as many columns as another; without a header, that is all that can be compared."""
    return len(_columns(table)) == len(like)


def _of_pixels(table: Path, columns: list[str]) -> dict[str, Any]:
    """Return the settings of a table of pixels."""
    found: dict[str, Any] = {}
    named = [column for column in _LABELS if column in columns]
    if named and named[0] != "label":
        found["label"] = named[0]
    count = len(
        set(range(len(columns))) - {columns.index(name) for name in (*named[:1], "split", "group") if name in columns}
    )
    count -= not named  # no header: the label is first
    if "pixels" not in columns:
        third = count // 3
        channels = 3 if count % 3 == 0 and math.isqrt(third) ** 2 == third else 1
        side = math.isqrt(count // channels)
        found |= {"size": [side, side], "channels": channels} if side**2 * channels == count else {}
    return found | ({"transpose": True} if "emnist" in table.name.casefold() else {})


def _magic(file: Path) -> bytes:
    """Return the first four bytes of a file, unpacked."""
    with suppress(OSError, EOFError, gzip.BadGzipFile), file.open("rb") as opened:
        first = opened.read(4)
        if first[:2] != b"\x1f\x8b":
            return first
        opened.seek(0)
        return gzip.GzipFile(fileobj=opened).read(4)
    return b""


def _of_idx(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder of IDX files."""
    found: dict[str, Any] = {"format": "idx", "path": str(folder)}
    try:
        files = idx.local_files(folder, found)
    except DataError:
        files = _by_content(folder)
        found["roles"] = dict(zip(idx.Roles.model_fields, [file.name for file in files], strict=True))
    first = min(int(idx.parse(file, 1).min()) for file in (files[1], files[3]))
    if first:
        found["first_label"] = first
    if any("emnist" in file.name.casefold() for file in files):
        found["transpose"] = True
    return found


def _by_content(folder: Path) -> list[Path]:
    """Return the files of train images, train labels, test images and test labels: train is larger."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not _litter(file)]
    images = [file for file in files if _magic(file) == _IMAGES]
    labels = [file for file in files if _magic(file) == _OF_LABELS]
    counts = {file: len(idx.parse(file, 3 if file in images else 1)) for file in (*images, *labels)}
    sides = [sorted(of, key=lambda file: counts[file], reverse=True) for of in (images, labels)]
    matched = len(images) == len(labels) == 2 and all(counts[a] == counts[b] for a, b in zip(*sides, strict=True))
    if not matched or counts[sides[0][0]] == counts[sides[0][1]]:
        found = faults.some([f"{faults.escaped(file.name)} ({counts[file]:,})" for file in counts])
        expected = "images and labels of train, and as many of each as of a smaller test"
        raise DataError(
            f"{folder}: IDX files", expected=expected, found=found, next_step="call two train-… and two test-…"
        )
    return [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]


def group_pattern(entries: Sequence[Entry]) -> tuple[str, list[str]] | None:
    """Return a pattern for groups in the names of files, such as speakers or drawers, and the groups.

    A word with a number (``drawer03``) is one, and so is a part of the names (``7_anna_2.png``) that has few values, in
    several classes each. None is returned where that is not so for all pictures, or leaves too few groups.
    """
    stems = [Path(entry.name).stem for entry in entries]
    numbered = [match[1] if (match := _NUMBERED.search(stem)) else "" for stem in stems]
    if stems and all(numbered):
        if _enough(entries, numbered):
            words = sorted({re.split(r"[_\-. \d]", value)[0].casefold() for value in numbered})
            return rf"(?i)((?:{'|'.join(words)})[_\-. ]?\d+)[^/]*$", natural(set(numbered))
        return None
    parts = [_BETWEEN.split(stem) for stem in stems]
    if len({len(each) for each in parts}) != 1 or len(parts[0]) < 2:
        return None
    for place in range(len(parts[0])):
        values = [each[place] for each in parts]
        if _are_names(entries, values) and _enough(entries, values):
            return rf"/(?:[^/_\-. ]+[_\-. ]){{{place}}}([^/_\-. ]+)[^/]*$", natural(set(values))
    return None


def _are_names(entries: Sequence[Entry], values: Sequence[str]) -> bool:
    """Return whether values are words that are no splits or classes, each of many pictures in most classes."""
    if not all(value.isalpha() and value.casefold() not in SPLITS for value in values):
        return False
    classes = defaultdict(set)
    for entry, value in zip(entries, values, strict=True):
        classes[value].add(entry.label)
    half = len({entry.label for entry in entries}) / 2
    return all(len(labels) >= max(2, half) for labels in classes.values()) and len(classes) * 4 <= len(values)


def _enough(entries: Sequence[Entry], values: Sequence[str]) -> bool:
    groups = defaultdict(set)
    for entry, value in zip(entries, values, strict=True):
        groups[entry.label].add(value)
    return all(len(found) >= _LEAST_GROUPS for found in groups.values())
