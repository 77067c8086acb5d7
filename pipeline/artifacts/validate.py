"""Artifacts of the stage validate: its report, with the reference for the comparison of incoming batches."""

from __future__ import annotations

from typing import Any

import pydantic

from pipeline.artifacts.base import Artifact, Number


class Levels(pydantic.BaseModel):
    """Mean and standard deviation of each channel's level, over the images of a class."""

    model_config = pydantic.ConfigDict(frozen=True)

    images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Reference(pydantic.BaseModel):
    """Statistics of the official train split; see `pipeline.validation.reference`."""

    model_config = pydantic.ConfigDict(frozen=True)

    shape: tuple[int, int, int]
    bounds: dict[str, tuple[float, float]]
    levels: dict[int, Levels]


class NearDuplicates(Artifact):
    """Near duplicates: the distance threshold, pairs by distance and split, and the nearest pairs as text."""

    threshold: float
    counts: dict[str, dict[str, int]]
    pairs: tuple[str, ...]


class Report(Artifact):
    """The validation report, `reports/validate/<dataset>.json`; it exists only for data that passed.

    Attributes:
        images: Number of images by split; `imbalance`, `duplicates` and `digest` are by split, too.
        classes: Number of images by split and class.
        imbalance: Size of the largest class divided by that of the smallest.
        leaked: Number of test images that occur in train.
        expectations: Observed values by the name of the expectation.
    """

    dataset: str
    passed: pydantic.StrictBool
    warnings: tuple[str, ...]
    images: dict[str, int]
    classes: dict[str, dict[str, int]]
    imbalance: dict[str, float]
    duplicates: dict[str, int]
    leaked: int
    near_duplicates: NearDuplicates
    digest: dict[str, str]
    expectations: dict[str, dict[str, Number]]
    reference: Reference

    def content(self) -> dict[str, Any]:
        """Return the file's content as plain values; the reference in JSON form."""
        return {**super().content(), "reference": self.reference.model_dump(mode="json")}
