"""Names of images in messages and on pages: the file and the class, never a position alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.datasets.arrays import Labelled
from pipeline.validation.duplicate_pairs import Pairs

if TYPE_CHECKING:
    import pandas as pd

MOST_PAIRS = 1000  # named for each expectation


@dataclass(frozen=True)
class Names:
    """Names the images and classes of the splits of a dataset."""

    parts: Mapping[str, Labelled]
    class_names: Sequence[str]

    def image(self, split: str, index: int) -> str:
        """Return the file with its split, such as ``test/dog/7.jpg``; without a file ``test[7] ('dog')``."""
        part = self.parts.get(split)
        if part is None or not 0 <= index < len(part):
            return f"{split}[{index}]"
        known = self.of_label(int(part.labels[index]))
        if not part.files or not part.files[index]:
            return f"{split}[{index}] ({known!r})"
        file = part.files[index]
        named = file if split == "batch" or file.startswith(f"{split}/") else f"{split}/{file}"
        return named if known in file.split("/")[:-1] else f"{named} ({known!r})"

    def of_label(self, label: int) -> str:
        """Return the name of a class."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else f"label {label}"

    def of_class(self, split: str, label: int) -> str:
        """Return the name of a class of a split: ``class 'dog' of test``."""
        return f"class {self.of_label(label)!r} of {split}"

    def place(self, position: int) -> tuple[str, int]:
        """Return split and index of the image at a position in all splits one after another."""
        for split, part in self.parts.items():
            if position < len(part):
                return split, position
            position -= len(part)
        raise IndexError(position)

    def at(self, position: int) -> str:
        """Return the name of the image at a position in all splits one after another."""
        return self.image(*self.place(position))


def pairs(table: pd.DataFrame, near: Pairs, scored: str = "test") -> dict[str, list[tuple[int, int, str]]]:
    """Return, by column of the table, both images of each pair that the column marks, and how they are alike.

    Args:
        table: See `statistics.image_table`; its index holds positions in all splits one after another.
        near: Near duplicates, as such positions, nearest first.
        scored: The split that models are scored on.
    """
    split, sha256 = table["split"].to_numpy(), table["sha256"].to_numpy()
    found: dict[str, list[tuple[int, int, str]]] = {"repeats": [], "leaked": [], "near": [], "near_leaked": []}
    first: dict[tuple[str, str], int] = {}
    for position, (part, digest) in enumerate(zip(split, sha256, strict=True)):
        first.setdefault((part, digest), position)
    for column, others in (("repeats", None), ("leaked", list(dict.fromkeys(split)))):
        for position in np.flatnonzero(table[column].to_numpy(dtype=bool))[:MOST_PAIRS]:
            mine, digest = split[position], sha256[position]
            candidates = [mine] if others is None else [name for name in others if name != mine]
            place = next((first[name, digest] for name in candidates if (name, digest) in first), None)
            if place is not None:
                found[column].append((place, int(position), "the same pixels"))
    for one, other, distance in zip(near.first, near.second, near.distance, strict=True):
        column = "near" if split[one] == split[other] else "near_leaked"
        if column == "near" or scored in (split[one], split[other]):
            found[column].append((int(other), int(one), f"distance {distance:.2f}"))
    return {column: entries[:MOST_PAIRS] for column, entries in found.items()}
