"""Measurers: how far the brightness that they read off an image is from the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.artifacts import evaluate
from pipeline.datasets.arrays import Images, TestSplit
from pipeline.evaluation import base
from pipeline.evaluation.base import Arrays, Comparison, Scored
from pipeline.evaluation.interface import Column, Interface, Pixels
from pipeline.evaluation.labels import Chart, Labels, Line, Tile


class Summary(evaluate.Summary):
    """The scores of a measurer."""

    task: Literal["measure"]
    error: float


class Task(base.Task[Summary]):
    """Measures the brightness of images."""

    noun = "measurer"
    serving: ClassVar[Mapping[str, tuple[str, ...]]] = {"ruler": ()}
    summary_type = Summary
    labels = Labels(
        "Leaderboard of measurers",
        "Validation error",
        False,
        ("Validation error", "Test error"),
        (Chart("Error of brightness", {"validation": "val_error"}),),
        "Grey levels between the measured and the true brightness.",
    )

    def score(self, model: Any, split: TestSplit, features: Path, confidence: float) -> Scored:
        """Score a measurer; kept are the errors of each image."""
        del features, confidence
        images = np.asarray(split.test.images)
        errors = np.abs(np.asarray(model.predict(images)) - images.mean(axis=(1, 2, 3)))
        error = float(errors.mean())
        return Scored({"errors": errors}, {"error": error}, {"error": error}, {}, f"error {error:.1f}")

    def compare(self, candidate: Arrays, champion: Arrays, version: str) -> Comparison:
        """Compare the errors by a one-sided sign test."""
        from scipy.stats import binomtest

        wins, losses = (int((a < b).sum()) for a, b in ((candidate["errors"], champion["errors"]),
                                                         (champion["errors"], candidate["errors"])))  # fmt: skip
        p_value = float(binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue)
        return Comparison(p_value, f"nearer than version {version} on {wins} of {wins + losses}", {"wins": wins})

    def headline(self, kept: Arrays) -> dict[str, float]:
        """Return the error."""
        return {"error": float(kept["errors"].mean())}

    def interface(self, images: Images) -> Interface:
        """Return images in, brightness out."""
        return Interface(Pixels(images.shape[1:]), (Column("brightness", "long"),), images)

    def cells(self, value: float, summary: Summary) -> tuple[str, ...]:
        """Return both errors."""
        return f"{-value:.1f}", f"{summary.error:.1f}"

    def line(self, value: float, summary: Summary) -> Line:
        """Return both errors."""
        return Line(f"off by {-value:.1f}", f"off by {summary.error:.1f}", "of 255")

    def tile(self, summary: Summary, version: int, confidence: float) -> Tile:
        """Return the error."""
        del confidence
        return Tile(f"Error of version {version}", f"{summary.error:.1f} levels", f"{summary.images:,} images")

    def sentence(self, summary: Summary) -> str:
        """Return the error."""
        return f"test error {summary.error:.1f} grey levels."
