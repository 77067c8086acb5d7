"""Who came where: the figures of every family on every dataset, read from what the stages report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A family's figures on a dataset.

    Attributes:
        task: What the family does; only families of one task compete.
        value: Validation value of the kept model: the higher, the better.
        test: What evaluate tells: of a classifier ``accuracy`` with its interval, ``low`` to ``high``; of a generator
            ``fid`` and ``floor_fid``, what real images score; of a completer ``mse`` and ``baseline_mse``.
        version: The registered version that this model is, with its standing; empty if it is none.
        seconds: What search and training took.
    """

    dataset: str
    family: str
    task: str
    value: float
    test: Mapping[str, Any]
    version: str
    seconds: float


def rows(reports: Path, datasets: Iterable[str], families: Iterable[str]) -> list[Row]:
    """Return the figures of every family whose evaluation is there, by task, best validation value first."""
    found = []
    families = list(families)
    for dataset in datasets:
        decisions = _json(reports / "register" / f"{dataset}.json")
        of_dataset = [row for family in families if (row := _row(reports, dataset, family, decisions))]
        found += sorted(of_dataset, key=lambda row: (row.task, -row.value))
    return found


def _row(reports: Path, dataset: str, family: str, decisions: dict[str, Any]) -> Row | None:
    searched, trained, scored = (
        _json(reports / stage / dataset / family / "summary.json") for stage in ("search", "train", "evaluate")
    )
    if not (searched and trained and scored):
        return None
    return Row(
        dataset=dataset,
        family=family,
        task=scored["task"],
        value=trained["value"],
        test=scored,
        version=_standing(decisions.get(scored["task"], {}), trained["run"]),
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
    for name in ("validation", "test", "interval or floor", "seconds"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("registered", no_wrap=True)
    for row in found:
        shown.add_row(row.dataset, row.family, *_figures(row), f"{row.seconds:.0f}", row.version)
    return shown


def _figures(row: Row) -> tuple[str, str, str]:
    """Return validation value, test value, and what to read the latter by."""
    test = row.test
    if row.task == "generate":
        return f"FID {-row.value:.2f}", f"FID {test['fid']:.2f}", f"real images {test['floor_fid']:.2f}"
    if row.task == "complete":
        return f"MSE {-row.value:.4f}", f"MSE {test['mse']:.4f}", f"last row {test['baseline_mse']:.4f}"
    return f"{row.value:.2%}", f"{test['accuracy']:.2%}", f"{test['low']:.2%} to {test['high']:.2%}"
