"""Accepted batches: immutable files named by their digest, and the manifest that lists them.

A dataset's manifest is a folder that git tracks and `prepare` depends on, with a JSON file for each batch. So two
branches that accept a batch each merge without a conflict, and a batch is removed by removing its file. Each batch
makes a new version of the data, and an older commit of the folder restores the older version. A batch that the manifest
does not list is ignored, so a batch is written to its file first and to the manifest second.

Earlier releases listed all batches in one JSON Lines file; `convert` makes the folder of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydantic

from pipeline.core import pydantic_errors
from pipeline.core.conflicts import conflict
from pipeline.core.errors import DataError
from pipeline.core.files import new_file, new_folder, rewrite_text
from pipeline.core.params import Settings
from pipeline.datasets import covers, grouping
from pipeline.datasets.arrays import ClassName, Labelled, RawImages, Sha256, concatenated, image_digests
from pipeline.datasets.npz import read_npz

PLACEHOLDER = ".gitkeep"  # empty: git tracks no folder without a file, and DVC needs the folder
_REPLACE = "restore it, or remove it and put the batch into incoming again"


class ManifestEntry(Settings):
    """A batch in a manifest: its original name and its contents."""

    digest: Sha256  # of `Labelled`: pixels and labels, independent of the file
    batch: str
    images: int
    classes: tuple[ClassName, ...]  # the names of labels 0, 1, … in the batch
    order: int = 0  # batches join the train split in ascending order, equal ones by their digests


@dataclass(frozen=True)
class Grown:
    """A dataset with its accepted batches (their digests), without images ``held_back`` that belong in test."""

    raw: RawImages
    batches: tuple[str, ...]
    images: int
    held_back: int


def entry_file(manifest: Path, digest: str) -> Path:
    """Return the file of a batch in a manifest."""
    return manifest / f"{digest}.json"


def read_manifest(manifest: Path) -> list[ManifestEntry]:
    """Return the entries of a manifest, in the order in which their batches join the train split.

    A missing manifest has no entries. Only files named ``*.json`` count.

    Raises:
        DataError: A file is not what `append` writes, or a manifest of an earlier release is not converted.
    """
    if (earlier := earlier_file(manifest)).exists() and _listed(earlier):
        raise DataError(
            f"{earlier} is a manifest of an earlier release",
            expected=f"the folder {manifest}",
            next_step="pipeline ingest, which converts it",
        )
    return _entries(manifest)


def _entries(manifest: Path) -> list[ManifestEntry]:
    if not manifest.is_dir():
        return []
    files = sorted(file for file in manifest.glob("*.json") if not file.name.startswith("."))
    return sorted(map(_entry, files), key=lambda entry: (entry.order, entry.digest))


def _entry(file: Path) -> ManifestEntry:
    try:
        text = file.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read", expected="JSON", found=error, next_step=_REPLACE) from None
    if found := conflict(text):
        raise DataError(
            f"{file} is damaged",
            expected="a batch that two branches have accepted to be listed once",
            found=found,
            next_step=f"git checkout --ours {file}, then git add {file}: either side is right",
        )
    entry = _parsed(text, file, _REPLACE)
    if entry.digest != file.stem:
        raise DataError(
            f"{file} is another batch's",
            expected=f"a file named {entry.digest}.json",
            next_step="rename it, or remove it",
        )
    return entry


def _parsed(text: str, file: Path, next_step: str) -> ManifestEntry:
    try:
        return ManifestEntry.model_validate_json(text)
    except pydantic.ValidationError as error:
        found = pydantic_errors.summary(error)
        raise DataError(f"{file} is damaged", expected="a batch as JSON", found=found, next_step=next_step) from None


def append(manifest: Path, entry: ManifestEntry) -> None:
    """Add a batch to a manifest, atomically, behind all others."""
    order = 1 + max((known.order for known in _entries(manifest)), default=0)
    _write(manifest, entry.model_copy(update={"order": order}))


def _write(manifest: Path, entry: ManifestEntry) -> None:
    content = json.dumps(entry.model_dump(), indent=2, ensure_ascii=False) + "\n"
    rewrite_text(entry_file(manifest, entry.digest), content)


def earlier_file(manifest: Path) -> Path:
    """Return where an earlier release kept a manifest: one file of JSON lines beside the folder."""
    return manifest.with_name(f"{manifest.name}.jsonl")


def convert(manifest: Path) -> int | None:
    """Make the folder of a manifest's earlier file, and remove that file.

    A batch that the folder lists already keeps its place. A kill loses nothing: the next call goes on.

    Returns:
        The number of batches in the file; None if there is none.

    Raises:
        DataError: The file is damaged, or git has left a merge conflict in it.
    """
    earlier = earlier_file(manifest)
    if not earlier.exists():
        return None
    entries = _listed(earlier)
    known = {entry.digest for entry in _entries(manifest)}
    for entry in entries:
        if entry.digest not in known:
            append(manifest, entry)
    earlier.unlink()
    return len(entries)


def _listed(earlier: Path) -> list[ManifestEntry]:
    """Return the batches of an earlier release's file, each once, oldest first."""
    try:
        text = earlier.read_bytes().decode()
    except ValueError as error:
        raise DataError(
            f"{earlier} is damaged", expected="JSON lines", found=error, next_step=f"git checkout {earlier}"
        ) from None
    if found := conflict(text):
        raise DataError(
            f"{earlier} is damaged",
            expected="one batch in each line",
            found=found,
            next_step="remove the lines of the conflict's marks, and those of batches that shall not count",
        )
    lines = [line for line in text.split("\n") if line.strip()]  # `str.splitlines` would also split within a name
    entries = [_parsed(line, earlier, f"git checkout {earlier}") for line in lines]
    return list({entry.digest: entry for entry in reversed(entries)}.values())[::-1]


