"""Source format `folder`: your own pictures in one folder per class, optionally below folders of splits.

    pets/cat/1.png  pets/dog/2.jpg …              or pets/train/cat/1.png … and pets/test/cat/9.png …

`find` finds the pictures in your folder, or in a zip archive of it. `pipeline ingest` packs them unchanged into one
file, which params.yaml pins like any other. `read` decodes that file. So params.yaml determines the data of a run.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline.core.errors import DataError
from pipeline.datasets import faults, grouping, own_files
from pipeline.datasets.arrays import (
    PLAIN,
    Background,
    Fit,
    Images,
    Labelled,
    Labels,
    RawImages,
    Reading,
    SourceSettings,
    nfc,
)
from pipeline.datasets.decoding import MOST_BYTES, SUFFIXES, decode_all, size_of
from pipeline.datasets.faults import Fault
from pipeline.datasets.own_files import Found, OwnFile, OwnFolder

UNSPLIT = "all"
SPLITS = {  # by the names of folders, and of splits in a table, in small letters
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
_AROUND = 8  # folders, each the only one in the one before, that may be around everything
_INGEST = "fix or remove them, or set skip_damaged: true in the dataset's section, and call `pipeline ingest`"
_Side = Annotated[int, pydantic.Field(ge=1, le=1024)]


def _expression(pattern: str) -> str:
    """Check that a pattern is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, pydantic.Field(min_length=1), pydantic.AfterValidator(_expression)]


class OwnSettings(SourceSettings):
    """What the sections of all formats of your own pictures have."""

    path: str  # relative to the project's root
    test_fraction: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.2  # used where there is no test split
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    validation: Literal["join", "keep"] = "join"  # whether a split `val` joins train, or is what models are chosen by
    skip_damaged: bool = False  # whether files that cannot be read are left out

    @property
    def reading(self) -> Reading:
        """How pictures become arrays."""
        return PLAIN


class Settings(OwnSettings):
    """The dataset's section under ``download``; `pipeline ingest` writes mirrors, files and classes."""

    size: tuple[_Side, _Side]  # height, width
    channels: Literal[1, 3]
    group: Pattern | None = None  # on the path: pictures in which it finds the same stay on one side of every split
    depth: Annotated[int, pydantic.Field(ge=8, le=16)] | None = None  # bits of the values in 16-bit files
    background: Background | None = None  # behind transparent pixels; none: black, where dark ink is not lost on it
    fit: Fit = "pad"  # what happens to pictures of another shape

    @property
    def reading(self) -> Reading:
        """How pictures become arrays."""
        return Reading(self.depth, self.background, self.fit)


class Source(Protocol):
    """Where the bytes of a picture are."""

    def content(self) -> bytes:
        """Return the bytes."""


@dataclass(frozen=True, order=True)
class Entry:
    """One of your own pictures.

    Attributes:
        split: Its split.
        label: Its class.
        name: Its name among those of its class.
        path: Its path for messages.
        source: Where its bytes are.
        group: Its group; ``""`` if it has none.
    """

    split: str
    label: str
    name: str
    path: Path
    source: Source = field(compare=False)
    group: str = ""


@dataclass
class Collection:
    """Your own pictures, sorted, and what was found beside them."""

    entries: list[Entry]
    found: Found


def collect(path: Path) -> list[Entry]:
    """Return the pictures under a folder, sorted by name.

    Raises:
        DataError: As `find` does, or what lies beside them cannot be used.
    """
    collection = find(path)
    collection.found.require(str(path), len(collection.entries), path)
    return collection.entries


def find(path: Path, section: Mapping[str, Any] | None = None) -> Collection:
    """Return the pictures under a folder or in a zip archive, and what lies beside them.

    Args:
        path: The folder or archive. One folder around everything is passed through.
        section: The dataset's section of params, which other formats need.

    Raises:
        DataError: The folder does not exist, or it is not certain what its folders mean.
    """
    home, found = own_files.opened(path), Found()
    entries = [
        Entry(split, label, file.name, file.path, file)
        for split, folders in _splits(home, found).items()
        for label, files in in_classes(folders, home, found)
        for file in files
    ]
    return Collection(sorted(entries), found)


def in_classes(folders: Sequence[OwnFolder], home: OwnFolder, found: Found) -> list[tuple[str, list[OwnFile]]]:
    """Return the label and the pictures of each class folder.

    Raises:
        DataError: Two folders are of one class.
    """
    names: dict[str, str] = {}
    for folder in folders:
        other = names.setdefault(same_class(folder.name), folder.name)
        if other != folder.name:
            where = folder.path.parent
            raise DataError(
                f"{where}: two folders of one class", expected="a folder per class", found=differ(other, folder.name)
            )
    classes = []
    for folder in folders:
        below, inside = own_files.listing(folder, home, found)
        found.faults += [Fault(str(one.path), "does not have the suffix of a picture: a folder") for one in below]
        used = own_files.pictures(inside, found)
        if not used:  # otherwise its class would disappear silently
            others = f", with {len(inside):,} other files" if inside else ""
            found.empty.append(Fault(str(folder.path), f"a class without pictures{others}"))
        classes.append((nfc(folder.name), used))
    return classes


def same_class(name: str) -> str:
    """Return what is the same for names of one class: without stray blanks, and in one form of Unicode."""
    return " ".join(nfc(name).replace("\u200b", " ").replace("\ufeff", " ").split())


