"""Suites of expectations on images, for the official splits and for incoming batches.

There is one suite for each kind of data. The official train and test splits are checked against bounds computed from
train. An incoming batch is checked against the same bounds, and against the test images, which it must not contain.
Grey and colour images have different columns and so different expectations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import pydantic

from pipeline.artifacts.validate import Reference
from pipeline.core import params
from pipeline.core.errors import ParamsError
from pipeline.core.params import Settings as BaseSettings
from pipeline.datasets.arrays import Labelled, RawImages
from pipeline.datasets.covers import without_bars
from pipeline.validation import chance, class_conflicts, naming, reference, statistics
from pipeline.validation import expectations as expect
from pipeline.validation import near_duplicates as neighbours
from pipeline.validation.class_conflicts import NO_CONFLICTS, Conflicts
from pipeline.validation.duplicate_pairs import NONE, Pairs
from pipeline.validation.expectations import Outcome

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "test")
_SETTINGS = {  # that decide about expectations, by the beginning of their names
    "class-count": "min_per_class",
    "class-balance": "max_imbalance",
    "class-shift": "max_shift",
    "repeats": "max_duplicates",
    "leaked": "max_leaked",
    "near": "near_duplicates",
}
BATCH = "batch"
_LEAST_CONTRAST = 2.0  # grey levels: an image below it is blank or of a single colour
_MOST_UNUSUAL = 0.5  # of the images of a split (chosen): more, and it is other data
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
    settings: ValidateSettings,
    scale: Reference,
    classes: int,
    sizes: Mapping[str, int],
    *,
    strict: bool = True,
) -> dict[str, list[Any]]:
    """Return the expectations on the table of images and on the table of classes, by table.

    Args:
        settings: Section ``validate`` of params.
        scale: The reference.
        classes: The number of classes.
        sizes: The number of images of each split.
        strict: Whether unusual images, class sizes and imbalance stop the pipeline, or are warnings.
    """
    severity: expect.Severity = "critical" if strict else "warning"
    images = [
        expect.columns(statistics.image_columns(scale.shape[2])),
        expect.among("split", list(sizes)),
        expect.among("label", list(range(classes))),
        expect.among("shape", ["×".join(map(str, scale.shape))]),
        expect.within("contrast", "std", _LEAST_CONTRAST, None, severity=severity),
        expect.matching("sha256", "^[0-9a-f]{64}$", "64 hexadecimal digits"),
    ]
    tests = sum(_tests(scale, split) for split in sizes)
    for split, count in sizes.items():
        images += _of_split(settings, scale, _Limits(split, count, tests), severity)
    images.append(expect.never("two-classes", "two_classes", "no image in two classes"))
    images.append(expect.never("two-classes-near", "near_two_classes", "no look-alikes in two classes", "warning"))
    shift = expect.within("class-shift", "shift", None, settings.max_shift, severity=severity)
    if list(sizes) == [BATCH]:  # a batch need not hold every class
        return {"images": images, "classes": [shift]}
    balance = expect.within("class-balance", "imbalance", None, settings.max_imbalance, severity=severity)
    return {
        "images": images,
        "classes": [
            expect.within("class-missing", "images", 1, None),
            expect.within("class-count", "images", settings.min_per_class, None, severity=severity),
            expect.within("class-groups", "groups", 2, None),  # one to learn from, one for validation
            balance,
            shift,
        ],
    }


def check(
    images: pd.DataFrame,
    settings: ValidateSettings,
    classes: int,
    docs_folder: Path | None,
    splits: tuple[str, ...] = SPLITS,
    scale: Reference | None = None,
    *,
    strict: bool = True,
) -> list[Outcome]:
    """Return the outcome of every expectation on a table of images, and optionally write Data Docs.

    What makes learning impossible, or a score false, stops the pipeline, strict or not; so do unusual images that are
    most of a split.

    Args:
        images: See `image_table`.
        settings: Section ``validate`` of params.
        classes: The number of classes; labels are below it.
        docs_folder: The folder for Data Docs; None writes none.
        splits: The splits of the table; ``("batch",)`` for a batch.
        scale: The reference; None computes it from the train split of the table.
        strict: Whether unusual images, class sizes and imbalance stop the pipeline, or are warnings.

    Raises:
        DataError: There is no reference and no image of train to compute it from.
    """
    scale = scale or reference.learn(images)
    tables = {"images": images, "classes": statistics.class_table(images, classes, splits, scale)}
    sizes = {split: int((images["split"] == split).sum()) for split in splits}
    outcomes = expect.run(tables, suites(settings, scale, classes, sizes, strict=strict), docs_folder)
    return [_stopping(outcome, scale, sizes) for outcome in outcomes]


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
    texts = class_conflicts.texts(parts, known.class_names, conflicts)
    names = naming.Names({"test": known.test, BATCH: batch}, known.class_names)
    return described(named(outcomes, names, naming.pairs(images, of_test)), texts)


def named(
    outcomes: Iterable[Outcome], names: naming.Names, pairs: Mapping[str, list[tuple[int, int, str]]] = {}
) -> list[Outcome]:
    """Return outcomes whose details name images, classes and pairs.

    Args:
        outcomes: The outcomes.
        names: Names of images and classes.
        pairs: By column of the table, both images of each pair; see `naming.pairs`.
    """
    found = []
    for outcome in outcomes:
        both = pairs.get(outcome.column) or ()
        split = outcome.rows[0][0] if outcome.rows else ""
        mine = [pair for pair in both if names.place(pair[1])[0] == split]
        if mine and not outcome.of_classes:
            details = [f"{names.at(one)} and {names.at(other)} ({how})" for one, other, how in mine]
        else:
            details = [(names.of_class if outcome.of_classes else names.image)(*row) for row in outcome.rows]
        ends = tuple((one, other) for one, other, _ in mine)
        found.append(replace(outcome, details=tuple(details), pairs=ends))
    return found


def setting_of(outcome: Outcome) -> str:
    """Return the dotted name of the setting that decides about an expectation; empty if none does."""
    if outcome.name.rpartition("-")[0] in (*reference.JUDGED, "negative"):
        return "validate.max_outliers"
    key = next((key for start, key in _SETTINGS.items() if outcome.name.startswith(start)), "")
    if key == "near_duplicates":
        key += ".warn" if outcome.name.endswith("-some") else ".fail"
    return f"validate.{key}" if key else ""


def with_settings(outcomes: Iterable[Outcome], params_file: Path = params.PARAMS_FILE) -> tuple[Outcome, ...]:
    """Return outcomes with the setting that decides, and its line in the params file, where one is not met."""
    return tuple(
        outcome if outcome.passed else replace(outcome, setting=params.line(setting_of(outcome), params_file))
        for outcome in outcomes
    )


def names_all(expectation: str) -> bool:
    """Return whether the images that miss an expectation, given by its name, are named however few they are."""
    return expectation == "contrast" or expectation.rpartition("-")[0] in (*reference.APART, "negative")


def _stopping(outcome: Outcome, scale: Reference, sizes: Mapping[str, int]) -> Outcome:
    """Return an outcome that stops the pipeline if most images of a split are unusual."""
    of_images = outcome.name == "contrast" or outcome.name.rpartition("-")[0] in (*scale.bounds, "negative")
    images = sizes.get(outcome.name.rpartition("-")[2], sum(sizes.values()))
    if of_images and not outcome.passed and outcome.unexpected_count > _MOST_UNUSUAL * images:
        return replace(outcome, severity="critical")
    return outcome


def described(outcomes: list[Outcome], details: Mapping[str, list[str]]) -> list[Outcome]:
    """Return outcomes with details, which are given by the name of the expectation."""
    return [replace(outcome, details=tuple(details.get(outcome.name) or outcome.details)) for outcome in outcomes]


@dataclass(frozen=True)
class _Limits:
    """Limits of a split, of which many are judged at once."""

    split: str
    images: int
    tests: int

    def of(self, share: float) -> expect.Limit:
        """Return a limit on images that miss a bound by chance now and then, as sound ones do."""
        most = chance.allowed(self.images, share, self.tests)
        return expect.Limit(self.split, self.images, most, share)

    def exactly(self, share: float) -> expect.Limit:
        """Return a limit that makes no allowance for chance."""
        return expect.Limit(self.split, self.images, int(share * self.images), share, by_chance=False)


def _tests(scale: Reference, split: str) -> int:
    """Return the number of limits of a split."""
    return len(scale.bounds) + (3 if split == "train" else 5)


def _of_split(settings: ValidateSettings, scale: Reference, limits: _Limits, severity: expect.Severity) -> list[Any]:
    near, split, outliers = settings.near_duplicates, limits.split, limits.of(settings.max_outliers)
    found = [
        expect.within(f"{name}-{split}", name, *bounds, outliers, severity) for name, bounds in scale.bounds.items()
    ]
    found.append(expect.rarely(f"negative-{split}", "negative", outliers, severity))
    found.append(expect.rarely(f"repeats-{split}", "repeats", limits.of(settings.max_duplicates)))
    flags = {"near": f"near-{split}"}
    if split != "train":
        found.append(expect.rarely(f"leaked-{split}", "leaked", limits.of(settings.max_leaked)))
        flags["near_leaked"] = f"near-leaked-{split}"
    for column, name in flags.items():
        # Batch after batch would bring a few look-alikes of test into train.
        limit = limits.exactly if split == "batch" and column == "near_leaked" else limits.of
        found.append(expect.rarely(name, column, limit(near.fail)))
        found.append(expect.rarely(f"{name}-some", column, limits.of(near.warn), "warning"))
    return found
