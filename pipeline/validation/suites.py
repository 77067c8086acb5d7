"""The gate: what images must meet before anything learns from them, or before a batch joins them.

A suite in code for each kind of data: an official train and test split, judged against bounds that train sets, and an
incoming batch, judged against the same bounds and against the test images that it must not give away. Grey and colour
images differ in their columns, so in their expectations too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import pydantic

from pipeline.artifacts.validate import Reference
from pipeline.core.errors import ParamsError
from pipeline.core.params import Settings as BaseSettings
from pipeline.datasets.arrays import Labelled
from pipeline.validation import expectations as expect
from pipeline.validation import near_duplicates as neighbours
from pipeline.validation import reference, statistics
from pipeline.validation.duplicate_pairs import NONE, Pairs
from pipeline.validation.expectations import Outcome

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "test")
BATCH = "batch"
_LEAST_CONTRAST = 2.0  # grey levels: an image below it is blank, or of one colour
_FURTHER = 4 / 3  # of the distance: pairs are counted beyond it too, to show what another one would find

Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class NearDuplicates(BaseSettings):
    """When two images count as one, and for which share of a split that is too often.

    ``distance`` is that of `neighbours.search`, by dataset or default.
    """

    distance: dict[str, Annotated[float, pydantic.Field(gt=0, le=1)]]
    warn: Share
    fail: Share

    @pydantic.model_validator(mode="after")
    def _warns_first(self) -> Self:
        if self.warn > self.fail:
            raise ValueError("warn at most fail")
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
        """Return the largest distance of near duplicates: the dataset's own, or the default one."""
        known = self.near_duplicates.distance
        found = known.get(dataset, known.get("default"))
        if found is None:
            expected = f"{dataset} or default"
            raise ParamsError("validate.near_duplicates.distance", expected=expected, found=", ".join(known))
        return found


def near_duplicates(parts: Mapping[str, Labelled], settings: ValidateSettings, dataset: str, since: int = 0) -> Pairs:
    """Return the pairs of images a third further apart than near duplicates may be, all splits in one row.

    Splits of other sizes of images than the first one's have no pairs: ``shape`` finds them.
    """
    import numpy as np

    images = [part.images for part in parts.values()]
    if len({part.shape[1:] for part in images}) > 1:
        return NONE
    return neighbours.search(np.concatenate(images), settings.distance_of(dataset) * _FURTHER, since)


def image_table(parts: Mapping[str, Labelled], near: Pairs = NONE) -> pd.DataFrame:
    """Return one row per image of the named splits; see `table.image_table`.

    Args:
        parts: The splits.
        near: Their near duplicates: `near_duplicates(…).within(settings.distance_of(dataset))`.
    """
    return statistics.image_table(parts, near)


def suites(
    settings: ValidateSettings, scale: Reference, classes: int, splits: tuple[str, ...] = SPLITS
) -> dict[str, list[Any]]:
    """Return the named expectations on the table of images and on the table of classes."""
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
    shift = expect.within("class-shift", "shift", None, settings.max_shift)
    if splits == (BATCH,):  # a batch need not hold every class
        return {"images": images, "classes": [shift]}
    count = expect.within("class-count", "images", settings.min_per_class, None)
    return {
        "images": images,
        "classes": [count, expect.within("class-balance", "imbalance", None, settings.max_imbalance), shift],
    }


def check(
    images: pd.DataFrame,
    settings: ValidateSettings,
    classes: int,
    docs_folder: Path | None,
    splits: tuple[str, ...] = SPLITS,
    scale: Reference | None = None,
) -> list[Outcome]:
    """Return the outcome of every expectation on a table of images; write Data Docs into a folder.

    Args:
        images: See `image_table`.
        settings: What is allowed.
        classes: Labels are 0 up to this.
        docs_folder: Where Data Docs go; None writes none.
        splits: The splits of the table; ``("batch",)`` for a batch.
        scale: What images are like; None learns that from the table's train split.

    Raises:
        DataError: There is no scale and no image of train to learn it from.
    """
    scale = scale or reference.learn(images)
    tables = {"images": images, "classes": statistics.class_table(images, classes, splits, scale)}
    return expect.run(tables, suites(settings, scale, classes, splits), docs_folder)


def check_batch(
    batch: Labelled,
    test: Labelled,
    scale: Reference,
    settings: ValidateSettings,
    dataset: str,
    classes: int,
    docs_folder: Path | None,
) -> list[Outcome]:
    """Return the outcome of every expectation on a batch of labelled images that wants to join train.

    On its own: labels, shape, blank images, repeats. Against train: bounds and levels of the classes. Against test: no
    test image, nor a near duplicate of one, may be learnt from.

    Args:
        batch: What came in.
        test: The official test split.
        scale: The reference in the report that validate wrote.
        settings: Section ``validate`` of params.
        dataset: The dataset that the batch wants to join.
        classes: Labels are 0 up to this.
        docs_folder: Where Data Docs go; None writes none.
    """
    parts = {"test": test, BATCH: batch}
    near = near_duplicates(parts, settings, dataset, since=len(test)).within(settings.distance_of(dataset))
    images = image_table(parts, near)
    return check(images[images["split"] == BATCH], settings, classes, docs_folder, (BATCH,), scale)


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
