"""Artifacts of the stage evaluate: the scores, the identity of the predictions, and the confusion matrix."""

from __future__ import annotations

from typing import ClassVar

from pipeline.artifacts.base import Artifact, Row


class Summary(Artifact, extra="allow"):
    """The scores of a model on the test split, `summary.json`; each task adds its figures.

    Attributes:
        run: Id of the MLflow run that trained the model.
        task: The task of the model.
        images: Number of test images.
        test_digest: Digest of the test split.
    """

    written_last: ClassVar[tuple[str, ...]] = ("images", "test_digest")

    run: str
    task: str
    images: int
    test_digest: str


class Predictions(Artifact):
    """The model and test data of the stored predictions, `meta.json`; scores with equal `key` are comparable."""

    key: str
    model_id: str


class Pair(Row):
    """A row of `confusion.csv`: the class of a test image, and the class that the model predicts."""

    actual: str
    predicted: str
