"""Stage evaluate: score a trained model on the test split, and keep its prediction for every test image.

The model is the one that MLflow would serve, fed the raw images that a caller would send: what is scored is what is
served. Where the champion has no predictions for this very test split, it is scored here, too, so that register can
compare the two image by image.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline import entry, params, runtime
from pipeline.datasets.base import TestSplit, load_test, new_folder, write_json, write_text
from pipeline.errors import DataError
from pipeline.registry import CHAMPION, Registry, load_model, registered_name
from pipeline.tracking import Tracker, log_dataset, predictions_path

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Settings(params.Settings):
    """Section `evaluate` of params.

    Attributes:
        confidence: Coverage of the interval around the accuracy.
    """

    confidence: float = pydantic.Field(default=0.95, gt=0, lt=1)


@dataclass(frozen=True)
class Scores:
    """How a classifier did on a test split.

    Attributes:
        predicted: The predicted label of each image, (N,).
        actual: The true label of each image, (N,).
        accuracy: Share of images labelled right.
        low, high: Wilson interval of the accuracy.
        loss: Mean cross-entropy, in nats.
        recall: By class name, the share of its images that were labelled right.
    """

    predicted: Integers
    actual: Integers
    accuracy: float
    low: float
    high: float
    loss: float
    recall: dict[str, float]


def score(predicted: Integers, probabilities: Floats, split: TestSplit, confidence: float) -> Scores:
    """Compare predictions with the truth.

    Args:
        predicted: Labels, (N,).
        probabilities: Of each class, (N, classes).
        split: The test split.
        confidence: Coverage of the interval.
    """
    from scipy.stats import binomtest

    actual = np.asarray(split.test.labels)
    right = predicted == actual
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(confidence, method="wilson")
    of_truth = probabilities[np.arange(len(actual)), actual]
    return Scores(
        predicted=predicted,
        actual=actual,
        accuracy=float(right.mean()),
        low=float(interval.low),
        high=float(interval.high),
        loss=float(-np.log(np.clip(of_truth, 1e-12, None)).mean()),
        recall={
            name: float(right[actual == label].mean())
            for label, name in enumerate(split.class_names)
            if (actual == label).any()
        },
    )


def predict(model: Any, split: TestSplit) -> tuple[Integers, Floats]:
    """Return a served model's labels (N,) and probabilities (N, classes) for the test images."""
    answers = model.predict(np.asarray(split.test.images))
    return answers["label"].to_numpy(np.int64), np.asarray(answers["probabilities"].tolist(), np.float64)


def score_champion(tracker: Tracker, dataset: str, split: TestSplit) -> str | None:
    """Score the champion on this test split where nobody has yet; return its version if that was so."""
    champion = Registry(tracker).version(registered_name(dataset), CHAMPION)
    if champion is None or tracker.has_artifact(champion.run_id, predictions_path(split.digest)):
        return None
    predicted, probabilities = predict(load_model(f"models:/{champion.name}/{champion.version}"), split)
    keep_on_run(tracker, champion.run_id, predicted, probabilities, split)
    return champion.version


def keep_on_run(tracker: Tracker, run_id: str, predicted: Integers, probabilities: Floats, split: TestSplit) -> None:
    """Store predictions with the run that trained the model, under the digest of the test split."""
    path = Path(predictions_path(split.digest))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        save_predictions(file, predicted, probabilities, split)
        tracker.log_artifacts(run_id, [file], str(path.parent))


def save_predictions(file: Path, predicted: Integers, probabilities: Floats, split: TestSplit) -> None:
    """Write predictions and truth, image by image, as plain arrays."""
    np.savez_compressed(
        file,
        allow_pickle=False,
        predicted=predicted,
        actual=np.asarray(split.test.labels),
        probabilities=probabilities.astype(np.float32),
    )


def load_info(model: Path) -> dict[str, Any]:
    """Return what train wrote about a model.

    Raises:
        DataError: It is missing or damaged.
    """
    try:
        info: dict[str, Any] = json.loads((model / "model.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{model} is no model", expected="model.json", found=str(error), next_step="dvc repro train"
        ) from None
    return info


def save(scores: Scores, split: TestSplit, info: dict[str, Any], report: Path) -> None:
    """Write the figures, and the labels that the confusion plot is drawn from."""
    names = split.class_names
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")  # it quotes: a class name may hold a comma
    writer.writerow(("actual", "predicted"))
    writer.writerows((names[a], names[p]) for a, p in zip(scores.actual, scores.predicted, strict=True))
    write_text(report / "confusion.csv", rows.getvalue())
    write_json(
        report / "summary.json",
        {
            "run": info["run_id"],
            "accuracy": scores.accuracy,
            "low": scores.low,
            "high": scores.high,
            "loss": scores.loss,
            "recall": scores.recall,
            "images": len(scores.actual),
            "test_digest": split.digest,
        },
    )


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--family", required=True)
    parser.add_argument("--test", required=True, type=Path, help="folder of the test split")
    parser.add_argument("--model", required=True, type=Path, help="folder written by train")
    parser.add_argument("--predictions", required=True, type=Path, help="folder for the predictions")
    parser.add_argument("--report", required=True, type=Path, help="folder for the figures")
    arguments = parser.parse_args()
    runtime.configure(runtime.load_settings().backend)
    settings = params.load("evaluate", Settings)
    split, info = load_test(arguments.test), load_info(arguments.model)
    tracker = Tracker(arguments.dataset)
    tracker.require_run(info["run_id"])
    predicted, probabilities = predict(load_model(f"models:/{info['model_id']}"), split)
    scores = score(predicted, probabilities, split, settings.confidence)
    keep_on_run(tracker, info["run_id"], predicted, probabilities, split)
    log_dataset(
        tracker, info["run_id"], f"{arguments.dataset}-test", split.digest, split.test.images, split.test.labels, "test"
    )
    tracker.log_metrics(info["run_id"], {"test_accuracy": scores.accuracy, "test_loss": scores.loss})
    with new_folder(arguments.predictions) as folder:
        save_predictions(folder / "predictions.npz", predicted, probabilities, split)
        (folder / "meta.json").write_text(
            json.dumps({"test_digest": split.digest, "model_id": info["model_id"]}) + "\n"
        )
    save(scores, split, info, arguments.report)
    rescored = score_champion(tracker, arguments.dataset, split)
    print(
        f"{arguments.dataset} {arguments.family}: test accuracy {scores.accuracy:.4f}"
        f" ({settings.confidence:.0%} interval {scores.low:.4f} to {scores.high:.4f}) on {len(scores.actual):,} images"
    )
    if rescored is not None:
        print(f"{registered_name(arguments.dataset)} version {rescored}, the champion, was scored on this test split")


if __name__ == "__main__":
    entry.stage(main)
