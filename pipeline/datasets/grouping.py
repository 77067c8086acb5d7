"""Groups of pictures: those of one person, drawer, speaker or burst, which stay on one side of every split.

A model that has seen a person in training is scored too well on other pictures of that person. Groups come from a
column of a table, an array of a batch, or a pattern on the path. A picture without a group is alone, with its copies.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, Labels, image_digests

MEMBER = "groups.json"  # of a packed file; it lies in no folder, where the pictures are
_NAMED = 5
_Integers = npt.NDArray[np.int64]


def of_paths(what: str, pattern: str, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the group of each path: what the parentheses of a pattern match in it, or else all that the pattern does.

    Raises:
        DataError: The pattern is not found in a path.
    """
    expression = re.compile(pattern)
    found = [_matched(expression, path) for path in paths]
    without = [path for path, group in zip(paths, found, strict=True) if not group]
    if without:
        raise DataError(
            f"{what}: {len(without):,} of {len(paths):,} pictures are in no group",
            expected=f"the pattern {pattern} in every path",
            found=_some(without),
            next_step="change group in the dataset's section of params.yaml, or rename the files",
        )
    return tuple(found)


def _matched(expression: re.Pattern[str], path: str) -> str:
    match = expression.search(path)
    if match is None:
        return ""
    return "/".join(part or "" for part in match.groups()).strip("/") if expression.groups else match[0]


def packed(groups: dict[str, str], pattern: str | None) -> str:
    """Return the content of `MEMBER`: the groups of members of a packed file, and the pattern that they come from."""
    return json.dumps({"pattern": pattern, "groups": groups}, indent=0, sort_keys=True)


def of_pack(archive: zipfile.ZipFile, names: Sequence[str], pattern: str | None) -> tuple[str, ...]:
    """Return the groups of members of a packed file; none where it has none.

    Raises:
        DataError: They come from another pattern than that of params.
    """
    known = MEMBER in archive.namelist()
    content = json.loads(archive.read(MEMBER)) if known else {"pattern": None, "groups": {}}
    if content["pattern"] != pattern:
        raise DataError(
            f"{archive.filename}: groups",
            expected=f"those of the pattern {pattern}" if pattern else "none that come from a pattern",
            found=f"those of {content['pattern']}" if content["pattern"] else "none that come from a pattern",
            next_step="call `pipeline ingest` where the pictures are",
        )
    return tuple(content["groups"].get(name, "") for name in names) if known else ()


def components(first: _Integers, second: _Integers, count: int) -> _Integers:
    """Return for each of `count` images the lowest one that a chain of pairs links to it.

    An image without pairs is alone.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    _, component = connected_components(links, directed=False)
    _, lowest = np.unique(component, return_index=True)
    found: _Integers = lowest[component]
    return found


def links(values: Iterable[Hashable]) -> tuple[_Integers, _Integers]:
    """Return pairs that link each image to the first one of the same value; ``""`` links nothing."""
    known: dict[Hashable, int] = {}
    pairs = [(place, known.setdefault(value, place)) for place, value in enumerate(values) if value != ""]
    ends = np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)
    return ends[:, 0], ends[:, 1]


def choose_test(
    images: Images, labels: Labels, groups: tuple[str, ...], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Return a mask of the test pictures: whole groups with about a fraction of every class, by hashes of their names.

    So a new picture of a known group moves no other picture, and a new group moves few.
    """
    return choose_test_by_digests(image_digests(images), labels, groups, fraction, seed)


def choose_test_by_digests(
    digests: Sequence[bytes], labels: Labels, groups: tuple[str, ...], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Return a mask of the test pictures by the digests of their pixels; see `choose_test`."""
    ends = [np.concatenate(both) for both in zip(links(digests), links(groups), strict=True)]
    component = components(ends[0], ends[1], len(labels))
    keys = [
        hashlib.sha256(b"%d:" % seed + (group.encode(errors="surrogateescape") if group else digest)).hexdigest()
        for group, digest in zip(groups, digests, strict=True)
    ]
    lowest: dict[int, str] = {}
    for place, key in zip(component.tolist(), keys, strict=True):
        lowest[place] = min(key, lowest.get(place, key))
    return choose(component, labels, fraction, sorted(lowest, key=lambda place: (lowest[place], place)), leave=2)


def choose(
    component: _Integers, labels: Labels, fraction: float, order: Sequence[int], leave: int
) -> npt.NDArray[np.bool_]:
    """Return a mask of whole groups that together have about a fraction of every class.

    Groups are tried in turn, and chosen where that brings the classes nearer to their fraction. A class of which none
    was chosen then gets the group that takes the classes least far from it.

    Args:
        component: The group of each image, as one of its images.
        labels: The classes of the images.
        fraction: Of each class.
        order: All groups.
        leave: How many groups of a class are not chosen, if it has more; one group is never chosen whole.
    """
    places = {group: row for row, group in enumerate(order)}
    counts = np.zeros((len(order), int(labels.max(initial=0)) + 1), np.int64)
    rows = np.array([places[group] for group in component.tolist()], np.int64)
    np.add.at(counts, (rows, labels), 1)
    target, held = counts.sum(axis=0) * fraction, np.zeros(counts.shape[1], np.int64)
    groups = (counts > 0).sum(axis=0)
    least, left = np.maximum(1, np.minimum(leave, groups - 1)), groups.copy()
    chosen = np.zeros(len(order), dtype=bool)

    def may(row: int) -> bool:
        inside = counts[row] > 0
        return not chosen[row] and bool((left[inside] > least[inside]).all())

    def away(row: int) -> float:
        return float(np.abs(held + counts[row] - target).sum())

    def take(row: int) -> None:
        nonlocal held, left
        chosen[row], held, left = True, held + counts[row], left - (counts[row] > 0)

    for row in range(len(order)):
        if may(row) and away(row) < float(np.abs(held - target).sum()):
            take(row)
    for label in np.argsort(groups, kind="stable"):
        if groups[label] and not held[label]:
            allowed = [row for row in np.flatnonzero(counts[:, label]).tolist() if may(row)]
            if allowed:
                take(min(allowed, key=away))
    mask: npt.NDArray[np.bool_] = chosen[rows]
    return mask


def require_apart(what: str, groups: Sequence[str], held_out: npt.NDArray[np.bool_]) -> None:
    """Check that no group is both in test and outside of it: scores on test would be too good.

    Raises:
        DataError: One is.
    """
    named = [(group, side) for group, side in zip(groups, held_out, strict=True) if group] if groups else []
    sides = [Counter(group for group, side in named if side == test) for test in (False, True)]
    both = sorted(sides[0].keys() & sides[1].keys())
    if both:
        texts = [f"{group!r} ({sides[0][group]:,} and {sides[1][group]:,} pictures)" for group in both]
        raise DataError(
            f"{what}: {len(both):,} groups are on both sides",
            expected="every group in train or in test",
            found=_some(texts),
            next_step="move each to one side, or give no test split: it is then chosen by groups",
        )


def in_test(groups: Sequence[str], test: Sequence[str], count: int) -> npt.NDArray[np.bool_]:
    """Return a mask of images whose group is among those of test."""
    known = set(test) - {""}
    return np.array([group in known for group in groups] or [False] * count, dtype=bool)


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
