"""Source format `folder`: your own pictures in one folder per class, optionally below train and test folders.

    pets/cat/1.png  pets/dog/2.jpg …              or pets/train/cat/1.png … and pets/test/cat/9.png …

`collect` finds the pictures in your folder. `pipeline ingest` packs them unchanged into one file, which params.yaml
pins like any other. `read` decodes the pinned file. So params.yaml determines the data of a run.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline.core.errors import DataError
from pipeline.datasets import grouping
from pipeline.datasets.arrays import Images, Labelled, Labels, RawImages, SourceSettings, nfc
from pipeline.datasets.decoding import MOST_BYTES, SUFFIXES, decode_all

_SPLITS = {"train", "test"}
UNSPLIT = "all"
_Side = Annotated[int, pydantic.Field(ge=1, le=1024)]


def _expression(pattern: str) -> str:
    """Check that a pattern is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, pydantic.Field(min_length=1), pydantic.AfterValidator(_expression)]


class Settings(SourceSettings):
    """The dataset's section under ``download``; `pipeline ingest` writes mirrors, files and classes."""

    path: str  # relative to the project's root
    size: tuple[_Side, _Side]  # height, width
    channels: Literal[1, 3]
    test_fraction: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.2  # used without train and test folders
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    group: Pattern | None = None  # on the path: pictures in which it finds the same stay on one side of every split


@dataclass(frozen=True, order=True)
class Entry:
    """One of your own pictures: its split, label, name, path, and group; ``""`` if it has none."""

    split: str
    label: str
    name: str
    path: Path
    group: str = ""


def collect(path: Path) -> list[Entry]:
    """Return the pictures under a folder, sorted by name.

    Raises:
        DataError: The folder does not exist, a class has no pictures, a file is not a picture, or a link leads outside.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", expected="a folder per class", found="none")
    below = visible(path)
    split = {child.name for child in below} == _SPLITS
    roots = {child.name: child for child in below} if split else {UNSPLIT: path}
    entries = []
    for name, root in roots.items():
        folders = visible(root)
        labels = [nfc(folder.name) for folder in folders]
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise DataError(f"{root}: two folders of one class", expected="a folder per class", found=repr(twice))
        for folder, label in zip(folders, labels, strict=True):
            found = [Entry(name, label, picture.name, picture) for picture in pictures(folder, path)]
            if not found:  # otherwise its class would disappear silently
                raise DataError(f"{folder}: a class without pictures", expected=" ".join(SUFFIXES), found="none")
            entries += found
    return sorted(entries)


def pictures(folder: Path, inside: Path) -> Iterator[Path]:
    """Yield the pictures in a class folder.

    Raises:
        DataError: It is not a folder, has a file without a picture's suffix, or has a link that leads out of `inside`.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: a file next to the class folders", expected="a folder per class", found=folder.name)
    home = os.path.realpath(inside)
    for path in visible(folder):
        target = Path(os.path.realpath(path))  # Path.resolve raises on a loop of links
        if not target.is_relative_to(home):
            raise DataError(f"{path} is a link", expected=f"pictures in {inside}", found=target)
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise DataError(
                f"{path} does not have the suffix of a picture", expected=" ".join(SUFFIXES), found=path.name
            )
        yield path


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted by name, without hidden files such as .DS_Store."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def shorter_side(settings: Settings) -> int | None:
    """Return the shorter side of an image in pixels, or an upper limit of it; None if the settings do not say."""
    return min(settings.size)


def read(folder: Path, settings: Settings) -> RawImages:
    """Return the pictures of the pinned file, resized to fit one size; see `decoding.decode`.

    Raises:
        DataError: There is not exactly one packed file, or pictures in it cannot be decoded.
    """
    if len(settings.files) != 1:
        raise DataError("download: files", expected="one file packed by `pipeline ingest`", found=len(settings.files))
    pack = folder / settings.files[0].name
    try:
        with zipfile.ZipFile(pack) as archive:
            names = sorted(name for name in archive.namelist() if name.count("/") >= 2)
            contents = ((name, _content(archive, name)) for name in names)
            images = decode_all(str(pack), contents, settings.size, settings.channels)
            groups = grouping.of_pack(archive, names, settings.group)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{pack} cannot be unpacked", expected="a packed file", found=str(error)) from None
    parts = [[nfc(part) for part in name.split("/", 2)] for name in names]
    classes = {name: index for index, name in enumerate(settings.classes)}
    unknown = sorted({part[1] for part in parts} - set(classes))
    if unknown:
        raise DataError(f"{pack}: a class is not in download's classes", expected=settings.classes, found=unknown[0])
    labels = np.array([classes[part[1]] for part in parts], np.int64)
    if {part[0] for part in parts} != {UNSPLIT}:
        held_out = np.array([part[0] == "test" for part in parts])
    elif groups:
        held_out = grouping.choose_test(images, labels, groups, settings.test_fraction, settings.seed)
    else:
        held_out = choose_test(images, labels, settings.test_fraction, settings.seed)
    grouping.require_apart(str(pack), groups, held_out)
    everything = Labelled(images, labels, tuple(name.removeprefix(f"{UNSPLIT}/") for name in names), groups)
    train, test = everything.take(np.flatnonzero(~held_out)), everything.take(np.flatnonzero(held_out))
    return RawImages(train, test, settings.classes, settings.group)


def choose_test(images: Images, labels: Labels, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the test pictures: a fraction of every class, with the lowest hashes of seed and pixels.

    Adding or removing a picture therefore moves few others to another split, and copies of a picture stay together.
    """
    hashes = np.array([hashlib.sha256(b"%d:" % seed + image.tobytes()).hexdigest() for image in images])
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        of_class = np.unique(hashes[labels == label])
        held_out[(labels == label) & np.isin(hashes, of_class[: round(len(of_class) * fraction)])] = True
    return held_out


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > MOST_BYTES:
        raise DataError(f"{name} is too large", expected=f"at most {MOST_BYTES:,} bytes", found=f"{size:,}")
    return archive.read(name)
