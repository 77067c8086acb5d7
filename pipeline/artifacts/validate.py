"""What the stage validate writes: its report, with the reference that incoming batches are compared with."""

from __future__ import annotations

from typing import Any

import pydantic

from pipeline.artifacts.base import Artifact, Number


class Levels(pydantic.BaseModel):
    """Mean and standard deviation of each channel's level over the images of a class."""

    model_config = pydantic.ConfigDict(frozen=True)

    images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Reference(pydantic.BaseModel):
    """What the official train split is like; see `pipeline.validation.reference`."""

    model_config = pydantic.ConfigDict(frozen=True)

    shape: tuple[int, int, int]
    bounds: dict[str, tuple[float, float]]
    levels: dict[int, Levels]


class NearDuplicates(Artifact):
    """Near duplicates: the distance that counts, pairs by distance and split, and the nearest pairs as text."""

    threshold: float
    counts: dict[str, dict[str, int]]
    pairs: tuple[str, ...]


class Report(Artifact):
    """The report of validation, `reports/validate/<dataset>.json`: it exists only for data that passed.

    Attributes:
        images: Images by split; so are `imbalance`, `duplicates` and `digest`.
        classes: Images by split and class.
        imbalance: The largest class over the smallest.
        leaked: Test images that occur in train.
        expectations: What each expectation observed, by its name.
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
        """Return the file's content as plain values; the reference as JSON spells it."""
        return {**super().content(), "reference": self.reference.model_dump(mode="json")}
