"""Looks at your own pictures, and proposes the section of params.yaml that reads them rightly.

It decides what a person would otherwise have to know: the format, the size, grey or colour, the depth, what is behind
transparent pixels, splits and groups. What makes learning impossible is refused with the names of all files.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core import params
from pipeline.core.errors import DataError
from pipeline.datasets import contact_sheet, decoding, faults, grouping, packing, proposal, size_choice
from pipeline.datasets.arrays import PLAIN, Images, Labelled, Labels, Reading, image_digests
from pipeline.datasets.bars import Shape
from pipeline.datasets.covers import without_bars
from pipeline.datasets.decoding import Survey
from pipeline.datasets.faults import Fault
from pipeline.datasets.formats import folder as folders
from pipeline.datasets.formats.folder import Entry
from pipeline.datasets.size_choice import Tried
from pipeline.datasets.source_format import source_format
from pipeline.stages.prepare import groups_of
from pipeline.validation import near_duplicates

_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners have
_FULL = 15  # bits: values that need as many are of 16
_COLOURED = 0.01  # share of coloured pictures from which a set is read in colour
_TRIED = 500  # pictures that the size is chosen on
_HELD = 1250  # pictures that are kept for it: some of them may be of the test split, and are left out
_TEST_FRACTION, _SEED = 0.2, 0  # the defaults of the section
_LOOKS = 4  # pictures that are compared with all of their class, before all are
_SEARCHED = 1000  # pictures of a class among which near duplicates are searched
_DISTANCE = 0.15
_Mask = npt.NDArray[np.bool_]


@dataclass
class Proposal:
    """What was found, and the section that it needs.

    Attributes:
        name: The dataset's name.
        section: Its section of params.
        counts: The pictures of each split, by class.
        size: Height and width of an image.
        tried: What nearest neighbours reach in each size; empty where the files give the size.
        groups: The groups in the names of files.
        notes: What else a person should know, a line each.
        sheet: The contact sheet.
    """

    name: str
    section: dict[str, Any]
    counts: dict[str, Counter[str]]
    size: Shape
    tried: list[Tried] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sheet: Path = Path()

    @property
    def learnt(self) -> int:
        """The number of pictures outside of test."""
        return sum(count for splits in self.counts.values() for split, count in splits.items() if split != "test")


@dataclass(frozen=True)
class _Seen:
    """All pictures, as far as their classes are judged by it.

    Attributes:
        files: The name of each.
        labels: The class of each.
        digests: Of the pixels of each, in the largest size that was tried.
        small: Each in a small size.
        learnt: Which may be learnt from.
        groups: The group of each; empty where none has one.
    """

    files: list[str]
    labels: Labels
    digests: list[bytes]
    small: Images
    learnt: _Mask
    groups: tuple[str, ...] = ()


def propose(path: Path, name: str, store: Path, *, skip_damaged: bool = False, distance: float = _DISTANCE) -> Proposal:
    """Look at pictures and return the section that they need.

    Args:
        path: A folder, zip file or CSV file.
        name: The dataset's name.
        store: The folder for the contact sheet and for a table of files that cannot be used.
        skip_damaged: Leave out files that cannot be read.
        distance: The largest distance of near duplicates.

    Raises:
        DataError: There are no pictures, some cannot be used, or classes cannot be learnt.
    """
    section = proposal.recognised(path)
    source = source_format(section["format"])
    if hasattr(source, "find"):
        return _of_pictures(path, name, section, source, store, skip_damaged, distance)
    return _of_arrays(name, section, source, store, distance)


def _of_pictures(
    path: Path, name: str, section: dict[str, Any], source: ModuleType, store: Path, skips: bool, distance: float
) -> Proposal:
    place, table = Path(section["path"]), store / packing.DAMAGED
    home = place.parent if section["format"] in ("table", "pixels") and place.is_file() else place
    collection = source.find(place, section)
    entries, found = list(collection.entries), collection.found
    groups: list[str] = []
    if section["format"] == "folder" and (pattern := proposal.group_pattern(entries)):
        section["group"], groups = pattern
        entries = packing.grouped(name, entries, section["group"], place)
    before = {entry.label for entry in entries}
    entries, survey = packing.readable(entries, PLAIN, found, home)
    if skips:
        found.leave_out(table)
        lost = before - {entry.label for entry in entries}
        found.empty += [Fault(f"class {label}", "none of its pictures can be read") for label in sorted(lost)]
        section |= {"skip_damaged": True} if found.left_out else {}
    if not entries and not found.faults and not found.empty:
        where = f": {lines[0]}" if (lines := found.lines(home)) else ""
        raise DataError(f"{path} holds no pictures", expected="pictures in a folder per class", found=f"none{where}")
    skip = "fix or remove them, or add --skip-damaged, which leaves them out"
    found.require(name, len(entries), home, table, skip)
    classes = packing.classes(name, entries)
    reading = _reading(section, survey)
    survey.require_plain(name, reading, "a section that you write by hand, see docs/own-data.md")
    own_size = section["format"] == "pixels"
    sizes = [survey.shapes[0]] if own_size else size_choice.candidates(survey.shapes)
    section.setdefault("channels", 3 if survey.coloured > _COLOURED * len(entries) else 1)
    if not own_size and len(set(survey.shapes)) > 1:
        section["fit"] = "pad"
    seen, held, in_test = _decoded(entries, classes, sizes, section["channels"], reading, home)
    if own_size:
        size, tried = sizes[0], list[Tried]()
    else:
        size, tried = _size(held, sizes, seen.labels, in_test, survey.shapes)

    def large(rows: Sequence[int]) -> Images:
        return _barless([entries[row] for row in rows], size, section["channels"], reading)

    _require_sound(name, classes, seen, _Refusal(table, home), distance, large)
    section["size"] = list(size)
    splits = {entry.split for entry in entries}
    section |= {"validation": "join"} if "val" in splits else {}
    section |= {"test_fraction": _TEST_FRACTION} if "test" not in splits else {}
    section["classes"] = classes
    of_test = in_test[sizes.index(size)]
    counts: dict[str, Counter[str]] = {label: Counter() for label in classes}
    for entry, tested in zip(entries, of_test, strict=True):
        counts[entry.label]["test" if tested else "val" if entry.split == "val" else "train"] += 1
    shown = {row: arrays[sizes.index(size)] for row, arrays in held.items()}
    sheet = _sheet(store, classes, counts, seen.labels, shown)
    return Proposal(name, section, counts, size, tried, groups, found.lines(home), sheet)


def _reading(section: dict[str, Any], survey: Survey) -> Reading:
    """Set depth and background where the whole set shows that they are needed, and return how pictures are read."""
    bits = max(survey.peak.bit_length(), 8)
    if survey.deep and bits < _FULL and len(survey.in_colour) < survey.deep:
        section["depth"] = next(depth for depth in _DEPTHS if depth >= bits)
    if survey.transparent:
        section["background"] = "white" if survey.inked else "black"
    return Reading(section.get("depth"), section.get("background"), "pad")


def _decoded(
    entries: Sequence[Entry],
    classes: Sequence[str],
    sizes: Sequence[Shape],
    channels: int,
    reading: Reading,
    home: Path,
) -> tuple[_Seen, dict[int, list[Images]], list[_Mask]]:
    """Decode each picture once, in all sizes.

    Returns:
        All pictures, those that are kept in each size, by their places, and which are of test in each size.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    labels = np.array([numbers[entry.label] for entry in entries], np.int64)
    wanted = set(_spread(entries, labels))
    held: dict[int, list[Images]] = {}
    small = np.empty((len(entries), *sizes[0], channels), np.uint8)
    hashes: list[list[str]] = [[] for _ in sizes]
    by_size: list[list[bytes]] = [[] for _ in sizes]
    for row, entry in enumerate(entries):
        arrays = decoding.decode_sizes(entry.source.content(), sizes, channels, reading)
        small[row] = arrays[0]
        for place, array in enumerate(arrays):
            hashes[place].append(folders.split_hash(array, _SEED))
            by_size[place].append(hashlib.sha256(array.tobytes()).digest())
        if row in wanted:
            held[row] = arrays
    digests = by_size[-1]  # of the largest size
    groups = tuple(entry.group for entry in entries)
    given = np.array([entry.split == "test" for entry in entries])
    if given.any():
        in_test = [given for _ in sizes]
    elif any(groups):
        in_test = [grouping.choose_test_by_digests(each, labels, groups, _TEST_FRACTION, _SEED) for each in by_size]
    else:
        in_test = [folders.lowest(np.array(each), labels, _TEST_FRACTION) for each in hashes]
    files = [str(entry.path).removeprefix(f"{home}{os.sep}") for entry in entries]
    return _Seen(files, labels, digests, small, ~given, groups if any(groups) else ()), held, in_test


