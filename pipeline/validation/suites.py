"""Suites of expectations on images, for the official splits and for incoming batches.

There is one suite for each kind of data. The official train and test splits are checked against bounds computed from
train. An incoming batch is checked against the same bounds, and against the test images, which it must not contain.
Grey and colour images have different columns and so different expectations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import pydantic

from pipeline.artifacts.validate import Reference
from pipeline.core.errors import ParamsError
from pipeline.core.params import Settings as BaseSettings
from pipeline.datasets.arrays import Labelled, RawImages
from pipeline.datasets.covers import without_bars
from pipeline.validation import class_conflicts, reference, statistics
from pipeline.validation import expectations as expect
from pipeline.validation import near_duplicates as neighbours
from pipeline.validation.class_conflicts import NO_CONFLICTS, Conflicts
from pipeline.validation.duplicate_pairs import NONE, Pairs
from pipeline.validation.expectations import Outcome

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "test")
BATCH = "batch"
_LEAST_CONTRAST = 2.0  # grey levels: an image below it is blank or of a single colour
_FURTHER = 4 / 3  # of the distance: pairs beyond it are found too, to show the effect of a larger one

Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class NearDuplicates(BaseSettings):
    """Section ``validate.near_duplicates`` of params: the distance and the shares to warn and fail at.

    ``distance`` is that of `near_duplicates.search`, by dataset or ``default``.
    """

    distance: dict[str, Annotated[float, pydantic.Field(gt=0, le=1)]]
    warn: Share
    fail: Share

    @pydantic.model_validator(mode="after")
    def _warns_first(self) -> Self:
        if self.warn > self.fail:
            raise ValueError("warn must not exceed fail")
        return self


class ValidateSettings(BaseSettings):
    """Section ``validate`` of params."""

    max_imbalance: Annotated[float, pydantic.Field(ge=1)]
    max_duplicates: Share
    max_leaked: Share
    min_per_class: Annotated[int, pydantic.Field(ge=1)]
    max_outliers: Share
    max_shift: Annotated[float, pydantic.Field(gt=0)]
    near_duplicates: NearDuplicates

    def distance_of(self, dataset: str) -> float:
        """Return the largest distance of near duplicates for a dataset, or the default."""
        known = self.near_duplicates.distance
        found = known.get(dataset, known.get("default"))
        if found is None:
            expected = f"{dataset} or default"
            raise ParamsError("validate.near_duplicates.distance", expected=expected, found=", ".join(known))
        return found


def near_duplicates(parts: Mapping[str, Labelled], settings: ValidateSettings, dataset: str, since: int = 0) -> Pairs:
    """Return the pairs of images up to 4/3 of the near-duplicate distance, in all splits concatenated.

    If splits differ in image shape there are no pairs; the expectation ``shape`` reports that.
    """
    import numpy as np

    images = [without_bars(part) for part in parts.values()]
    if len({part.shape[1:] for part in images}) > 1:
        return NONE
    return neighbours.search(np.concatenate(images), settings.distance_of(dataset) * _FURTHER, since)


def image_table(parts: Mapping[str, Labelled], near: Pairs = NONE, conflicts: Conflicts = NO_CONFLICTS) -> pd.DataFrame:
    """Return one row per image of the splits; see `statistics.image_table`.

    Args:
        parts: The splits.
        near: Their near duplicates: `near_duplicates(…).within(settings.distance_of(dataset))`.
        conflicts: Their images with two labels; see `class_conflicts.find`.
    """
    return statistics.image_table(parts, near, conflicts=conflicts)


def suites(
    settings: ValidateSettings, scale: Reference, classes: int, splits: tuple[str, ...] = SPLITS
) -> dict[str, list[Any]]:
    """Return the expectations on the table of images and on the table of classes, by table."""
    shape = "×".join(map(str, scale.shape))
    images = [
        expect.columns(statistics.image_columns(scale.shape[2])),
        expect.among("split", list(splits)),
        expect.among("label", list(range(classes))),
        expect.among("shape", [shape]),
        expect.within("contrast", "std", _LEAST_CONTRAST, None),
        expect.matching("sha256", "^[0-9a-f]{64}$", "64 hexadecimal digits"),
    ]
    for split in splits:
        images += _of_split(settings, scale, split)
    images.append(expect.never("two-classes", "two_classes", "no image in two classes"))
    images.append(expect.never("two-classes-near", "near_two_classes", "no look-alikes in two classes", "warning"))
    shift = expect.within("class-shift", "shift", None, settings.max_shift)
    if splits == (BATCH,):  # a batch need not hold every class
        return {"images": images, "classes": [shift]}
    count = expect.within("class-count", "images", settings.min_per_class, None)
    groups = expect.within("class-groups", "groups", 2, None)  # one to learn from, one for validation
    return {
        "images": images,
        "classes": [count, groups, expect.within("class-balance", "imbalance", None, settings.max_imbalance), shift],
    }


def check(
    images: pd.DataFrame,
    settings: ValidateSettings,
    classes: int,
    docs_folder: Path | None,
    splits: tuple[str, ...] = SPLITS,
    scale: Reference | None = None,
) -> list[Outcome]:
    """Return the outcome of every expectation on a table of images, and optionally write Data Docs.

    Args:
        images: See `image_table`.
        settings: Section ``validate`` of params.
        classes: The number of classes; labels are below it.
        docs_folder: The folder for Data Docs; None writes none.
        splits: The splits of the table; ``("batch",)`` for a batch.
        scale: The reference; None computes it from the train split of the table.

    Raises:
        DataError: There is no reference and no image of train to compute it from.
    """
    scale = scale or reference.learn(images)
    tables = {"images": images, "classes": statistics.class_table(images, classes, splits, scale)}
    return expect.run(tables, suites(settings, scale, classes, splits), docs_folder)


def check_batch(
    batch: Labelled,
    known: RawImages,
    scale: Reference,
    settings: ValidateSettings,
    dataset: str,
    docs_folder: Path | None,
) -> list[Outcome]:
    """Return the outcome of every expectation on an incoming batch of labelled images.

    On its own: labels, shape, blank images, repeats. Against train: bounds and levels of the classes. Against test: no
    test image or near duplicate of one may get into train. Against both: no image may get another label.

    Args:
        batch: The incoming images.
        known: The dataset, with the batches accepted before in train.
        scale: The reference in the report of `validate`.
        settings: Section ``validate`` of params.
        dataset: The name of the dataset to add the batch to.
        docs_folder: The folder for Data Docs; None writes none.
    """
    parts = {"train": known.train, "test": known.test, BATCH: batch}
    distance, before = settings.distance_of(dataset), len(known.train)
    since = before + len(known.test)
    near = near_duplicates(parts, settings, dataset, since).within(distance)
    conflicts = class_conflicts.find(parts, near, distance, since)
    with_test = near.second >= before
    of_test = Pairs(near.first[with_test] - before, near.second[with_test] - before, near.distance[with_test])
    images = image_table({"test": known.test, BATCH: batch}, of_test, conflicts.later_by(before))
    outcomes = check(images[images["split"] == BATCH], settings, len(known.class_names), docs_folder, (BATCH,), scale)
    return described(outcomes, class_conflicts.texts(parts, known.class_names, conflicts))


def described(outcomes: list[Outcome], details: Mapping[str, list[str]]) -> list[Outcome]:
    """Return outcomes with details, which are given by the name of the expectation."""
    return [replace(outcome, details=tuple(details.get(outcome.name, ()))) for outcome in outcomes]


def _of_split(settings: ValidateSettings, scale: Reference, split: str) -> list[Any]:
    near, outliers = settings.near_duplicates, (split, settings.max_outliers)
    found = [expect.within(f"{name}-{split}", name, *bounds, outliers) for name, bounds in scale.bounds.items()]
    found.append(expect.rarely(f"repeats-{split}", "repeats", split, settings.max_duplicates))
    flags = {"near": f"near-{split}"}
    if split != "train":
        found.append(expect.rarely(f"leaked-{split}", "leaked", split, settings.max_leaked))
        flags["near_leaked"] = f"near-leaked-{split}"
    for column, name in flags.items():
        found.append(expect.rarely(name, column, split, near.fail))
        found.append(expect.rarely(f"{name}-some", column, split, near.warn, "warning"))
    return found
