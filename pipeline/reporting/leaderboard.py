"""The leaderboard: the figures of every family on every dataset, read from the stages' reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pydantic

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.evaluate import Summary
from pipeline.artifacts.register import Decision, Report
from pipeline.artifacts.search import Summary as Searched
from pipeline.artifacts.train import Summary as Trained
from pipeline.evaluation import base as tasks

if TYPE_CHECKING:
    from rich.table import Table

A = TypeVar("A", bound=pydantic.BaseModel)


@dataclass(frozen=True)
class Row:
    """A family's figures on a dataset.

    Attributes:
        task: Name of the family's task; only families with the same task are compared.
        value: Validation value of the kept model; higher is better.
        test: The scores on the test split.
        version: The registered version and its alias; empty if the model is not registered.
        seconds: Duration of search and training.
        without_champion: Whether the task has no champion on the dataset.
    """

    dataset: str
    family: str
    task: str
    value: float
    test: Summary
    version: str
    seconds: float
    without_champion: bool = False


def rows(reports: Path, datasets: Iterable[str], families: Iterable[str]) -> list[Row]:
    """Return the figures of every evaluated family, by task, with the best validation value first."""
    found = []
    families = list(families)
    for dataset in datasets:
        decided = _written(reports / "register" / f"{dataset}.json", Report, "register")
        decisions = decided.root if decided else {}
        of_dataset = [row for family in families if (row := _row(reports, dataset, family, decisions))]
        found += sorted(of_dataset, key=lambda row: (row.task, -row.value))
    return found


def _row(reports: Path, dataset: str, family: str, decisions: Mapping[str, Decision]) -> Row | None:
    search, train, evaluate = (
        reports / stage / dataset / family / "summary.json" for stage in ("search", "train", "evaluate")
    )
    searched = _written(search, Searched, "search")
    trained = _written(train, Trained, "train")
    scored = tasks.read_summary(evaluate) if evaluate.exists() else None
    if not (searched and trained and scored):
        return None
    return Row(
        dataset=dataset,
        family=family,
        task=scored.task,
        value=trained.value,
        test=scored,
        version=_version(decisions.get(scored.task), trained.run),
        seconds=searched.seconds + trained.added_seconds,
        without_champion=(decision := decisions.get(scored.task)) is not None and not decision.champion,
    )


def _version(decision: Decision | None, run_id: str) -> str:
    """Return the version and alias of a run's model; empty unless the latest decision was about that run."""
    if decision is None or decision.run != run_id:
        return ""
    alias = "champion" if decision.champion == decision.version else "challenger"
    return f"v{decision.version} @{alias}"


def _written(path: Path, model: type[A], stage: str) -> A | None:
    """Return the artifact of a stage; None if the stage has not run."""
    return artifacts.read_json(path, model, stage) if path.exists() else None


def table(found: Iterable[Row]) -> Table:
    """Return the rows as a table for a terminal."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("dataset", "family"):
        shown.add_column(name, no_wrap=True)
    for name in ("val", "test", "interval / floor", "seconds"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("registered", no_wrap=True)
    for row in found:
        line = tasks.load(row.task).line(row.value, row.test)
        figures = (line.validation, line.test, line.beside)
        shown.add_row(row.dataset, row.family, *figures, f"{row.seconds:.0f}", row.version)
    return shown