def _spread(entries: Sequence[Entry], labels: Labels) -> list[int]:
    """Return places of pictures, each class in turn, by the hashes of their names."""
    ranks: dict[int, int] = defaultdict(int)
    order = sorted(
        range(len(entries)), key=lambda row: hashlib.sha256(str(entries[row].name).encode(errors="replace")).digest()
    )
    placed = []
    for row in order:
        ranks[int(labels[row])] += 1
        placed.append((entries[row].split == "test", ranks[int(labels[row])], int(labels[row]), row))
    return [row for *_, row in sorted(placed)][:_HELD]


def _size(
    held: Mapping[int, list[Images]],
    sizes: Sequence[Shape],
    labels: Labels,
    in_test: Sequence[_Mask],
    native: Sequence[Shape],
) -> tuple[Shape, list[Tried]]:
    """Choose the size on pictures that are of test in none of the sizes."""
    learnt = ~np.any(in_test, axis=0)
    turns: dict[int, int] = defaultdict(int)
    placed = []
    for row in held:
        if learnt[row]:
            turns[int(labels[row])] += 1
            placed.append((turns[int(labels[row])], int(labels[row]), row))
    rows = [row for *_, row in sorted(placed)][:_TRIED]
    if not rows:
        return sizes[0], []
    stacks = [np.stack([held[row][place] for row in rows]) for place in range(len(sizes))]
    return size_choice.choose(stacks, labels[rows], native)


