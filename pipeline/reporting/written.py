"""What the stages write under reports/, as far as the page shows it. A stage may write more."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pydantic


class Written(pydantic.BaseModel):
    """A file that a stage wrote, or a row of one; only keys that the page shows are declared."""

    model_config = pydantic.ConfigDict(frozen=True)


class _Row(Written):
    """A row of a CSV file: an empty cell is None, and a row with more cells than there are columns is wrong."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _cells(cls, row: dict[str | None, Any]) -> dict[str | None, Any]:
        if None in row:
            raise ValueError("more cells in a row than columns")
        return {name: None if text == "" else text for name, text in row.items()}


class Gate(Written):
    """What validate found; see its report."""

    images: dict[str, int]
    classes: dict[str, dict[str, int]]
    imbalance: dict[str, float]
    duplicates: dict[str, int]
    leaked: int
    expectations: dict[str, dict[str, float]]


class Decision(Written):
    """What register decided."""

    model: str
    decision: Literal["promoted", "kept", "unchanged"]
    reason: str
    version: int
    champion: int
    family: str


class Searched(Written):
    """What a search came to and cost; `seconds` is wall time, `trials` counts by state."""

    study: str
    run: str
    best_trial: int
    trials: dict[str, int]
    epochs: int
    seconds: float


class Best(Written):
    """The hyperparameters that train used."""

    hyperparameters: dict[str, bool | int | float | str | None]


class Trial(_Row):
    """A row of trials.csv; `value` is None where a trial failed before its first epoch was over."""

    trial: int
    state: str
    value: float | None
    epochs: int
    seconds: float
    reason: str | None
    preset: str | None = None
    hyperparameters: dict[str, str | None]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _other_columns(cls, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "hyperparameters": {name: text for name, text in row.items() if name not in cls.model_fields}}

    @pydantic.field_validator("value")
    @classmethod
    def _number_or_none(cls, value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else value


class Trained(Written):
    """What training came to; `seconds` are those of the kept model."""

    run: str
    value: float
    mean: float
    seeds: dict[str, float]
    parameters: int
    epochs: int
    seconds: float


class Epoch(_Row):
    """A row of curves.csv: the metrics of an epoch by name; which there are depends on the family."""

    epoch: int
    value: float
    metrics: dict[str, float]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _other_columns(cls, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "metrics": {name: told for name, told in row.items() if name not in cls.model_fields}}


class Pair(_Row):
    """A row of confusion.csv: a test image's class, and what the model took it for."""

    actual: str
    predicted: str


class Scored(Written):
    """How a trained classifier did on the test split."""

    task: Literal["classify"]
    run: str
    accuracy: float
    low: float
    high: float
    loss: float
    recall: dict[str, float]
    images: int


class Generated(Written):
    """How a trained generator did, and real images in its place."""

    task: Literal["generate"]
    run: str
    fid: float
    kid: float
    floor_fid: float
    floor_kid: float
    memorised: float
    covered: int
    classes: int
    features: str
    images: int


class Completed(Written):
    """How a trained completer did, and repeating the last row in its place."""

    task: Literal["complete"]
    run: str
    mse: float
    low: float
    high: float
    baseline_mse: float
    images: int


class Tested(pydantic.RootModel[Annotated[Scored | Generated | Completed, pydantic.Field(discriminator="task")]]):
    """What evaluate found, by what the model is for."""


class Decisions(pydantic.RootModel[Annotated[dict[str, Decision], pydantic.Field(min_length=1)]]):
    """What register decided, by task."""
