"""Stage evaluate: score a trained model on the test split, and store its predictions, image by image.

The model is loaded as MLflow serves it and gets the inputs that a caller would send, so that what is scored is what is
served. Its task decides how it is scored: see `pipeline.evaluation`. The task's champion is scored, too, where it has
no stored predictions for this test split, so that register can compare the two. A champion that is not of this project
ends the stage before any model is loaded; one that cannot be used is reported, and does not compete.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.evaluate import Predictions, Summary
from pipeline.artifacts.train import Model
from pipeline.backend import configure
from pipeline.core import names, params, process
from pipeline.core.files import new_folder
from pipeline.datasets.arrays import TestSplit, load_test
from pipeline.evaluation import base as scores
from pipeline.registry import champions, loading
from pipeline.registry.settings import RegisterSettings
from pipeline.registry.versions import Registry
from pipeline.tracking.runs import Tracker, log_dataset, predictions_path


class EvaluateSettings(params.Settings):
    """Section `evaluate` of params.

    Attributes:
        confidence: Coverage of the interval around the accuracy.
    """

    confidence: float = pydantic.Field(gt=0, le=0.999_999)  # at 1, the interval is infinite


NEVER_PREDICTED = "pipeline.never_predicted"  # tag of a run: classes with test images that its model never answers


@dataclass(frozen=True)
class Scorer:
    """What scores models of a task on a test split."""

    task: scores.Task[Any]
    split: TestSplit
    features: Path
    confidence: float

    def score(self, model: Any) -> scores.Scored:
        """Score a model, as MLflow serves it."""
        return self.task.score(model, self.split, self.features, self.confidence)

    def key(self) -> str:
        """Return the key of comparable figures; see `Task.key`."""
        return self.task.key(self.split, self.features)


def score_champion(tracker: Tracker, name: str, scorer: Scorer) -> str:
    """Score the champion of a registered model where it has no predictions for the test split.

    Returns:
        The result as a line; empty if there was nothing to do.
    """
    registry = Registry(tracker)
    standing = champions.standing(registry, name)
    champion, key = standing.version, scorer.key()
    if standing.fault:
        return standing.fault
    if champion is None or tracker.has_artifact(champion.run_id, predictions_path(key)):
        return ""
    try:
        scored = loading.use(champion, scorer.score)
    except loading.UnusableChampionError as error:
        registry.tag_version(champion, {champions.UNUSABLE: str(error)})
        return str(error)
    keep_on_run(tracker, champion.run_id, key, scored.kept)
    registry.untag_version(champion, champions.UNUSABLE)
    note = f"; {scored.note}" if scored.note else ""
    return f"{name} version {champion.version}, the champion, was scored on this test split{note}"


def keep_on_run(tracker: Tracker, run_id: str, key: str, kept: scores.Arrays) -> None:
    """Store a model's predictions with the run that trained it, under the key of comparable figures."""
    path = Path(predictions_path(key))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        np.savez_compressed(file, allow_pickle=False, **kept)
        tracker.log_artifacts(run_id, [file], str(path.parent))


def save(task: scores.Task[Any], scored: scores.Scored, split: TestSplit, trained: Model, report: Path) -> Summary:
    """Write the figures and the data of the plots, and return the figures."""
    with new_folder(report / "plots") as folder:
        for name, content in scored.plots.items():
            (folder / name).write_bytes(content)
    identity = {"run": trained.run_id, "task": trained.task, "images": len(split.test), "test_digest": split.digest}
    summary: Summary = task.summary_type.model_validate({**identity, **scored.figures})
    artifacts.write(report / "summary.json", summary)
    return summary


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.evaluate", description=__doc__)
    parser.add_argument("--dataset", required=True, type=names.dataset)
    parser.add_argument("--family", required=True, type=names.family)
    parser.add_argument("--test", required=True, type=Path, help="folder of the test split")
    parser.add_argument("--features", required=True, type=Path, help="folder written by features")
    parser.add_argument("--model", required=True, type=Path, help="folder written by train")
    parser.add_argument("--predictions", required=True, type=Path, help="folder for the predictions")
    parser.add_argument("--report", required=True, type=Path, help="folder for the figures")
    arguments = parser.parse_args()
    configure.configure(configure.load_settings().backend)
    settings = params.load("evaluate", EvaluateSettings)
    split = load_test(arguments.test)
    trained = artifacts.read_json(arguments.model / "model.json", Model, "train")
    task, run_id = scores.load(trained.task), trained.run_id
    registered = task.registered_name(arguments.dataset, params.load("register", RegisterSettings).prefix)
    tracker = Tracker(arguments.dataset)
    tracker.require_model(run_id, trained.model_id, arguments.family)
    champions.standing(Registry(tracker), registered)  # a foreign champion ends the stage before anything is loaded
    scorer = Scorer(task, split, arguments.features, settings.confidence)
    scored, key = scorer.score(loading.load_model(f"models:/{trained.model_id}")), scorer.key()
    keep_on_run(tracker, run_id, key, scored.kept)
    log_dataset(
        tracker, run_id, f"{arguments.dataset}-test", split.digest, split.test.images, split.test.labels, "test"
    )
    tracker.log_metrics(run_id, {f"test_{name}": value for name, value in scored.metrics.items()})
    with new_folder(arguments.predictions) as folder:
        np.savez_compressed(folder / "predictions.npz", allow_pickle=False, **scored.kept)
        artifacts.write(folder / "meta.json", Predictions(key=key, model_id=trained.model_id), indent=None)
    summary = save(task, scored, split, trained, arguments.report)
    print(f"{arguments.dataset} {arguments.family}: {scored.text} on {len(split.test):,} images")
    never = task.never_predicted(summary)
    tracker.tag(run_id, {NEVER_PREDICTED: ", ".join(never) or "none"})
    for name in never:
        print(f"warning: {arguments.dataset} {arguments.family}: class {name!r} is never predicted: recall 0 %")
    if line := score_champion(tracker, registered, scorer):
        print(line)


if __name__ == "__main__":
    process.stage(main)
