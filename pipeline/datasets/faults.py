"""Faults of many files as one error: their number, the first five, and a CSV file that lists all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.core.files import write_text

_NAMED = 5
_HEADER = ("file", "fault")


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used, and the reason."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{escaped(self.file)} ({escaped(self.reason)})"


def escaped(name: str) -> str:
    r"""Return a name in which characters that cannot be seen are escapes: a no-break space is ``\xa0``.

    A name with a blank at an end is quoted, so that the blank shows.
    """
    return quoted(name) if name != name.strip() else _printable(name)


def quoted(name: str) -> str:
    """Return a name in quotes; see `escaped`."""
    return f"'{_printable(name)}'"


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in name)


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def save(table: Path, faults: Sequence[Fault]) -> None:
    """Write a CSV file with a row for each fault."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_HEADER)
    rows.writerows((escaped(fault.file), escaped(fault.reason)) for fault in faults)
    write_text(table, text.getvalue())


def some(names: Sequence[str]) -> str:
    """Return the first five names, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def error(
    what: str,
    faults: Sequence[Fault],
    *,
    expected: str,
    next_step: str = "fix or remove them",
    table: Path | None = None,
    root: Path | None = None,
) -> DataError:
    """Return the error about files that cannot be used, and list all of them in a table.

    Args:
        what: What was read, and how many of its files are at fault.
        faults: At least one.
        expected: What should have been there.
        next_step: What the user can do.
        table: The CSV file to write; None writes none.
        root: The folder of the files, which their names in the message leave out.
    """
    if table is not None:
        save(table, faults)
    return DataError(
        what,
        expected=expected,
        found=some([str(fault).removeprefix(f"{root}{os.sep}") for fault in faults]),
        done=f"{table} lists all of them" if table is not None else None,
        next_step=next_step,
    )
