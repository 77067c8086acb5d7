"""Stage register: a candidate per task becomes a version of its registered model; a paired test decides who leads.

The candidate is the family with the best validation value among those that do the same. Whether it replaces the
champion is decided on the test images, image by image, from answers that evaluate has stored: nothing here runs a
model, or loads Keras.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from pipeline.core import params, process
from pipeline.core.errors import DataError, TrackingError
from pipeline.core.files import write_json
from pipeline.evaluation import base as scores
from pipeline.registry.versions import CHALLENGER, CHAMPION, Registry, Version, registered_name
from pipeline.tracking.runs import Tracker, predictions_path


class RegisterSettings(params.Settings):
    """Section `register` of params.

    Attributes:
        alpha: Level of the paired test.
    """

    alpha: float = pydantic.Field(gt=0, lt=1)


@dataclass(frozen=True)
class Candidate:
    """The family with the best validation value, and what was kept of its answers to the test images.

    Attributes:
        key: What figures must share to compare with these.
    """

    family: str
    value: float
    run_id: str
    model_id: str
    key: str
    kept: scores.Arrays


@dataclass(frozen=True)
class Decision:
    """What was decided, and why."""

    decision: Literal["promoted", "kept", "unchanged"]
    reason: str
    comparison: dict[str, float] | None = None


def decide(
    task: scores.Task,
    version: Version,
    kept: scores.Arrays,
    champion: Version | None,
    champion_kept: scores.Arrays | None,
    alpha: float,
) -> Decision:
    """Decide whether a candidate version becomes the champion.

    Args:
        task: What both do.
        version: The candidate's version.
        kept: What was kept of its answers.
        champion: The champion's version, if there is one.
        champion_kept: What was kept of the champion's answers; not needed if it is the candidate.
        alpha: Level of the paired test.
    """
    if champion is None:
        return Decision("promoted", "it is the first: there was no champion")
    if champion.version == version.version:
        return Decision("unchanged", "it is the champion already")
    assert champion_kept is not None
    found = task.compare(kept, champion_kept, champion.version)
    figures = {**found.figures, "p_value": found.p_value}
    if found.p_value < alpha:
        return Decision("promoted", f"{found.told} < {alpha}", figures)
    return Decision("kept", f"{found.told} >= {alpha}", figures)


def find_candidates(families: list[str], models: Path, predictions: Path) -> dict[str, Candidate]:
    """Return, by task, the family whose trained model has the best validation value; of equals, the lower loss.

    Raises:
        DataError: What train or evaluate should have written is missing or damaged.
    """
    infos = {family: _json(models / family / "model.json", "train") for family in families}
    tasks = dict.fromkeys(info["task"] for info in infos.values())  # in the order of the families
    return {
        task: _candidate({name: info for name, info in infos.items() if info["task"] == task}, predictions)
        for task in tasks
    }


def _candidate(infos: Mapping[str, dict[str, Any]], predictions: Path) -> Candidate:
    family = max(infos, key=lambda name: (infos[name]["value"], -infos[name]["loss"]))
    info, meta = infos[family], _json(predictions / family / "meta.json", "evaluate")
    if meta["model_id"] != info["model_id"]:
        raise DataError(
            f"{predictions / family} is of another model",
            expected=info["model_id"],
            found=meta["model_id"],
            next_step="dvc repro evaluate",
        )
    kept = scores.read(predictions / family / "predictions.npz")
    return Candidate(family, info["value"], info["run_id"], info["model_id"], meta["key"], kept)


def kept_of_champion(tracker: Tracker, champion: Version, key: str) -> scores.Arrays:
    """Return what was kept of the champion's answers to the same test images, on its run.

    Raises:
        TrackingError: It has none.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = tracker.fetch_artifact(champion.run_id, predictions_path(key), Path(folder))
        if file is None:
            raise TrackingError(
                f"{champion.name} version {champion.version}, the champion, has no predictions for this test split",
                expected=f"artifact {predictions_path(key)} on run {champion.run_id}",
                found="none",
                next_step="dvc repro --force --single-item evaluate@… scores it",
            )
        return scores.read(file)


def apply(registry: Registry, version: Version, decision: Decision) -> None:
    """Point the aliases where the decision wants them."""
    registry.tag_version(version, {"decision": decision.decision, "decision.reason": decision.reason})
    if decision.decision == "promoted":
        registry.set_alias(version, CHAMPION)
    if decision.decision == "kept":
        registry.set_alias(version, CHALLENGER)
    else:
        registry.remove_alias(version.name, CHALLENGER)  # the latest candidate is the champion: nobody challenges


def register(tracker: Tracker, name: str, task: scores.Task, candidate: Candidate, alpha: float) -> dict[str, Any]:
    """Make a candidate a version of a registered model, decide about it, and return the report on that."""
    tracker.require_run(candidate.run_id)
    registry = Registry(tracker)
    champion = registry.version(name, CHAMPION)
    figures = task.headline(candidate.kept)
    tags = {"family": candidate.family, "value": str(candidate.value), **{k: str(v) for k, v in figures.items()}}
    version = registry.register(name, candidate.model_id, candidate.run_id, tags)
    compared = None
    if champion is not None and champion.version != version.version:
        compared = kept_of_champion(tracker, champion, candidate.key)
    decision = decide(task, version, candidate.kept, champion, compared, alpha)
    apply(registry, version, decision)
    leads = version if champion is None or decision.decision == "promoted" else champion
    return {
        "model": name,
        "decision": decision.decision,
        "reason": decision.reason,
        "version": int(version.version),
        "champion": int(leads.version),
        "family": candidate.family,
        "value": candidate.value,
        **figures,
        "comparison": decision.comparison,
        "run": candidate.run_id,
        "key": candidate.key,
    }


def _json(path: Path, stage: str) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be used", expected=f"written by {stage}", found=str(error), next_step=f"dvc repro {stage}"
        ) from None
    return loaded


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.register", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--models", required=True, type=Path, help="folder of the trained families")
    parser.add_argument("--predictions", required=True, type=Path, help="folder of their answers")
    parser.add_argument("--report", required=True, type=Path, help="JSON file for the decisions")
    arguments = parser.parse_args()
    settings = params.load("register", RegisterSettings)
    families = list(params.section("families"))
    candidates = find_candidates(families, arguments.models, arguments.predictions)
    tracker = Tracker(arguments.dataset)
    report = {}
    for name, candidate in candidates.items():
        registered = registered_name(arguments.dataset, name)
        decided = register(tracker, registered, scores.load(name), candidate, settings.alpha)
        report[name] = decided
        told = f"{decided['decision']}, because {decided['reason']}"
        print(f"{registered} version {decided['version']} ({candidate.family}): {told}")
    write_json(arguments.report, report)


if __name__ == "__main__":
    process.stage(main)
