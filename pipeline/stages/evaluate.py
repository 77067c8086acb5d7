"""Stage evaluate: score a trained model on the test split, and keep its answers, image by image.

The model is the one that MLflow would serve, fed what a caller would send: what is scored is what is served. How it
is scored depends on what it is for: see `pipeline.evaluation`. Where the champion of that task has no answers kept for
this very test split, it is scored here, too, so that register can compare the two.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from pipeline.artifacts import base as artifacts
from pipeline.artifacts.evaluate import Predictions
from pipeline.artifacts.train import Model
from pipeline.backend import configure
from pipeline.core import names, params, process
from pipeline.core.files import new_folder
from pipeline.datasets.arrays import TestSplit, load_test
from pipeline.evaluation import base as scores
from pipeline.registry.versions import CHAMPION, Registry, load_model
from pipeline.tracking.runs import Tracker, log_dataset, predictions_path


class EvaluateSettings(params.Settings):
    """Section `evaluate` of params.

    Attributes:
        confidence: Coverage of the interval around the accuracy.
    """

    confidence: float = pydantic.Field(gt=0, lt=1)


def score_champion(
    tracker: Tracker, name: str, task: scores.Task[Any], split: TestSplit, features: Path, confidence: float
) -> str | None:
    """Score the champion on this test split where nobody has yet; return its version if that was so."""
    champion = Registry(tracker).version(name, CHAMPION)
    key = task.key(split, features)
    if champion is None or tracker.has_artifact(champion.run_id, predictions_path(key)):
        return None
    model = load_model(f"models:/{champion.name}/{champion.version}")
    keep_on_run(tracker, champion.run_id, key, task.score(model, split, features, confidence).kept)
    return champion.version


def keep_on_run(tracker: Tracker, run_id: str, key: str, kept: scores.Arrays) -> None:
    """Store a model's answers with the run that trained it, under what figures must share to compare."""
    path = Path(predictions_path(key))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        np.savez_compressed(file, allow_pickle=False, **kept)
        tracker.log_artifacts(run_id, [file], str(path.parent))


def save(task: scores.Task[Any], scored: scores.Scored, split: TestSplit, trained: Model, report: Path) -> None:
    """Write the figures, and what plots are drawn from."""
    with new_folder(report / "plots") as folder:
        for name, content in scored.plots.items():
            (folder / name).write_bytes(content)
    identity = {"run": trained.run_id, "task": trained.task, "images": len(split.test), "test_digest": split.digest}
    artifacts.write(report / "summary.json", task.summary_type.model_validate({**identity, **scored.figures}))


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.evaluate", description=__doc__)
    parser.add_argument("--dataset", required=True, type=names.dataset)
    parser.add_argument("--family", required=True, type=names.family)
    parser.add_argument("--test", required=True, type=Path, help="folder of the test split")
    parser.add_argument("--features", required=True, type=Path, help="folder written by features")
    parser.add_argument("--model", required=True, type=Path, help="folder written by train")
    parser.add_argument("--predictions", required=True, type=Path, help="folder for the answers")
    parser.add_argument("--report", required=True, type=Path, help="folder for the figures")
    arguments = parser.parse_args()
    configure.configure(configure.load_settings().backend)
    settings = params.load("evaluate", EvaluateSettings)
    split = load_test(arguments.test)
    trained = artifacts.read_json(arguments.model / "model.json", Model, "train")
    task, run_id = scores.load(trained.task), trained.run_id
    tracker = Tracker(arguments.dataset)
    tracker.require_run(run_id)
    model, key = load_model(f"models:/{trained.model_id}"), task.key(split, arguments.features)
    scored = task.score(model, split, arguments.features, settings.confidence)
    keep_on_run(tracker, run_id, key, scored.kept)
    log_dataset(
        tracker, run_id, f"{arguments.dataset}-test", split.digest, split.test.images, split.test.labels, "test"
    )
    tracker.log_metrics(run_id, {f"test_{name}": value for name, value in scored.metrics.items()})
    with new_folder(arguments.predictions) as folder:
        np.savez_compressed(folder / "predictions.npz", allow_pickle=False, **scored.kept)
        artifacts.write(folder / "meta.json", Predictions(key=key, model_id=trained.model_id), indent=None)
    save(task, scored, split, trained, arguments.report)
    print(f"{arguments.dataset} {arguments.family}: {scored.text} on {len(split.test):,} images")
    name = task.registered_name(arguments.dataset)
    rescored = score_champion(tracker, name, task, split, arguments.features, settings.confidence)
    if rescored is not None:
        print(f"{name} version {rescored}, the champion, was scored on this test split")


if __name__ == "__main__":
    process.stage(main)
