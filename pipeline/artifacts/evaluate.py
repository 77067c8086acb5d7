"""What the stage evaluate writes: the figures by task, the identity of the predictions, and a classifier's answers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pydantic

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


class ClassifierSummary(Summary):
    """The scores of a classifier: accuracy with its interval, loss in nats, and accuracy by class."""

    task: Literal["classify"]
    accuracy: float
    low: float
    high: float
    loss: float
    recall: dict[str, float]


class GeneratorSummary(Summary):
    """The scores of a generator, and those of real images in its place."""

    task: Literal["generate"]
    fid: float
    kid: float
    floor_fid: float
    floor_kid: float
    memorised: float
    nearest: float
    nearest_real: float
    covered: int
    classes: int
    features: str


class CompleterSummary(Summary):
    """The scores of a completer, and those of repeating the last row in its place."""

    task: Literal["complete"]
    mse: float
    low: float
    high: float
    baseline_mse: float


Known = Annotated[ClassifierSummary | GeneratorSummary | CompleterSummary, pydantic.Field(discriminator="task")]


class AnySummary(pydantic.RootModel[Known]):
    """The summary of a model of any task."""


class Predictions(Artifact):
    """Whose answers lie beside it and for what, `meta.json`; scores compare where `key` is the same."""

    key: str
    model_id: str


class Pair(Row):
    """A row of `confusion.csv`: the class of a test image, and the class that the model predicts."""

    actual: str
    predicted: str
