"""Names of classes: their order, which numbers them, and labels that come as names or numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError, nearest
from pipeline.datasets.arrays import Labels, nfc

_NUMBER = re.compile(r"\s*[+-]?\d+(?:[.,]\d+)?\s*")
_LISTED = 20  # classes in a line that is printed


def natural(names: Iterable[str]) -> list[str]:
    """Return names in natural order: "2" before "10", and "page 9" before "page 10"."""
    return sorted(names, key=lambda name: (_parts(name), name))


def _parts(name: str) -> list[str | int]:
    """Return texts and numbers in turn."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]


def in_order(found: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return names of classes in the order in which they are known already; new ones follow, in natural order."""
    names = set(found)
    kept = [name for name in dict.fromkeys(known) if name in names]
    return [*kept, *natural(names.difference(kept))]


def table(names: Sequence[str], most: int | None = None) -> str:
    """Return which number stands for which class: ``0 = 'cat', 1 = 'dog'``; with a limit, the first ones and the last.

    Args:
        names: The names of classes 0, 1, ….
        most: The largest number of classes to list; None lists all.
    """
    texts = [f"{number} = {name!r}" for number, name in enumerate(names)]
    if most is not None and len(texts) > most + 1:
        texts = [*texts[:most], "…", texts[-1]]
    return ", ".join(texts)


def listed(names: Sequence[str]) -> str:
    """Return the table for a line of output."""
    return f"labels {table(names, _LISTED)}"


def require_plain_numbers(what: str, names: Sequence[str]) -> None:
    """Check that a number can stand for a class: that none is called by the number of another.

    Raises:
        DataError: A name is a number other than its own index.
    """
    if any(_NUMBER.fullmatch(name) and float(name.replace(",", ".")) != number for number, name in enumerate(names)):
        raise DataError(
            f"{what}: whole numbers as labels are ambiguous",
            expected="labels that are names, or an array class_names with the name of each number, because here "
            + table(names),
            found="whole numbers alone",
            next_step="add class_names=[…] to the file, or save the labels as text",
        )


def numbers(what: str, names: npt.NDArray[Any], class_names: Sequence[str]) -> Labels:
    """Return the numbers of classes that are given by name, (N,).

    Raises:
        DataError: A name is not of a class.
    """
    known = {nfc(name): number for number, name in enumerate(class_names)}
    different, places = np.unique(names, return_inverse=True)
    found = [nfc(str(name)) for name in different.tolist()]
    for name in found:
        if name not in known:
            raise DataError(f"{what}: unknown class", expected=nearest(name, class_names), found=repr(name))
    return np.array([known[name] for name in found], np.int64)[places.reshape(-1)]
