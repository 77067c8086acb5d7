"""CSV files as people have them: separated by commas, semicolons or tabs, in UTF-8 or UTF-16, with or without a BOM."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import DataError

BLANKS = " \t\u00a0\u200b\ufeff"
_DELIMITERS = ",;\t"
_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Return the columns of a CSV file and its rows with their line numbers; a missing value is empty.

    Values may be separated by commas, semicolons or tabs. Columns are in small letters, without blanks around them.

    Raises:
        DataError: The file is missing, or is not CSV; the iterator raises it, too.
    """
    columns, lines = read_lines(path)
    names = [column.strip(BLANKS).casefold() for column in columns]
    padded = ((line, cells + [""] * (len(names) - len(cells))) for line, cells in lines)
    return names, ((line, dict(zip(names, cells, strict=False))) for line, cells in padded)


def read_lines(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the first line of a CSV file and an iterator of the others with their numbers; see `read_rows`."""
    try:
        content = path.read_bytes()
        text = content.decode(_BOMS.get(content[:2], "utf-8-sig"))
    except (OSError, UnicodeError) as error:
        raise _not_read(path, error) from None
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in _DELIMITERS if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def lines() -> Iterator[tuple[int, list[str]]]:
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except csv.Error as error:
            raise _not_read(path, error) from None

    every = lines()
    return next(every, (0, []))[1], every


def _not_read(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read", expected="a CSV file in UTF-8", found=str(error))
