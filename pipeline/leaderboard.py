"""Who came where: the figures of every family on every dataset, read from what the stages report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A family's figures on a dataset.

    Attributes:
        value: Validation value of the kept model.
        accuracy, low, high: Test accuracy and its interval.
        version: The registered version that this model is, with its standing; empty if it is none.
        seconds: What search and training took.
    """

    dataset: str
    family: str
    value: float
    accuracy: float
    low: float
    high: float
    version: str
    seconds: float


def rows(reports: Path, datasets: Iterable[str], families: Iterable[str]) -> list[Row]:
    """Return the figures of every family whose evaluation is there, best validation value first within a dataset."""
    found = []
    families = list(families)
    for dataset in datasets:
        decision = _json(reports / "register" / f"{dataset}.json")
        of_dataset = [row for family in families if (row := _row(reports, dataset, family, decision))]
        found += sorted(of_dataset, key=lambda row: -row.value)
    return found


def _row(reports: Path, dataset: str, family: str, decision: dict[str, Any]) -> Row | None:
    searched, trained, scored = (
        _json(reports / stage / dataset / family / "summary.json") for stage in ("search", "train", "evaluate")
    )
    if not (searched and trained and scored):
        return None
    return Row(
        dataset=dataset,
        family=family,
        value=trained["value"],
        accuracy=scored["accuracy"],
        low=scored["low"],
        high=scored["high"],
        version=_standing(decision, trained["run"]),
        seconds=searched["seconds"] + trained["seconds"],
    )


def _standing(decision: dict[str, Any], run_id: str) -> str:
    """Return the version of a run's model and what it is called, where the latest decision was about that run."""
    if decision.get("run") != run_id:
        return ""
    alias = "champion" if decision["champion"] == decision["version"] else "challenger"
    return f"v{decision['version']} @{alias}"


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return loaded


def table(found: Iterable[Row]) -> Table:
    """Return the rows as a table for a terminal."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("dataset", "family"):
        shown.add_column(name, no_wrap=True)
    for name in ("validation", "test", "interval", "seconds"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("registered", no_wrap=True)
    for row in found:
        interval = f"{row.low:.2%} to {row.high:.2%}"
        figures = (f"{row.value:.2%}", f"{row.accuracy:.2%}", interval, f"{row.seconds:.0f}")
        shown.add_row(row.dataset, row.family, *figures, row.version)
    return shown
