"""Artifacts of the stage train: the model's description, a summary and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import pydantic

from pipeline.artifacts.base import Artifact, Row, Scalar

_NOT_DRAWN = ("epoch", "at", "stopped")  # keys of an epoch that are no curves: number, time of day, early stop


class Model(Artifact):
    """Description of a trained model for later stages, `model.json`.

    Attributes:
        value: The objective on validation data.
        mean: The mean objective of all seeds, by which families are ranked: one seed may be lucky.
        loss: Validation loss, which breaks ties; infinite if a family has none.
        parameters: Number of parameters.
        run_id: Id of the MLflow run that trained it.
        model_id: Id of the logged model in MLflow.
    """

    family: str
    task: str
    value: float
    mean: float
    loss: Annotated[float, pydantic.Field(allow_inf_nan=True)]
    parameters: int
    hyperparameters: dict[str, Scalar]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    data_digest: str
    backend: str
    run_id: str
    model_id: str


class Summary(Artifact):
    """The result and cost of a training, `summary.json`; `epochs` and `seconds` are those of the kept model.

    Attributes:
        added_seconds: Time in which further seeds were trained after the search's training had ended.
        run: Id of the MLflow run.
        value: The objective of the kept model on validation data.
        mean: The mean over the seeds that trained.
        standard_error: That of the mean; None with one seed.
        seeds: The objective by seed, of those that trained.
        failed: Why the others have no model, by seed.
    """

    run: str
    value: float
    mean: float
    standard_error: float | None = None
    seeds: dict[str, float]
    failed: dict[str, str] = {}
    parameters: int
    epochs: int
    seconds: float
    added_seconds: float = 0.0


class Epoch(Row):
    """A row of `curves.csv`: an epoch's metrics by name; `value` is the metric that the search maximises."""

    other_columns: ClassVar[str] = "metrics"
    written_last: ClassVar[tuple[str, ...]] = ("value",)

    epoch: int
    value: float
    metrics: dict[str, float]

    @classmethod
    def of(cls, reported: Mapping[str, float], objective: str) -> Epoch:
        """Return the row of an epoch from the metrics that a training reports.

        Args:
            reported: Metrics by name, with ``epoch``.
            objective: Name of the metric that the search maximises.
        """
        metrics = {name: value for name, value in reported.items() if name not in _NOT_DRAWN}
        return cls(epoch=int(reported["epoch"]), value=reported[objective], metrics=metrics)


def curves(epochs: Sequence[Epoch]) -> str:
    """Return the text of `curves.csv`; the first epoch determines the columns."""
    columns = list(epochs[0].cells())
    rows = [epoch.cells() for epoch in epochs]
    lines = [",".join(columns), *(",".join(f"{row[name]:.6g}" for name in columns) for row in rows)]
    return "\n".join(lines) + "\n"
