"""Registers the candidate of each task as a version of its model, and decides by a paired test who is champion.

The test compares candidate and champion image by image, on the predictions that evaluate has stored: no model is run
here, and Keras is not loaded.

A decision is written once, to the model's ledger. When register runs again with the same candidate, champion and test
split, it reports the decision that it finds there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import register as report
from pipeline.core.errors import TrackingError
from pipeline.evaluation import base as scores
from pipeline.registry import champions
from pipeline.registry import ledger as ledgers
from pipeline.registry.candidates import Candidate
from pipeline.registry.champions import Standing
from pipeline.registry.versions import Registry, Version
from pipeline.tracking.runs import Tracker, predictions_path


@dataclass(frozen=True)
class Decision:
    """A decision and its reason."""

    decision: Literal["promoted", "kept", "unchanged"]
    reason: str
    comparison: dict[str, float] | None = None


def decide(
    task: scores.Task[Any],
    version: Version,
    kept: scores.Arrays,
    champion: Version | None,
    champion_kept: scores.Arrays | None,
    alpha: float,
) -> Decision:
    """Decide whether a candidate version becomes the champion.

    Args:
        task: The task of both.
        version: The candidate's version.
        kept: The candidate's stored predictions.
        champion: The champion's version, if there is one. The first one must be better than chance.
        champion_kept: The champion's stored predictions; not needed if it is the candidate.
        alpha: Level of the paired test.
    """
    if champion is None:
        blind = task.against_chance(kept)
        if blind is not None and blind.p_value >= alpha:
            reason = f"a first champion must be better than chance, and {blind.text} >= {alpha}"
            return Decision("kept", reason, {"p_value": blind.p_value})
        return Decision("promoted", "it is the first: there was no champion")
    if champion.version == version.version:
        return Decision("unchanged", "it is the champion already")
    assert champion_kept is not None
    found = task.compare(kept, champion_kept, champion.version)
    figures = {**found.figures, "p_value": found.p_value}
    if found.p_value < alpha:
        return Decision("promoted", f"{found.text} < {alpha}", figures)
    return Decision("kept", f"{found.text} >= {alpha}", figures)


def register(
    tracker: Tracker, name: str, task: scores.Task[Any], candidate: Candidate, alpha: float
) -> report.Decision:
    """Register a candidate as a version of a model, decide whether it becomes champion, and return the decision.

    Raises:
        ForeignModelError: The registered model or its champion is not of this project.
        TrackingError: The registry cannot be used, or the champion has no predictions for the test split.
    """
    tracker.require_model(candidate.run_id, candidate.model_id, candidate.family)
    registry = Registry(tracker)
    champions.standing(registry, name)  # raises before anything is written to a model of others
    ledger = ledgers.ensure(tracker, registry, name)
    figures = task.headline(candidate.kept)
    tags = {"family": candidate.family, "value": str(candidate.value), **{k: str(v) for k, v in figures.items()}}
    version = registry.register(name, candidate.model_id, candidate.run_id, tags)
    while True:  # another process that decides at the same time has changed the champion: decide again
        standing = champions.standing(registry, name)
        if (known := _known(standing, version, candidate, alpha)) is not None:
            return known
        decision = _decide(tracker, task, version, candidate, standing, alpha)
        entry = _entry(version, candidate, standing, decision, figures)
        if ledger.claim(entry):
            champions.standing(registry, name)  # sets the aliases
            return entry


def _known(standing: Standing, version: Version, candidate: Candidate, alpha: float) -> report.Decision | None:
    """Return the decision that was made about the same candidate, champion and test split, if there is one."""
    for decision in reversed(standing.decisions):
        if (str(decision.champion) if decision.champion else None) != standing.champion:
            return None  # the champion was another one then
        if str(decision.version) != version.version or decision.key != candidate.key:
            continue
        if decision.decision != "kept":
            return decision
        if (standing.competes or standing.champion is None) and (decision.comparison or {}).get("p_value", 0) >= alpha:
            return decision
    return None


def _decide(
    tracker: Tracker, task: scores.Task[Any], version: Version, candidate: Candidate, standing: Standing, alpha: float
) -> Decision:
    """Decide about a candidate; a champion that cannot compete counts as none."""
    champion, fault, kept = standing.version, standing.fault, None
    if champion is not None and not fault and champion.version != version.version:
        kept = kept_of_champion(tracker, champion, candidate.key)
        if kept is None:
            fault = champion.tags[champions.UNUSABLE]
    if fault:
        return Decision("promoted", fault)
    return decide(task, version, candidate.kept, champion, kept, alpha)


def kept_of_champion(tracker: Tracker, champion: Version, key: str) -> scores.Arrays | None:
    """Return the champion's stored predictions for the same test images; None if evaluate could not use the champion.

    Raises:
        TrackingError: Evaluate has not scored the champion.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = tracker.fetch_artifact(champion.run_id, predictions_path(key), Path(folder))
        if file is not None:
            return scores.read(file)
    if champions.UNUSABLE in champion.tags:
        return None
    raise TrackingError(
        f"{champion.name} version {champion.version}, the champion, has no predictions for this test split",
        expected=f"artifact {predictions_path(key)} on run {champion.run_id}",
        found="none",
        next_step="dvc repro --force --single-item evaluate@… scores it",
    )


def _entry(
    version: Version, candidate: Candidate, standing: Standing, decision: Decision, figures: Mapping[str, float]
) -> report.Decision:
    """Return a decision as the ledger and the report have it."""
    leads = (standing.champion or "0") if decision.decision == "kept" else version.version
    written = {
        "model": version.name,
        "decision": decision.decision,
        "reason": decision.reason,
        "version": int(version.version),
        "champion": int(leads),
        "family": candidate.family,
        "value": candidate.value,
        "comparison": decision.comparison,
        "run": candidate.run_id,
        "key": candidate.key,
        "number": len(standing.decisions) + 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return report.Decision.model_validate({**written, **figures})
