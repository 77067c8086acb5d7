"""What a scheduler calls: ingest incoming data, reproduce the pipeline if anything has changed, and report the result.

Exit codes: 0 a new champion was promoted; 10 models were trained and none promoted; 11 nothing to do; 12 another
retraining is at work; 1 something failed; 130 interrupted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import filelock
from ruamel.yaml import YAML

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.register import Report
from pipeline.core.errors import PipelineError, TrackingError
from pipeline.project import check, dvc, params_edit
from pipeline.retraining import ingest

PROMOTED, FAILED, NOT_PROMOTED, NOTHING_TO_DO, LOCKED = 0, 1, 10, 11, 12
_LOCK = Path("data/retrain.lock")

Outcome = Literal["promoted", "not promoted", "nothing to do", "failed", "locked"]
_CODES: dict[Outcome, int] = {
    "promoted": PROMOTED,
    "not promoted": NOT_PROMOTED,
    "nothing to do": NOTHING_TO_DO,
    "failed": FAILED,
    "locked": LOCKED,
}


@dataclass(frozen=True)
class RetrainSummary:
    """What came of a retraining: the line for machines.

    Attributes:
        outcome: In words; its exit code is `code`.
        generation: Generation of the studies.
        seconds: Wall time.
        decisions: By dataset and task, what register decided now; empty where it had nothing to decide.
        ingested: How many incoming batches were accepted, quarantined or known, and the images accepted.
    """

    outcome: Outcome
    seconds: float = 0.0
    generation: int | None = None
    decisions: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    ingested: ingest.IngestSummary = field(default_factory=ingest.IngestSummary)

    @property
    def code(self) -> int:
        """The exit code."""
        return _CODES[self.outcome]


def run(*, force: bool) -> RetrainSummary:
    """Retrain in the working directory.

    Args:
        force: Start a new generation of every study, on the same data.
    """
    started = time.monotonic()
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(_LOCK, timeout=0):
            return _run(started, force=force)
    except filelock.Timeout:
        return RetrainSummary("locked")


def _run(started: float, *, force: bool) -> RetrainSummary:
    ingested = ingest.run(Path(), lambda text: print(text, file=sys.stderr))
    content = check.check()
    generation = params_edit.next_generation() if force else int(content["search"]["generation"])
    before = _registrations()
    code = dvc.reproduce(Path.cwd(), quiet=True)
    seconds = round(time.monotonic() - started, 1)
    if code != 0:
        return RetrainSummary("failed", seconds, generation, ingested=ingested)
    after = _registrations()
    decided = [dataset for dataset in content["datasets"] if after.get(dataset) != before.get(dataset)]
    decisions = {dataset: _decisions(dataset) for dataset in decided}
    if not decisions:  # a new generation that finds the same model again leaves nothing to decide
        return RetrainSummary("not promoted" if force else "nothing to do", seconds, generation, ingested=ingested)
    promoted = any(d["decision"] == "promoted" for of_tasks in decisions.values() for d in of_tasks.values())
    return RetrainSummary("promoted" if promoted else "not promoted", seconds, generation, decisions, ingested)


def _registrations() -> dict[str, Any]:
    """Return what DVC has locked of each dataset's register stage: it changes exactly when the stage has run anew."""
    try:
        lock = YAML(typ="safe").load(Path("dvc.lock")) or {}
    except FileNotFoundError:
        return {}
    prefix = "register@"
    return {name.removeprefix(prefix): stage for name, stage in lock["stages"].items() if name.startswith(prefix)}


def _decisions(dataset: str) -> dict[str, dict[str, Any]]:
    """Return what was decided about a dataset's models, by task, without what only machines of ours need."""
    decided = artifacts.read_json(Path(f"reports/register/{dataset}.json"), Report, "register").content()
    hidden = ("comparison", "run", "key")
    return {task: {key: value for key, value in of.items() if key not in hidden} for task, of in decided.items()}


def require_persistent() -> None:
    """Check that what is trained here outlives this machine, as a scheduled job on a fresh machine needs.

    Raises:
        TrackingError: The tracking server is a file of this machine.
        PipelineError: DVC has no remote.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri or uri.startswith(("sqlite:", "file:", ".", "/")):
        raise TrackingError(
            "retraining here would be forgotten: runs and champion would vanish with this machine",
            expected="MLFLOW_TRACKING_URI of a tracking server",
            found=uri.partition(":")[0] or "none",
            next_step="set it as a secret or variable of the repository",
        )
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "list"], capture_output=True, text=True, check=False
    )
    if not listed.stdout.strip():
        raise PipelineError(
            "retraining here would do everything anew: data and models would vanish with this machine",
            expected="a DVC remote",
            found="none",
            next_step="dvc remote add --default NAME URL",
        )
