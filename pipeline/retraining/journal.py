"""What retraining must remember from one call to the next: the generation it forces, and the decisions it announced.

The file lies in the workspace, beside the data: another machine begins with an empty one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pydantic

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.register import Decision, Report
from pipeline.core import pydantic_errors
from pipeline.core.errors import DataError, PipelineError
from pipeline.core.files import write_json

FILE = Path("data/retrain/journal.json")
Decisions = Mapping[str, Mapping[str, Decision]]  # by dataset and task


class Journal(pydantic.BaseModel):
    """The journal of a workspace.

    Attributes:
        forced: The generation that a forced retraining has begun and not finished; None if there is none.
        announced: By dataset, the decisions that a scheduler knows, by `identity`.
    """

    forced: int | None = None
    announced: dict[str, list[str]] = {}

    @classmethod
    def load(cls) -> Journal:
        """Return the journal of the working directory, empty if there is none.

        Raises:
            PipelineError: The file is damaged.
        """
        try:
            return cls.model_validate_json(FILE.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except ValueError as error:
            found = pydantic_errors.summary(error) if isinstance(error, pydantic.ValidationError) else str(error)
            raise PipelineError(
                f"{FILE} is damaged", expected="JSON of an earlier retraining", found=found, next_step="remove it"
            ) from None

    def save(self) -> None:
        """Write the journal."""
        write_json(FILE, json.loads(self.model_dump_json()))

    def begin(self, datasets: Iterable[str]) -> None:
        """Count the present decisions about datasets without an entry as announced: they precede retraining here."""
        for dataset in datasets:
            if dataset not in self.announced:
                self.announced[dataset] = [identity(decision) for decision in _present(dataset).values()]
        self.save()

    def new(self, decisions: Decisions) -> set[str]:
        """Return the identities of the decisions that were not announced yet."""
        return {
            identity(decision)
            for dataset, of_tasks in decisions.items()
            for decision in of_tasks.values()
            if identity(decision) not in self.announced.get(dataset, ())
        }

    def announce(self, decisions: Decisions) -> None:
        """Record decisions as announced."""
        for dataset, of_tasks in decisions.items():
            known = self.announced.setdefault(dataset, [])
            known += [name for decision in of_tasks.values() if (name := identity(decision)) not in known]
        self.save()


def identity(decision: Decision) -> str:
    """Return the name of a decision: a rerun of the stage that decides the same has the same."""
    return f"{decision.model}/{decision.version}/{decision.run}/{decision.decision}"


def decided(dataset: str) -> dict[str, Decision]:
    """Return the decisions about a dataset by task, from register's report; none if there is no report.

    Raises:
        DataError: The report is damaged.
    """
    path = Path(f"reports/register/{dataset}.json")
    return artifacts.read_json(path, Report, "register").root if path.exists() else {}


def _present(dataset: str) -> dict[str, Decision]:
    try:
        return decided(dataset)
    except DataError:  # the stage is about to write it again
        return {}
