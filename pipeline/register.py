"""Stage register: the candidate becomes a version of the registered model, and a paired test decides who is champion.

The candidate is the family with the best validation value. Whether it replaces the champion is decided on the test
images, image by image, from predictions that evaluate has stored: nothing here runs a model, or loads Keras.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline import entry, params
from pipeline.datasets.base import write_json
from pipeline.errors import DataError, TrackingError
from pipeline.registry import CHALLENGER, CHAMPION, Registry, Version, registered_name
from pipeline.tracking import Tracker, predictions_path

Bools = npt.NDArray[np.bool_]


class Settings(params.Settings):
    """Section `register` of params.

    Attributes:
        alpha: Level of the paired test.
    """

    alpha: float = pydantic.Field(default=0.05, gt=0, lt=1)


@dataclass(frozen=True)
class Candidate:
    """The family with the best validation value, and which test images it labels right."""

    family: str
    value: float
    run_id: str
    model_id: str
    test_digest: str
    right: Bools


@dataclass(frozen=True)
class Comparison:
    """A paired comparison on the same test images.

    Attributes:
        candidate_only: Images that only the candidate labels right.
        champion_only: Images that only the champion labels right.
        p_value: Of the exact one-sided McNemar test: how likely so many are under "the candidate is no better".
    """

    candidate_only: int
    champion_only: int
    p_value: float


@dataclass(frozen=True)
class Decision:
    """What was decided, and why."""

    decision: Literal["promoted", "kept", "unchanged"]
    reason: str
    comparison: Comparison | None = None


def compare(candidate: Bools, champion: Bools) -> Comparison:
    """Compare which images two models label right; arrays of shape (N,) over the same images.

    Raises:
        DataError: They are not over the same number of images.
    """
    from scipy.stats import binomtest

    if candidate.shape != champion.shape:
        raise DataError("predictions do not pair", expected=f"{candidate.shape[0]} images", found=champion.shape[0])
    wins, losses = int((candidate & ~champion).sum()), int((~candidate & champion).sum())
    test = binomtest(wins, wins + losses, 0.5, alternative="greater") if wins + losses else None
    return Comparison(wins, losses, 1.0 if test is None else float(test.pvalue))


def decide(
    version: Version, right: Bools, champion: Version | None, champion_right: Bools | None, alpha: float
) -> Decision:
    """Decide whether a candidate version becomes the champion.

    Args:
        version: The candidate's version.
        right: Which test images it labels right.
        champion: The champion's version, if there is one.
        champion_right: Which test images the champion labels right; not needed if it is the candidate.
        alpha: Level of the paired test.
    """
    if champion is None:
        return Decision("promoted", "it is the first: there was no champion")
    if champion.version == version.version:
        return Decision("unchanged", "it is the champion already")
    assert champion_right is not None
    comparison = compare(right, champion_right)
    told = (
        f"{comparison.candidate_only} test images are right only with it, {comparison.champion_only} only with the"
        f" champion (version {champion.version}): one-sided McNemar p = {comparison.p_value:.3g}"
    )
    if comparison.p_value < alpha:
        return Decision("promoted", f"{told} < {alpha}", comparison)
    return Decision("kept", f"{told} >= {alpha}", comparison)


def find_candidate(families: list[str], models: Path, predictions: Path) -> Candidate:
    """Return the family whose trained model has the best validation value; of equals, the one with the lower loss.

    Raises:
        DataError: What train or evaluate should have written is missing or damaged.
    """
    infos = {family: _json(models / family / "model.json", "train") for family in families}
    family = max(families, key=lambda name: (infos[name]["value"], -infos[name]["loss"]))
    info, meta = infos[family], _json(predictions / family / "meta.json", "evaluate")
    if meta["model_id"] != info["model_id"]:
        raise DataError(
            f"{predictions / family} is of another model",
            expected=info["model_id"],
            found=meta["model_id"],
            next_step="dvc repro evaluate",
        )
    right = _right(predictions / family / "predictions.npz")
    return Candidate(family, info["value"], info["run_id"], info["model_id"], meta["test_digest"], right)


def champion_right(tracker: Tracker, champion: Version, test_digest: str) -> Bools:
    """Return which images of this test split the champion labels right, from the predictions kept on its run.

    Raises:
        TrackingError: It has none for this split.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = tracker.fetch_artifact(champion.run_id, predictions_path(test_digest), Path(folder))
        if file is None:
            raise TrackingError(
                f"{champion.name} version {champion.version}, the champion, has no predictions for this test split",
                expected=f"artifact {predictions_path(test_digest)} on run {champion.run_id}",
                found="none",
                next_step="dvc repro --force --single-item evaluate@… scores it",
            )
        return _right(file)


def apply(registry: Registry, version: Version, decision: Decision) -> None:
    """Point the aliases where the decision wants them."""
    registry.tag_version(version, {"decision": decision.decision, "decision.reason": decision.reason})
    if decision.decision == "promoted":
        registry.set_alias(version, CHAMPION)
    if decision.decision == "kept":
        registry.set_alias(version, CHALLENGER)
    else:
        registry.remove_alias(version.name, CHALLENGER)  # the latest candidate is the champion: nobody challenges


def _json(path: Path, stage: str) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be used", expected=f"written by {stage}", found=str(error), next_step=f"dvc repro {stage}"
        ) from None
    return loaded


def _right(file: Path) -> Bools:
    with np.load(file, allow_pickle=False) as stored:
        right: Bools = stored["predicted"] == stored["actual"]
    return right


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.register", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--models", required=True, type=Path, help="folder of the trained families")
    parser.add_argument("--predictions", required=True, type=Path, help="folder of their predictions")
    parser.add_argument("--report", required=True, type=Path, help="JSON file for the decision")
    arguments = parser.parse_args()
    settings = params.load("register", Settings)
    families = list(params.section("families"))
    candidate = find_candidate(families, arguments.models, arguments.predictions)
    name = registered_name(arguments.dataset)
    tracker = Tracker(arguments.dataset)
    tracker.require_run(candidate.run_id)
    registry = Registry(tracker)
    champion = registry.version(name, CHAMPION)
    tags = {"family": candidate.family, "value": str(candidate.value), "accuracy": str(candidate.right.mean())}
    version = registry.register(name, candidate.model_id, candidate.run_id, tags)
    compared = None
    if champion is not None and champion.version != version.version:
        compared = champion_right(tracker, champion, candidate.test_digest)
    decision = decide(version, candidate.right, champion, compared, settings.alpha)
    apply(registry, version, decision)
    kept = version if champion is None or decision.decision == "promoted" else champion
    report = {
        "model": name,
        "decision": decision.decision,
        "reason": decision.reason,
        "version": int(version.version),
        "champion": int(kept.version),
        "family": candidate.family,
        "value": candidate.value,
        "accuracy": float(candidate.right.mean()),
        "comparison": None if decision.comparison is None else asdict(decision.comparison),
        "run": candidate.run_id,
        "test_digest": candidate.test_digest,
    }
    write_json(arguments.report, report)
    print(f"{name} version {version.version} ({candidate.family}): {decision.decision}, because {decision.reason}")


if __name__ == "__main__":
    entry.stage(main)
