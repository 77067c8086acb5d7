"""Classifiers: the share of test images that they label right; an exact McNemar test compares two.

Answers count by the name of the class: the numbers of a model are those of the dataset that it learned from, and
classes may have been added or numbered anew since.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import evaluate
from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, TestSplit, nfc
from pipeline.evaluation import base
from pipeline.evaluation.base import Arrays, Comparison, Scored
from pipeline.evaluation.interface import Column, Interface, Pixels
from pipeline.evaluation.labels import Chart, Labels, Line, Shares, Tile, digits, percent

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Summary(evaluate.Summary):
    """The scores of a classifier.

    Attributes:
        accuracy: Share of images labelled right.
        low, high: Wilson interval of the accuracy.
        loss: Mean cross-entropy, in nats.
        recall: By class name, the share of its images that were labelled right.
    """

    task: Literal["classify"]
    accuracy: float
    low: float
    high: float
    loss: float
    recall: dict[str, float]


class Task(base.Task[Summary]):
    """Labels images."""

    noun = "classifier"
    serving: ClassVar[Mapping[str, tuple[str, ...]]] = {"classifier": ("keras",), "neighbours": ("scikit-learn",)}
    summary_type = Summary
    labels = Labels(
        "Leaderboard",
        "Validation accuracy",
        True,
        ("Validation", "Test"),
        (
            Chart("Accuracy", {"training": "accuracy", "validation": "val_accuracy"}, shares=True),
            Chart("Loss", {"training": "loss", "validation": "val_loss"}),
        ),
        "Accuracies; best on validation first, which alone chooses the candidate.",
    )

    def score(self, model: Any, split: TestSplit, features: Path, confidence: float) -> Scored:
        """Score a classifier; keep the true label, the predicted label and the probabilities of each image."""
        del features
        predicted, probabilities = predict(model, split)
        actual = np.asarray(split.test.labels)
        found = figures(predicted, probabilities, split, confidence)
        interval = f"{confidence:.0%} interval {found['low']:.4f} to {found['high']:.4f}"
        return Scored(
            kept={"predicted": predicted, "actual": actual, "probabilities": probabilities.astype(np.float32)},
            figures=found,
            metrics={"accuracy": found["accuracy"], "loss": found["loss"]},
            plots={"confusion.csv": _pairs(actual, predicted, split.class_names).encode()},
            text=f"test accuracy {found['accuracy']:.4f} ({interval})",
            note=_unknown(class_names_of(model, split), split.class_names),
        )

    def key(self, split: TestSplit, features: Path) -> str:
        """Return the digest of test split and class names: labels of other classes do not compare."""
        del features
        return hashlib.sha256(json.dumps([split.digest, *split.class_names]).encode()).hexdigest()

    def compare(self, candidate: Arrays, champion: Arrays, version: str) -> Comparison:
        """Compare which images two classifiers label right; see `compare`."""
        return compare(_right(candidate), _right(champion), version)

    def headline(self, kept: Arrays) -> dict[str, float]:
        """Return the accuracy."""
        return {"accuracy": float(_right(kept).mean())}

    def interface(self, images: Images) -> Interface:
        """Return images in; label, class name and probabilities out."""
        answers = (Column("label", "long"), Column("class_name", "string"), Column("probabilities", "doubles"))
        return Interface(Pixels(images.shape[1:]), answers, images)

    def cells(self, value: float, summary: Summary) -> tuple[str, ...]:
        """Return validation and test accuracy."""
        places = digits(summary.images)
        return percent(value, places), percent(summary.accuracy, places)

    def line(self, value: float, summary: Summary) -> Line:
        """Return both accuracies, and the interval of the test accuracy."""
        return Line(f"{value:.2%}", f"{summary.accuracy:.2%}", f"{summary.low:.2%} to {summary.high:.2%}")

    def tile(self, summary: Summary, version: int, confidence: float) -> Tile:
        """Return the test accuracy with its interval."""
        places = digits(summary.images)
        interval = f"{percent(summary.low, places)} to {percent(summary.high, places)}"
        note = f"{percent(confidence, 0)} interval {interval}, {summary.images:,} images"
        return Tile(f"Test accuracy of version {version}", percent(summary.accuracy, places), note)

    def sentence(self, summary: Summary) -> str:
        """Return the loss."""
        return f"test loss {summary.loss:.4f} nats."

    def shares(self, summary: Summary) -> Shares:
        """Return the accuracy, in all and by class."""
        places = digits(summary.images)
        return Shares(summary.low, summary.accuracy, summary.high, summary.recall, places)


def figures(predicted: Integers, probabilities: Floats, split: TestSplit, confidence: float) -> dict[str, Any]:
    """Return the figures of a `Summary` from predictions and the truth.

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
    by_class = {name: right[actual == label] for label, name in enumerate(split.class_names)}
    return {
        "accuracy": float(right.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "loss": float(-np.log(np.clip(of_truth, 1e-12, None)).mean()),
        "recall": {name: float(of_class.mean()) for name, of_class in by_class.items() if len(of_class)},
    }


def predict(model: Any, split: TestSplit) -> tuple[Integers, Floats]:
    """Return a served model's labels (N,) and probabilities (N, classes) for the test images.

    They are numbered as the classes of the split, whatever their numbers in the model: the names count. The label is -1
    for an answer that is no class of the split.
    """
    answers = model.predict(np.asarray(split.test.images))
    theirs = class_names_of(model, split)
    places = np.array([split.class_names.index(name) if name in split.class_names else -1 for name in theirs])
    given = np.asarray(answers["probabilities"].tolist(), np.float64)
    probabilities = np.zeros((len(given), len(split.class_names)))
    probabilities[:, places[places >= 0]] = given[:, places >= 0]
    return places[answers["label"].to_numpy(np.int64)], probabilities


def class_names_of(model: Any, split: TestSplit) -> tuple[str, ...]:
    """Return the names of a served model's labels 0, 1, …; those of the split for a model that does not state them."""
    config = getattr(model, "model_config", None) or {}
    return tuple(nfc(name) for name in config.get("class_names", split.class_names))


def _unknown(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    """Return a clause about classes that a model does not know; empty if it knows all."""
    missing = [name for name in ours if name not in theirs]
    if not missing:
        return ""
    known = f"it answers {', '.join(map(repr, theirs))}"
    return f"it does not know {', '.join(map(repr, missing))}, so its answers to their images are wrong: {known}"


def compare(candidate: Bools, champion: Bools, version: str) -> Comparison:
    """Compare which images two models label right; arrays of shape (N,) over the same images.

    The test is the exact one-sided McNemar test: how likely so many images that only the candidate labels right are
    under "the candidate is no better".

    Raises:
        DataError: They are not over the same number of images.
    """
    from scipy.stats import binomtest

    if candidate.shape != champion.shape:
        raise DataError("predictions do not pair", expected=f"{candidate.shape[0]} images", found=champion.shape[0])
    wins, losses = int((candidate & ~champion).sum()), int((~candidate & champion).sum())
    test = binomtest(wins, wins + losses, 0.5, alternative="greater") if wins + losses else None
    p_value = 1.0 if test is None else float(test.pvalue)
    text = (
        f"{wins} test images are right only with it, {losses} only with the champion (version {version}): one-sided"
        f" McNemar p = {p_value:.3g}"
    )
    return Comparison(p_value, text, {"candidate_only": wins, "champion_only": losses})


def _right(kept: Arrays) -> Bools:
    right: Bools = kept["predicted"] == kept["actual"]
    return right


def _pairs(actual: Integers, predicted: Integers, names: tuple[str, ...]) -> str:
    """Return the labels that the confusion plot is drawn from."""
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")  # it quotes: a class name may hold a comma
    writer.writerow(evaluate.Pair.model_fields)
    writer.writerows((names[a], names[p] if p >= 0 else "none of them") for a, p in zip(actual, predicted, strict=True))
    return rows.getvalue()
