"""Accepted batches: immutable files named by their digest, and the manifest that lists them.

A dataset's manifest is a JSON Lines file that git tracks and `prepare` depends on. Each additional batch makes a new
version of the data, and an older commit of the manifest restores the older version. A file that the manifest does not
list is ignored, so a batch is written to its file first and to the manifest second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.core.files import new_file, rewrite_text
from pipeline.core.params import Settings
from pipeline.datasets.arrays import ClassName, Images, Labelled, Labels, RawImages, Sha256, image_digests
from pipeline.datasets.npz import read_npz


class ManifestEntry(Settings):
    """A line of a manifest: the original name of a batch and its contents."""

    digest: Sha256  # of `Labelled`: pixels and labels, independent of the file
    batch: str
    images: int
    classes: tuple[ClassName, ...]  # the names of labels 0, 1, … in the batch


@dataclass(frozen=True)
class Grown:
    """A dataset with its accepted batches (their digests), without the ``held_back`` images that are in test."""

    raw: RawImages
    batches: tuple[str, ...]
    images: int
    held_back: int


def read_manifest(path: Path) -> list[ManifestEntry]:
    """Return the entries of a manifest, oldest first.

    A missing manifest has no entries, and a batch that is listed twice counts once.

    Raises:
        DataError: A line does not have the format that `append` writes.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    try:  # lines end with \n alone: a name may hold what `str.splitlines` also takes for an end
        lines = [ManifestEntry.model_validate_json(line) for line in content.decode().split("\n") if line.strip()]
    except ValueError as error:
        raise DataError(
            f"{path} is damaged", expected="JSON lines", found=str(error), next_step=f"git checkout {path}"
        ) from None
    return list({line.digest: line for line in reversed(lines)}.values())[::-1]


def append(path: Path, line: ManifestEntry) -> None:
    """Append an entry to a manifest, atomically."""
    lines = [*read_manifest(path), line]
    rewrite_text(path, "".join(json.dumps(each.model_dump(), ensure_ascii=False) + "\n" for each in lines))


def store(folder: Path, data: Labelled) -> str:
    """Write images and labels atomically to a read-only file named by their digest, and return the digest."""
    digest = data.digest()
    with new_file(folder / f"{digest}.npz", mode=0o444) as partial, partial.open("xb") as file:
        np.savez(file, images=data.images, labels=data.labels)
    return digest


def load(folder: Path, line: ManifestEntry, class_names: tuple[str, ...]) -> Labelled:
    """Return an accepted batch, with labels mapped to the current class numbers of the dataset.

    Raises:
        DataError: The file is missing, does not match the manifest, or has a class that the dataset no longer has.
    """
    path = folder / f"{line.digest}.npz"
    if not path.exists():
        raise DataError(
            f"{path} is missing, but the manifest lists it (batch {line.batch})",
            expected=f"{line.images:,} images",
            found="no file",
            next_step=f"dvc pull {path}.dvc, or remove its line from the manifest",
        )
    data = read_npz(path)
    if (found := data.digest()) != line.digest:
        raise DataError(
            f"{path} does not match the manifest (batch {line.batch})",
            expected=f"digest {line.digest}",
            found=found,
            next_step="restore it, or remove its line from the manifest and put the batch into incoming again",
        )
    if len(data) and not 0 <= data.labels.min() <= data.labels.max() < len(line.classes):
        expected, label = (
            f"below {len(line.classes)}",
            data.labels[(data.labels < 0) | (data.labels >= len(line.classes))][0],
        )
        raise DataError(f"{path} has a label without a class in the manifest", expected=expected, found=label)
    removed = sorted({line.classes[label] for label in np.unique(data.labels)} - set(class_names))
    if removed:
        raise DataError(f"{path} has an unknown class", expected=", ".join(class_names), found=removed[0])
    numbers = [class_names.index(name) if name in class_names else -1 for name in line.classes]
    return Labelled(data.images, np.array(numbers, np.int64)[data.labels])


def grow(raw: RawImages, manifest: Path, folder: Path) -> Grown:
    """Return a dataset with every batch of its manifest added to train, in order; test is unchanged.

    Images of a batch that are in test are left out: your own images may be split again after a batch was accepted.

    Raises:
        DataError: A batch is missing, damaged, or has images of another shape; see `load`.
    """
    lines = read_manifest(manifest)
    held_out = set(image_digests(raw.test.images)) if lines else set()
    images: list[Images] = [raw.train.images]
    labels: list[Labels] = [raw.train.labels]
    held_back = 0
    for line in lines:
        data = load(folder, line, raw.class_names)
        if data.images.shape[1:] != raw.train.images.shape[1:]:
            expected, found = raw.train.images.shape[1:], data.images.shape[1:]
            raise DataError(f"{manifest}: batch {line.batch} has another shape", expected=expected, found=found)
        kept = np.array([digest not in held_out for digest in image_digests(data.images)])
        held_back += int((~kept).sum())
        images.append(data.images[kept])
        labels.append(data.labels[kept])
    if not lines:
        return Grown(raw, (), 0, 0)
    train = Labelled(np.concatenate(images), np.concatenate(labels))
    added = len(train) - len(raw.train)
    return Grown(RawImages(train, raw.test, raw.class_names), tuple(line.digest for line in lines), added, held_back)
