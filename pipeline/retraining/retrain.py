"""What a scheduler calls: ingest incoming data, reproduce the pipeline if anything has changed, and report the result.

Exit codes: 0 a new champion was promoted; 10 models were trained and none promoted; 11 nothing to do; 12 another
command is at work; 1 something failed; 130 interrupted.

Each promotion is announced by exit code 0 once, in the first call that ends well after it: `journal` remembers which.
A scheduler that is killed between the answer and the journal's entry gets the answer again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts.register import Decision
from pipeline.core import params
from pipeline.core.errors import PipelineError, TrackingError
from pipeline.project import check, dvc, dvc_lock, lock, params_edit, preflight, recorded
from pipeline.retraining import ingest
from pipeline.retraining.journal import Decisions, Journal, decided, identity

PROMOTED, FAILED, NOT_PROMOTED, NOTHING_TO_DO, LOCKED = 0, 1, 10, 11, 12
_OTHERS_S = 10.0  # for a short DVC command, such as `dvc status`, to end before a generation is raised

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
    """The result of a retraining: the line for machines.

    Attributes:
        outcome: In words; its exit code is `code`.
        generation: Generation of the studies.
        seconds: Wall time.
        decisions: The new decisions of register, by dataset and task.
        ingested: Numbers of incoming batches that were accepted, quarantined or known, and of the images accepted.
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


def run(*, force: bool, announce: Callable[[RetrainSummary], None] = lambda summary: None) -> RetrainSummary:
    """Retrain in the working directory.

    Args:
        force: Start a new generation of every study on the same data, or resume the one that is not registered yet.
        announce: Receives the result; when it returns, the decisions count as announced.
    """
    started = time.monotonic()
    try:
        with lock.hold(Path(), f"pipeline retrain{' --force' if force else ''}", wait_s=0):
            journal = Journal.load()
            summary, decisions = _run(started, journal, force=force)
            announce(summary)
            if summary.outcome != "failed":
                journal.announce(decisions)
            return summary
    except (lock.LockedError, dvc_lock.BusyError) as error:
        lock.to_stderr(f"locked: {error}")
        summary = RetrainSummary("locked")
        announce(summary)
        return summary


def _run(started: float, journal: Journal, *, force: bool) -> tuple[RetrainSummary, Decisions]:
    """Return the result, and the decisions that it announces."""
    ingested = ingest.run(Path(), lock.to_stderr)
    content = check.check()
    journal.begin(content["datasets"])
    generation = _force(journal) if force else int(content["search"]["generation"])
    before = _registrations()
    preflight.check_tracking(content, Path.cwd(), lock.to_stderr)
    code = dvc.reproduce(Path.cwd(), quiet=True)
    seconds = round(time.monotonic() - started, 1)
    if code != 0:
        return RetrainSummary("failed", seconds, generation, ingested=ingested), {}
    journal.forced = None
    after = _registrations()
    found = {dataset: decided(dataset) for dataset in content["datasets"]}
    decisions = {d: found[d] for d in found if after.get(d) != before.get(d) or journal.new({d: found[d]})}
    if not decisions:  # a new generation that finds the same model again leaves nothing to decide
        return RetrainSummary(
            "not promoted" if force else "nothing to do", seconds, generation, ingested=ingested
        ), found
    new = journal.new(decisions)
    promoted = any(
        decision.decision == "promoted" and identity(decision) in new
        for of_tasks in decisions.values()
        for decision in of_tasks.values()
    )
    shown = {dataset: _shown(of_tasks) for dataset, of_tasks in decisions.items()}
    return RetrainSummary("promoted" if promoted else "not promoted", seconds, generation, shown, ingested), found


def _force(journal: Journal) -> int:
    """Return the generation to search: a new one, or the last forced one until all of it has been registered.

    Raises:
        BusyError: A DVC command is at work: it would record the new generation for results of the old one.
    """
    current = int(params.section("search.generation"))
    if journal.forced == current and any(not name.startswith("report") for name in dvc.changed_stages(Path.cwd())):
        lock.to_stderr(f"generation {current} is not registered yet: it is resumed")
        return current
    file = params.PARAMS_FILE
    with dvc_lock.writing(Path(), file, log=lock.to_stderr, wait_s=_OTHERS_S, alone=True):
        journal.forced = current + 1
        journal.save()
        return params_edit.next_generation(file)


def _registrations() -> dict[str, Any]:
    """Return the entry of each dataset's register stage in dvc.lock: it changes exactly when the stage has run."""
    prefix = "register@"
    stages = recorded.locked_stages(Path())
    return {name.removeprefix(prefix): stage for name, stage in stages.items() if name.startswith(prefix)}


def _shown(of_tasks: Mapping[str, Decision]) -> dict[str, dict[str, Any]]:
    """Return decisions by task for a scheduler, without what only later stages use."""
    hidden = ("comparison", "run", "key")
    return {
        task: {key: value for key, value in decision.content().items() if key not in hidden}
        for task, decision in of_tasks.items()
    }


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
        [sys.executable, "-m", "dvc", "remote", "list"],
        env=dvc.environment(Path()),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if not listed.stdout.strip():
        raise PipelineError(
            "retraining here would start from nothing: data and models would vanish with this machine",
            expected="a DVC remote",
            found="none",
            next_step="dvc remote add --default NAME URL",
        )