def _barless(entries: Sequence[Entry], size: Shape, channels: int, reading: Reading) -> Images:
    """Return pictures in a size, with their bars taken out; see `without_bars`."""
    contents = ((str(entry.path), entry.source.content()) for entry in entries)
    decoded = decoding.decode_all("pictures", contents, size, channels, reading)
    return without_bars(Labelled(decoded.images, np.zeros(len(entries), np.int64), covers=decoded.covers))


def _of_arrays(name: str, section: dict[str, Any], source: ModuleType, store: Path, distance: float) -> Proposal:
    """Propose a section for files that are a dataset already, such as IDX."""
    home = Path(section["path"])
    local: list[Path] = source.local_files(home, section)
    classes: list[str] = source.local_classes(local, section)
    with tempfile.TemporaryDirectory() as temporary:
        pins = [{"name": f"own-{source.plain_name(file.name)}", "bytes": 1, "sha256": "0" * 64} for file in local]
        for pin, file in zip(pins, local, strict=True):
            (Path(temporary) / str(pin["name"])).symlink_to(file.resolve())
        whole = {**section, "files": pins, "classes": classes}
        raw = source.read(Path(temporary), params.parse(f"download.{name}", whole, source.Settings))
    labels = np.concatenate([raw.train.labels, raw.test.labels])
    files = [f"train[{row}]" for row in range(len(raw.train))] + [f"test[{row}]" for row in range(len(raw.test))]
    images = np.concatenate([raw.train.images, raw.test.images])
    learnt = np.arange(len(labels)) < len(raw.train)
    seen = _Seen(files, labels, image_digests(images), images, learnt)
    refusal = _Refusal(store / packing.DAMAGED, home)
    _require_sound(name, classes, seen, refusal, distance, lambda rows: images[list(rows)])
    section["classes"] = classes
    parts = (("train", raw.train.labels), ("test", raw.test.labels))
    counts = {
        label: Counter({split: int((of == number).sum()) for split, of in parts})
        for number, label in enumerate(classes)
    }
    shown = {}
    for number in range(min(len(classes), contact_sheet.CLASSES)):
        for row in np.flatnonzero(raw.train.labels == number)[: contact_sheet.ACROSS].tolist():
            shown[row] = images[row]
    sheet = _sheet(store, classes, counts, labels, shown)
    return Proposal(name, section, counts, images.shape[1:3], sheet=sheet)


