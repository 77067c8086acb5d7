"""Artifacts of the stage register: its decision about each task."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pydantic

from pipeline.artifacts.base import Artifact, Number


class Decision(Artifact, extra="allow"):
    """The decision about a candidate; the main figures of its task are additional keys.

    Attributes:
        model: Name of the registered model.
        version: The candidate's version.
        champion: The version that is champion after the decision; 0 if there is none.
        value: The candidate's objective on validation data.
        comparison: Figures of the paired test; None if nothing was compared.
        run: Id of the MLflow run that trained the candidate.
        key: Figures with the same key are comparable with the candidate's.
        number: Number of the decision in the model's ledger; 0 in files of earlier releases.
        time: Time of the decision, in UTC and ISO 8601; empty in files of earlier releases.
    """

    __pydantic_extra__: dict[str, Number]
    written_last: ClassVar[tuple[str, ...]] = ("comparison", "run", "key", "number", "time")

    model: str
    decision: Literal["promoted", "kept", "unchanged"]
    reason: str
    version: int
    champion: int
    family: str
    value: float
    comparison: dict[str, Number] | None
    run: str
    key: str
    number: int = 0
    time: str = ""


class Report(pydantic.RootModel[Annotated[dict[str, Decision], pydantic.Field(min_length=1)]]):
    """The decisions about a dataset by task, `reports/register/<dataset>.json`."""

    def content(self) -> dict[str, Any]:
        """Return the file's content as plain values."""
        return {task: decision.content() for task, decision in self.root.items()}