def differ(one: str, other: str) -> str:
    """Return how two names of one class differ."""
    how = "by a blank" if nfc(one) != nfc(other) else "in their Unicode form"
    return f"{faults.quoted(one)} and {faults.quoted(other)} differ {how}"


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels, or an upper limit of it; None if the settings do not say."""
    return min(settings.size)


def read(folder: Path, settings: Settings) -> RawImages:
    """Return the pictures of the pinned file, resized to fit one size; see `decoding.decode`.

    Raises:
        DataError: There is not exactly one packed file, or its pictures cannot be decoded with these settings.
    """
    return read_pack(folder, settings, settings.size, settings.channels)


def read_pack(folder: Path, settings: OwnSettings, size: tuple[int, int] | None, channels: int) -> RawImages:
    """Return the pictures of the pinned file in a size; None takes the size of the first. See `read`."""
    if len(settings.files) != 1:
        raise DataError("download: files", expected="one file packed by `pipeline ingest`", found=len(settings.files))
    pack = folder / settings.files[0].name
    try:
        with zipfile.ZipFile(pack) as archive:
            names = sorted(name for name in archive.namelist() if name.count("/") >= 2)
            contents = ((name, _content(archive, name)) for name in names)
            frame = size or size_of(_content(archive, names[0]))
            decoded = decode_all(str(pack), contents, frame, channels, settings.reading, next_step=_INGEST)
            pattern = getattr(settings, "group", None)
            groups = grouping.of_pack(archive, names, pattern)
    except (OSError, zipfile.BadZipFile, IndexError) as error:
        raise DataError(f"{pack} cannot be unpacked", expected="a packed file", found=str(error)) from None
    parts = [[nfc(part) for part in name.split("/", 2)] for name in names]
    classes = {name: index for index, name in enumerate(settings.classes)}
    unknown = sorted({part[1] for part in parts} - set(classes))
    if unknown:
        raise DataError(f"{pack}: a class is not in download's classes", expected=settings.classes, found=unknown[0])
    labels = np.array([classes[part[1]] for part in parts], np.int64)
    splits = np.array([part[0] for part in parts])
    held_out, in_val = splits == "test", (splits == "val") & (settings.validation == "keep")
    if not held_out.any():
        rest = np.flatnonzero(~in_val)
        images, of_rest, fraction = (
            decoded.images[rest],
            tuple(groups[at] for at in rest if groups),
            settings.test_fraction,
        )
        if groups:
            held_out[rest] = grouping.choose_test(images, labels[rest], of_rest, fraction, settings.seed)
        else:
            held_out[rest] = choose_test(images, labels[rest], fraction, settings.seed)
    grouping.require_apart(str(pack), groups, held_out)
    files = tuple(name.removeprefix(f"{UNSPLIT}/") for name in names)
    everything = Labelled(decoded.images, labels, files, groups, decoded.covers)
    train, test = everything.take(np.flatnonzero(~held_out)), everything.take(np.flatnonzero(held_out))
    in_val = in_val[~held_out]
    kept = in_val if in_val.any() else None
    return RawImages(train, test, settings.classes, pattern, kept, settings.reading)


def choose_test(images: Images, labels: Labels, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the test pictures: a fraction of every class, with the lowest hashes of seed and pixels.

    Adding or removing a picture therefore moves few others to another split, and copies of a picture stay together.
    """
    return lowest(np.array([split_hash(image, seed) for image in images]), labels, fraction)


def split_hash(image: Images, seed: int) -> str:
    """Return the hash of a picture by which `choose_test` chooses."""
    return hashlib.sha256(b"%d:" % seed + image.tobytes()).hexdigest()


def lowest(hashes: npt.NDArray[np.str_], labels: Labels, fraction: float) -> npt.NDArray[np.bool_]:
    """Return a mask of the pictures with the lowest hashes: a fraction of every class."""
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        of_class = np.unique(hashes[labels == label])
        held_out[(labels == label) & np.isin(hashes, of_class[: round(len(of_class) * fraction)])] = True
    return held_out


def _splits(home: OwnFolder, found: Found) -> dict[str, list[OwnFolder]]:
    """Return the class folders by split: below folders such as train and test, or all together."""
    root = home
    for _ in range(_AROUND):
        folders, files = own_files.listing(root, home, found)
        inner = own_files.listing(folders[0], home, Found()) if len(folders) == 1 and not _pictures(files) else None
        if inner is None or not inner[0] or _pictures(inner[1]):
            break
        found.faults += [Fault(str(file.path), "a file next to the folder around everything") for file in files]
        root = folders[0]
    named = [(SPLITS.get(folder.name.casefold()), folder) for folder in folders]
    known = [split for split, _ in named if split]
    if "train" not in known or len(known) < 2 or not (len(known) == len(named) or _have_classes(named, home)):
        found.faults += [Fault(str(file.path), "a file next to the class folders") for file in files]
        return {UNSPLIT: folders}
    if len(set(known)) < len(known):
        names = [folder.name for split, folder in named if known.count(str(split)) > 1]
        raise DataError(f"{root.path}: two folders of one split", expected="one each", found=" and ".join(names))
    found.faults += [Fault(str(file.path), "a file next to the folders of the splits") for file in files]
    splits = {}
    for split, folder in named:
        if split is None:
            found.faults.append(Fault(str(folder.path), "is neither train nor val nor test"))
            continue
        splits[split], beside = own_files.listing(folder, home, found)
        found.faults += [Fault(str(file.path), "a file next to the class folders") for file in beside]
    return splits


def _have_classes(named: Sequence[tuple[str | None, OwnFolder]], home: OwnFolder) -> bool:
    """Return whether there are folders in each folder that is named like a split."""
    return all(own_files.listing(folder, home, Found())[0] for split, folder in named if split)


def _pictures(files: Sequence[OwnFile]) -> bool:
    return any(file.suffix in SUFFIXES for file in files)


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > MOST_BYTES:
        raise DataError(f"{name} is too large", expected=f"at most {MOST_BYTES:,} bytes", found=f"{size:,}")
    return archive.read(name)