def _sheet(
    store: Path, classes: Sequence[str], counts: Mapping[str, Counter[str]], labels: Labels, shown: Mapping[int, Images]
) -> Path:
    """Write the contact sheet, and return its path."""
    rows = []
    for number, label in enumerate(classes):
        images = [image for row, image in shown.items() if labels[row] == number][: contact_sheet.ACROSS]
        if images:
            rows.append((f"{number} = {faults.escaped(label)}: {counts[label].total():,} pictures", np.stack(images)))
    path = store / "contact-sheet.png"
    contact_sheet.save(path, rows)
    return path


@dataclass(frozen=True)
class _Refusal:
    """Where an error lists all files, and the folder that their names leave out."""

    table: Path
    home: Path


def _require_sound(
    name: str,
    classes: Sequence[str],
    seen: _Seen,
    refusal: _Refusal,
    distance: float,
    large: Callable[[Sequence[int]], Images],
) -> None:
    """Check that no picture is in two classes, and that no class is one group.

    Args:
        name: The dataset's name.
        classes: The names of its classes.
        seen: Its pictures.
        refusal: Where its error goes.
        distance: The largest distance of near duplicates.
        large: Returns pictures in the size that is proposed: in a smaller one, more of them are alike.

    Raises:
        DataError: One is.
    """
    both = _in_two_classes(seen)
    if both:
        pairs = "1 picture lies" if len(both) == 1 else f"{len(both):,} pictures lie"
        raise faults.error(
            f"{name}: {pairs} in two classes",
            both,
            expected="every picture in one class",
            next_step="keep each in the class that it is of, and call this again",
            table=refusal.table,
            root=refusal.home,
        )
    alone: dict[str, list[Fault]] = {}
    for label, of in enumerate(classes):
        rows = np.flatnonzero((seen.labels == label) & seen.learnt).tolist()
        small = len(rows) <= _SEARCHED and _one_group(rows, seen, seen.small[rows], distance)
        if small and (len(rows) < 2 or _one_group(rows, seen, large(rows), distance)):
            how = "the only one of its class" if len(rows) < 2 else f"one of {len(rows)} that are near duplicates"
            alone[of] = [Fault(seen.files[row], how) for row in rows]
    if alone:
        which = faults.some([faults.quoted(of) for of in alone])
        raise faults.error(
            f"{name}: all pictures to learn from of the class {which} are one group",
            [fault for of in alone.values() for fault in of],
            expected="pictures that differ in every class, some to learn from and others to test by",
            next_step="add other pictures of the class, or leave it out, and call this again",
            table=refusal.table,
            root=refusal.home,
        )


def _in_two_classes(seen: _Seen) -> list[Fault]:
    first: dict[bytes, int] = {}
    found = []
    for row, digest in enumerate(seen.digests):
        other = first.setdefault(digest, row)
        if seen.labels[other] != seen.labels[row]:
            found.append(Fault(seen.files[other], f"the same picture as {seen.files[row]}"))
    return found


def _one_group(rows: Sequence[int], seen: _Seen, images: Images, distance: float) -> bool:
    if len(rows) < 2:
        return len(rows) == 1
    groups = tuple(seen.groups[row] for row in rows) if seen.groups else ()
    if not groups and any(near_duplicates.alone(images, place, distance) for place in range(min(len(rows), _LOOKS))):
        return False
    near = near_duplicates.search(images, distance)
    return len(np.unique(groups_of(images, near, groups))) == 1
