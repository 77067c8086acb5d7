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

_PERMUTATIONS = 999

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
        majority: Share of the largest class: the accuracy of answering it always. None in files of earlier releases.
        balanced: Mean of the recall of all classes.
        never: Classes that test images have, and that the classifier never answers.
    """

    task: Literal["classify"]
    accuracy: float
    low: float
    high: float
    loss: float
    recall: dict[str, float]
    majority: float | None = None
    balanced: float | None = None
    never: tuple[str, ...] = ()


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
            metrics={
                "accuracy": found["accuracy"],
                "loss": found["loss"],
                "balanced_accuracy": found["balanced"],
                "majority_share": found["majority"],
            },
            plots={"confusion.csv": _pairs(actual, predicted, split.class_names).encode()},
            text=(
                f"test accuracy {found['accuracy']:.4f} ({interval}; {found['majority']:.4f} by always answering the"
                f" largest class; balanced {found['balanced']:.4f})"
            ),
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
        """Return the accuracy, the mean recall of the classes, and the share of the largest class."""
        counts = np.unique(kept["actual"], return_counts=True)[1]
        return {
            "accuracy": float(_right(kept).mean()),
            "balanced_accuracy": balanced(kept),
            "majority_share": float(counts.max() / counts.sum()),
        }

    def beside(self, kept: Arrays) -> str:
        """Return the accuracy, that of always answering the largest class, and the mean recall of the classes."""
        found = self.headline(kept)
        return (
            f"test accuracy {found['accuracy']:.4f}, {found['majority_share']:.4f} by always answering the largest"
            f" class; balanced {found['balanced_accuracy']:.4f}"
        )

    def never_predicted(self, summary: Summary) -> tuple[str, ...]:
        """Return the names of the classes that a classifier never answers though test images have them."""
        return summary.never

    def against_chance(self, kept: Arrays) -> Comparison | None:
        """Compare the balanced accuracy with 1/k, that of answers made without looking, by an exact test."""
        classes = len(np.unique(kept["actual"]))
        if classes < 2:
            return None  # every answer without looking is right or wrong for all
        p_value = chance(kept)
        text = (
            f"its balanced accuracy is {balanced(kept):.4f}, by chance 1/{classes}: one-sided exact p = {p_value:.3g}"
        )
        return Comparison(p_value, text)

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
        beside = f" / {summary.majority:.0%}" if summary.majority is not None else ""
        interval = f"{summary.low:.2%} to {summary.high:.2%}"
        return Line(f"{value:.2%}", f"{summary.accuracy:.2%}", f"{interval}{beside}")

    def tile(self, summary: Summary, version: int, confidence: float) -> Tile:
        """Return the test accuracy with its interval."""
        places = digits(summary.images)
        interval = f"{percent(summary.low, places)} to {percent(summary.high, places)}"
        note = f"{percent(confidence, 0)} interval {interval}, {summary.images:,} images"
        if summary.majority is not None:
            note += f"; {percent(summary.majority, places)} by always answering the largest class"
        return Tile(f"Test accuracy of version {version}", percent(summary.accuracy, places), note)

    def sentence(self, summary: Summary) -> str:
        """Return the loss, and the accuracies to compare with."""
        if summary.majority is None or summary.balanced is None:
            return f"test loss {summary.loss:.4f} nats."
        places = digits(summary.images)
        return (
            f"test loss {summary.loss:.4f} nats; mean of the classes' accuracies {percent(summary.balanced, places)};"
            f" always answering the largest class gets {percent(summary.majority, places)}."
        )

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
    recall = {name: float(of_class.mean()) for name, of_class in by_class.items() if len(of_class)}
    answered = set(np.unique(predicted).tolist())
    return {
        "accuracy": float(right.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "loss": float(-np.log(np.clip(of_truth, 1e-12, None)).mean()),
        "recall": recall,
        "majority": float(max(len(of_class) for of_class in by_class.values()) / len(right)),
        "balanced": float(np.mean(list(recall.values()))),
        "never": tuple(name for name in recall if split.class_names.index(name) not in answered),
    }


def balanced(kept: Arrays) -> float:
    """Return the mean recall of the classes that the test images have."""
    right, actual = _right(kept), kept["actual"]
    return float(np.mean([right[actual == label].mean() for label in np.unique(actual)]))


def chance(kept: Arrays) -> float:
    """Return how likely so high a balanced accuracy is if answers do not depend on the images.

    The test is exact: Fisher's for two classes, and the permutation test with 999 permutations for more.
    """
    from scipy.stats import fisher_exact

    actual, predicted = kept["actual"], kept["predicted"]
    labels, truth = np.unique(actual, return_inverse=True)
    if len(labels) == 2:
        table = [[int(((truth == row) & (predicted == label)).sum()) for label in labels] for row in (0, 1)]
        if np.isin(predicted, labels).all():
            return float(fisher_exact(table, alternative="greater").pvalue)
    weight = 1 / np.bincount(truth)
    generator = np.random.default_rng(0)
    answered = np.searchsorted(labels, predicted).clip(0, len(labels) - 1)
    answered[labels[answered] != predicted] = -1
    observed = weight[truth][answered == truth].sum()
    reached = 0
    for _ in range(_PERMUTATIONS):
        shuffled = generator.permutation(truth)
        reached += weight[shuffled][answered == shuffled].sum() >= observed - 1e-9
    return (reached + 1) / (_PERMUTATIONS + 1)


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
