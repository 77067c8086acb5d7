"""Stage `prepare`: train and validation splits, stratified by class, as memory-mapped arrays; the test split apart.

Batches that were accepted after the dataset was published grow train and validation, never test.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.validate import Report
from pipeline.core import names, params, process
from pipeline.core.errors import DataError
from pipeline.datasets import grouping, manifest
from pipeline.datasets.arrays import (
    Images,
    Labelled,
    Labels,
    RawImages,
    Splits,
    TestSplit,
    image_digests,
    save_splits,
    save_test,
)
from pipeline.datasets.covers import without_bars
from pipeline.datasets.manifest import Grown
from pipeline.datasets.source_format import read_raw
from pipeline.validation import duplicate_pairs
from pipeline.validation import near_duplicates as neighbours
from pipeline.validation.duplicate_pairs import NONE, Indices, Pairs


class PrepareSettings(params.Settings):
    """Section ``prepare`` of params."""

    val_fraction: Annotated[float, pydantic.Field(gt=0, lt=1)]
    seed: Annotated[int, pydantic.Field(ge=0)]


@dataclass(frozen=True)
class Prepared:
    """What models learn from and are chosen by, and what they are scored on."""

    splits: Splits
    test: TestSplit


def run(raw: RawImages, settings: PrepareSettings, near: Pairs = NONE) -> Prepared:
    """Split the official train split in two, images in their official order; pass the test split on as it is.

    Args:
        raw: What the publisher split.
        settings: How to split.
        near: Near duplicates within train; they stay on one side.

    Raises:
        DataError: A class has too few images for both sides.
    """
    group = groups_of(raw.train.images, near, raw.train.groups)
    if raw.validation is None:
        choose = choose_groups if any(raw.train.groups) else choose_val
        in_val = choose(group, raw.train.labels, settings.val_fraction, settings.seed)
    else:
        in_val = keep_val(group, raw.validation)
    require_disjoint(raw.train, in_val, near)
    grouping.require_apart("prepare: validation", raw.train.groups, in_val)
    learnt = Labelled(raw.train.images, raw.train.labels, groups=raw.train.groups)
    train, val = learnt.take(np.flatnonzero(~in_val)), learnt.take(np.flatnonzero(in_val))
    for label, name in enumerate(raw.class_names):
        sides = {"train": int((train.labels == label).sum()), "validation": int((val.labels == label).sum())}
        if 0 in sides.values():
            groups = len(np.unique(group[raw.train.labels == label]))
            few = "add images that are no near duplicates of them, and of other groups"
            raise DataError(
                f"prepare: class {name} cannot be split",
                expected="an image on both sides",
                found=f"{sides['train']} in train, {sides['validation']} in validation, in groups: {groups}",
                next_step=few if groups < 2 else _larger_fraction(groups),
            )
    test = Labelled(raw.test.images, raw.test.labels)
    digest = hashlib.sha256((train.digest() + val.digest()).encode()).hexdigest()
    return Prepared(
        Splits(train, val, raw.class_names, digest),
        TestSplit(test, raw.class_names, test.digest()),
    )


def _larger_fraction(groups: int) -> str:
    """Return how to get one of so many groups into validation: the fraction of them is rounded."""
    return f"set prepare.val_fraction to {math.ceil(51 / groups) / 100:g} or more, or add images"


def groups_of(images: Images, near: Pairs, groups: tuple[str, ...] = ()) -> Indices:
    """Return for each image the first one that a chain of copies, near duplicates and members of a group leads to."""
    digests = b"".join(image_digests(images))  # to sort the pixels would copy them twice
    _, first, same_as = np.unique(np.frombuffer(digests, "V32"), return_index=True, return_inverse=True)
    equal = first[same_as]
    everyone = np.arange(len(images))
    again = np.flatnonzero(equal != everyone)
    member, first_member = grouping.links(groups)
    ends = (again, near.first, member), (equal[again], near.second, first_member)
    return duplicate_pairs.groups(np.concatenate(ends[0]), np.concatenate(ends[1]), len(images))


def choose_val(group: Indices, labels: Labels, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which images are for validation: a fraction of every class, to the nearest whole image.

    A group stays on one side: validation must not contain what was learnt by heart. It is drawn as one, under the
    label of its first image, so a class with many copies is met less exactly.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    originals = np.flatnonzero(group == np.arange(len(group)))
    for label in np.unique(labels):
        inside = originals[labels[originals] == label]
        shuffled = np.random.default_rng([seed, int(label)]).permutation(inside)
        chosen[shuffled[: round(len(inside) * fraction)]] = True
    in_val: npt.NDArray[np.bool_] = chosen[group]
    return in_val


def choose_groups(group: Indices, labels: Labels, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which images are for validation where groups hold images of several classes; see `grouping.choose`."""
    order = np.random.default_rng([seed]).permutation(np.unique(group))
    return grouping.choose(group, labels, fraction, order.tolist(), leave=1)


