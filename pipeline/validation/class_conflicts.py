"""One picture in two classes: images that are the same, or nearly the same, and have different labels.

No model can be right about such an image, so equal pixels are refused. Images of nearly the same pattern and mirrored
images are reported: two classes may differ in orientation or brightness alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.datasets.arrays import Images, Labelled, Labels, image_digests
from pipeline.datasets.covers import without_bars
from pipeline.validation import near_duplicates
from pipeline.validation.duplicate_pairs import NONE, Indices, Pairs

_LISTED = 1000  # pairs in a report, so that it stays small


@dataclass(frozen=True)
class Conflicts:
    """Pairs of images with different labels, as positions in all splits one after another.

    Attributes:
        same: Pairs with equal pixels.
        near: Near duplicates that are not equal.
        mirrored: Images that are near duplicates once one of them is flipped.
    """

    same: Pairs = NONE
    near: Pairs = NONE
    mirrored: Pairs = NONE

    def alike(self) -> Indices:
        """Return the later image of each pair that is not equal."""
        return np.union1d(self.near.first, self.mirrored.first)

    def later_by(self, positions: int) -> Conflicts:
        """Return the later image of each pair alone, as positions that begin so much later."""

        def only(pairs: Pairs) -> Pairs:
            return Pairs(pairs.first - positions, pairs.first - positions, pairs.distance)

        return Conflicts(only(self.same), only(self.near), only(self.mirrored))


NO_CONFLICTS = Conflicts()


def find(parts: Mapping[str, Labelled], near: Pairs, distance: float, since: int = 0) -> Conflicts:
    """Return the images of the splits that have two labels.

    Args:
        parts: The splits.
        near: Their near duplicates, as positions in all splits one after another.
        distance: The largest distance of a near duplicate, for mirrored images.
        since: Return only pairs with an image at this position or later.
    """
    labels = np.concatenate([part.labels for part in parts.values()])
    same = _same([part.images for part in parts.values()], labels, since)
    mirrored = NONE
    if len({part.images.shape[1:] for part in parts.values()}) == 1:
        images = np.concatenate([without_bars(part) for part in parts.values()])
        mirrored = near_duplicates.search_mirrored(images, labels, distance, since)
    other = labels[near.first] != labels[near.second]
    return Conflicts(same, _chosen(near, other), _chosen(mirrored, _once(mirrored, near)))


def _chosen(pairs: Pairs, mask: npt.NDArray[np.bool_]) -> Pairs:
    return Pairs(pairs.first[mask], pairs.second[mask], pairs.distance[mask])


def _once(pairs: Pairs, known: Pairs) -> npt.NDArray[np.bool_]:
    """Return a mask of the pairs that are not known and do not repeat an earlier one."""
    seen = set(zip(known.first.tolist(), known.second.tolist(), strict=True))
    new = np.zeros(len(pairs), dtype=bool)
    for place, end in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        new[place] = end not in seen
        seen.add(end)
    return new


def _same(images: list[Images], labels: Labels, since: int) -> Pairs:
    """Return each image that equals an earlier one with another label, with that one."""
    first: list[int] = []
    second: list[int] = []
    seen: dict[bytes, dict[int, int]] = {}
    digests = (digest for part in images for digest in image_digests(part))
    for position, (digest, label) in enumerate(zip(digests, labels.tolist(), strict=True)):
        known = seen.setdefault(digest, {})
        other = next((place for name, place in known.items() if name != label), None)
        if other is not None and position >= since:
            first.append(position)
            second.append(other)
        known.setdefault(label, position)
    return Pairs(np.array(first, np.int64), np.array(second, np.int64), np.zeros(len(first)))


def texts(parts: Mapping[str, Labelled], class_names: tuple[str, ...], conflicts: Conflicts) -> dict[str, list[str]]:
    """Return a text that names both images of each pair, of the first thousand, by the name of the expectation."""

    def both(pairs: Pairs, how: str) -> list[str]:
        ends = zip(pairs.second[:_LISTED], pairs.first[:_LISTED], strict=True)
        return [f"{_name(parts, class_names, a)} and {_name(parts, class_names, b)}{how}" for a, b in ends]

    alike = both(conflicts.near, " look the same") + both(conflicts.mirrored, " look the same when mirrored")
    return {"two-classes": both(conflicts.same, ""), "two-classes-near": alike[:_LISTED]}


def _name(parts: Mapping[str, Labelled], class_names: tuple[str, ...], position: int) -> str:
    """Return the file of an image and its class, if the folder is not called after it."""
    for split, part in parts.items():
        if position < len(part):
            label = int(part.labels[position])
            known = class_names[label] if 0 <= label < len(class_names) else f"label {label}"
            file = part.files[position] if part.files else ""
            if file:
                return file if known in file.split("/")[:-1] else f"{file} ({known!r})"
            return f"{split}[{position}] ({known!r})"
        position -= len(part)
    raise IndexError(position)
