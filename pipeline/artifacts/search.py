"""Artifacts of the stage search: the best hyperparameters, a summary and the table of trials."""

from __future__ import annotations

import math
from typing import ClassVar

import pydantic

from pipeline.artifacts.base import Artifact, Row, Scalar


class Best(Artifact):
    """The best trial, `best.json`, which is the input of the stage train.

    Attributes:
        epochs: Epochs of a whole training.
        value: The objective on validation data.
        seed: Seed of the trial's training.
        study: Name of the study.
    """

    family: str
    hyperparameters: dict[str, Scalar]
    epochs: int
    value: float
    seed: int
    study: str


class Summary(Artifact):
    """The result and cost of a search, `summary.json`.

    Attributes:
        run: Id of the search's MLflow run.
        trials: Number of trials by state.
        epochs: Epochs of all trials together.
        seconds: Wall time.
        cut_by_deadline: Whether `search.deadline_minutes` ended the search before its budget was used.
        disturbed: Whether measurements of the machine are among the results (memory ran out, workers died, a device of
            another class trained, a limit on latency): another machine may give others.
    """

    study: str
    run: str
    value: float
    best_trial: int
    trials: dict[str, int]
    epochs: int
    seconds: float
    cut_by_deadline: bool = False
    disturbed: bool = False


class Trial(Row):
    """A row of `trials.csv`; `value` is missing if the trial failed before the end of its first epoch."""

    other_columns: ClassVar[str] = "hyperparameters"

    trial: int
    state: str
    value: float | None = None
    epochs: int
    reason: str = ""
    preset: str = ""
    hyperparameters: dict[str, Scalar | None]

    @pydantic.field_validator("value")
    @classmethod
    def _number_or_none(cls, value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else value