def make(manifest: Path) -> None:
    """Make the folder of a manifest without batches; it appears with its placeholder, or not at all."""
    if manifest.is_dir():
        (manifest / PLACEHOLDER).touch()
        return
    with new_folder(manifest) as folder:
        (folder / PLACEHOLDER).touch()


def store(folder: Path, data: Labelled) -> str:
    """Write images and labels atomically to a read-only file named by their digest, and return the digest."""
    digest = data.digest()
    with new_file(folder / f"{digest}.npz", mode=0o444) as partial, partial.open("xb") as file:
        texts = {"files": data.files, "groups": data.groups}
        further = {name: np.array(values, dtype=str) for name, values in texts.items() if any(values)}
        np.savez(file, allow_pickle=False, images=data.images, labels=data.labels, **further)
    return digest


def load(folder: Path, entry: ManifestEntry, listed: Path, class_names: tuple[str, ...]) -> Labelled:
    """Return an accepted batch, with labels mapped to the current class numbers of the dataset.

    Args:
        folder: The folder of accepted batches.
        entry: The batch.
        listed: Its file in the manifest.
        class_names: The classes of the dataset.

    Raises:
        DataError: The file is missing, does not match the manifest, or has a class that the dataset no longer has.
    """
    path = folder / f"{entry.digest}.npz"
    if not path.exists():
        raise DataError(
            f"{path} is missing, but the manifest lists it (batch {entry.batch})",
            expected=f"{entry.images:,} images",
            found="no file",
            next_step=f"dvc pull {path}.dvc, or remove {listed}",
        )
    data = read_npz(path)
    if (found := data.digest()) != entry.digest:
        raise DataError(
            f"{path} does not match the manifest (batch {entry.batch})",
            expected=f"digest {entry.digest}",
            found=found,
            next_step=f"restore it, or remove it and {listed}, and put the batch into incoming again",
        )
    if len(data) and not 0 <= data.labels.min() <= data.labels.max() < len(entry.classes):
        expected, label = (
            f"below {len(entry.classes)}",
            data.labels[(data.labels < 0) | (data.labels >= len(entry.classes))][0],
        )
        raise DataError(f"{path} has a label without a class in the manifest", expected=expected, found=label)
    removed = sorted({entry.classes[label] for label in np.unique(data.labels)} - set(class_names))
    if removed:
        raise DataError(f"{path} has an unknown class", expected=", ".join(class_names), found=removed[0])
    numbers = [class_names.index(name) if name in class_names else -1 for name in entry.classes]
    files = data.files or tuple(f"{entry.batch}[{index}]" for index in range(len(data)))
    return replace(data, labels=np.array(numbers, np.int64)[data.labels], files=files)


def grow(raw: RawImages, manifest: Path, folder: Path) -> Grown:
    """Return a dataset with every batch of its manifest added to train, in order; test is unchanged.

    Images of a batch that are in test, or whose group is, are left out: your own images may be split again after a
    batch was accepted.

    Raises:
        DataError: A batch is missing, damaged, or has images of another shape; see `load`.
    """
    entries = read_manifest(manifest)
    held_out = set(image_digests(raw.test.images)) if entries else set()
    parts = [raw.train]
    held_back = 0
    for entry in entries:
        data = load(folder, entry, entry_file(manifest, entry.digest), raw.class_names)
        if data.images.shape[1:] != raw.train.images.shape[1:]:
            expected, found = raw.train.images.shape[1:], data.images.shape[1:]
            raise DataError(f"{manifest}: batch {entry.batch} has another shape", expected=expected, found=found)
        kept = np.array([digest not in held_out for digest in image_digests(data.images)])
        kept &= ~grouping.in_test(data.groups, raw.test.groups, len(data))
        held_back += int((~kept).sum())
        data = replace(data, covers=covers.inferred(data.images, raw.train, raw.reading.level))
        parts.append(data.take(np.flatnonzero(kept)))
    if not entries:
        return Grown(raw, (), 0, 0)
    train = concatenated(parts)
    added = len(train) - len(raw.train)
    return Grown(replace(raw, train=train), tuple(entry.digest for entry in entries), added, held_back)