def keep_val(group: Indices, validation: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which images are for validation where the publisher set some apart; images of batches are not.

    Groups with an image in train are for training: validation must not contain what was learnt by heart.
    """
    in_val = np.zeros(len(group), dtype=bool)
    in_val[: len(validation)] = validation
    in_val &= ~np.isin(group, group[~in_val])
    return in_val


def require_disjoint(train: Labelled, in_val: npt.NDArray[np.bool_], near: Pairs) -> None:
    """Make sure of what a score on validation rests on: no image, nor a near duplicate of one, is on both sides.

    Raises:
        DataError: One is.
    """
    apart = np.flatnonzero(in_val[near.first] != in_val[near.second])
    sides = [{image.tobytes() for image in train.images[side]} for side in (~in_val, in_val)]
    if len(apart) or sides[0] & sides[1]:
        raise DataError(
            "prepare: train and validation are not disjoint",
            expected="no image, nor a near duplicate of one, on both sides",
            found=f"{len(sides[0] & sides[1]):,} images and {len(apart):,} near duplicates on both",
            next_step="report a bug",
        )


def require_validated(path: Path, raw: RawImages) -> Report:
    """Return the report of the gate; refuse data that did not pass it, or that has changed since.

    Raises:
        DataError: The report is missing, damaged, without "passed", or about other data.
    """
    report = artifacts.read_json(path, Report, "validate")
    if not report.passed:
        raise DataError(
            f"{path}: the gate did not pass this data",
            expected="passed: true",
            found="passed: false",
            next_step="dvc repro validate",
        )
    for split, data in (("train", raw.train), ("test", raw.test)):
        validated = report.digest.get(split)
        if validated != (found := data.digest()):
            raise DataError(
                f"{path}: {split} is not the data that was validated",
                expected=f"digest {validated}",
                found=found,
                next_step="dvc repro validate",
            )
    return report


def near_duplicates(path: Path, grown: Grown, distance: float) -> Pairs:
    """Return the pairs within train: those that validate found, and those of which an image came in a batch.

    Args:
        path: The file that validate has written about the train split as published.
        grown: The dataset with its accepted batches.
        distance: The distance up to which validate calls two images near.
    """
    published = len(grown.raw.train) - grown.images
    near = duplicate_pairs.load(path, "train", published)
    if not grown.images:
        return near
    return duplicate_pairs.joined(near, neighbours.search(without_bars(grown.raw.train), distance, since=published))


def main() -> None:
    """Run the stage as dvc.yaml calls it."""
    parser = argparse.ArgumentParser(prog="pipeline.stages.prepare", description=run.__doc__)
    parser.add_argument("--dataset", required=True, type=names.dataset)
    parser.add_argument("--raw", required=True, type=Path)
    parser.add_argument("--validated", required=True, type=Path)
    parser.add_argument("--near-duplicates", required=True, type=Path)
    parser.add_argument("--manifest", required=True, type=Path)
    parser.add_argument("--accepted", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--test", required=True, type=Path)
    args = parser.parse_args()
    settings = params.load("prepare", PrepareSettings)
    raw = read_raw(args.dataset, args.raw)
    report = require_validated(args.validated, raw)
    grown = manifest.grow(raw, args.manifest, args.accepted)
    near = near_duplicates(args.near_duplicates, grown, report.near_duplicates.threshold)
    result = run(grown.raw, settings, near)
    save_splits(args.output, dataclasses.replace(result.splits, batches=grown.batches))
    save_test(args.test, result.test)
    train, val, test = len(result.splits.train), len(result.splits.val), len(result.test.test)
    print(f"{args.dataset}: {train:,} images to train, {val:,} to validate, {test:,} to test")
    if grown.batches:
        held_back = (
            f", {grown.held_back:,} more held back: they, or their groups, are in test" if grown.held_back else ""
        )
        print(f"{args.dataset}: {grown.images:,} of them from {len(grown.batches):,} accepted batches{held_back}")


if __name__ == "__main__":
    process.stage(main)
