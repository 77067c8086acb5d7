"""Pairs of near-duplicate images, and their CSV file: `validate` writes one row per pair and `prepare` reads it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.conflicts import conflict_in
from pipeline.core.errors import DataError
from pipeline.core.files import write_text
from pipeline.datasets import grouping

HEADER = ("split", "index", "other_split", "other_index", "distance")

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Pairs of images: two positions, ``second < first``, and the distance; see `near_duplicates.search`."""

    first: Indices
    second: Indices
    distance: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)

    def within(self, distance: float) -> Pairs:
        """Return the pairs with at most a given distance."""
        near = self.distance <= distance
        return Pairs(self.first[near], self.second[near], self.distance[near])


NONE = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def joined(one: Pairs, other: Pairs) -> Pairs:
    """Return the concatenation of two sets of pairs."""
    first, second = np.append(one.first, other.first), np.append(one.second, other.second)
    return Pairs(first, second, np.append(one.distance, other.distance))


Row = tuple[str, int, str, int, float]


def rows(pairs: Pairs, sizes: Mapping[str, int]) -> list[Row]:
    """Return split and index of both images of each pair, and their distance.

    Args:
        pairs: Positions in the concatenation of all splits.
        sizes: The number of images of every split, in that order.
    """
    names, starts = list(sizes), np.cumsum([0, *sizes.values()])

    def place(position: int) -> tuple[str, int]:
        split = int(np.searchsorted(starts, position, side="right")) - 1
        return names[split], int(position - starts[split])

    return [
        (*place(second), *place(first), round(float(distance), 4))
        for first, second, distance in zip(pairs.first, pairs.second, pairs.distance, strict=True)
    ]


def save(path: Path, pairs: Pairs, sizes: Mapping[str, int]) -> None:
    """Write pairs as a CSV file; arguments as for `rows`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((*ends, f"{distance:.4f}") for *ends, distance in rows(pairs, sizes))
    write_text(path, text.getvalue())


def load(path: Path, split: str, size: int) -> Pairs:
    """Return the pairs within a split, as indices into that split.

    Raises:
        DataError: The file is missing or damaged, or has an index outside the `size` images of the split.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
        if tuple(header) != HEADER:
            raise ValueError(f"columns {', '.join(header) or 'none'}")
        inside = [(int(b), int(a), float(d)) for s, a, o, b, d in rows if s == o == split]
        if any(not 0 <= second < first < size for first, second, _ in inside):
            raise ValueError(f"an index outside {size:,} images, or a pair in the wrong order")
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} is not a table of pairs",
            expected=f"rows of {', '.join(HEADER)}",
            found=conflict_in(path) or error,
            next_step="dvc repro validate",
        ) from None
    table = np.array(inside, dtype=np.float64).reshape(-1, 3)
    return Pairs(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2])


def groups(first: Indices, second: Indices, count: int) -> Indices:
    """Return the group of each of `count` images: the lowest index that a chain of pairs links to it.

    An image without pairs is a group of its own.
    """
    return grouping.components(first, second, count)
