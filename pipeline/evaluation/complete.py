"""Completers: the squared error of the lower halves that they add; a paired t-test over images compares two.

Beside it stands the error of repeating the last row that is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import evaluate
from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, TestSplit
from pipeline.evaluation import base, image_grid
from pipeline.evaluation.base import Arrays, Comparison, Scored
from pipeline.evaluation.interface import Interface, Pixels
from pipeline.evaluation.labels import Chart, Labels, Line, Tile

_SHOWN = 20  # images in the picture, each above what was made of its upper half


class Summary(evaluate.Summary):
    """The scores of a completer, and that of repeating the last row in its place."""

    task: Literal["complete"]
    mse: float
    low: float
    high: float
    baseline_mse: float


class Task(base.Task[Summary]):
    """Completes images of which the upper half is known."""

    noun = "completer"
    serving: ClassVar[Mapping[str, tuple[str, ...]]] = {"completer": ("keras",)}
    summary_type = Summary
    picture = "samples.png"
    labels = Labels(
        "Leaderboard of completers",
        "Validation squared error",
        False,
        ("Validation error", "Test error", "Interval", "Repeating the last row"),
        (Chart("Squared error", {"training": "loss", "validation": "val_mse"}),),
        "Mean squared errors of the lower half of images, pixels from 0 to 1.",
    )

    def score(self, model: Any, split: TestSplit, features: Path, confidence: float) -> Scored:
        """Score a completer; keep the mean squared error of each image, in units of the whole range of a pixel."""
        del features
        from scipy.stats import norm

        images = np.asarray(split.test.images)
        known = images.shape[1] // 2
        completed = np.asarray(model.predict(images[:, :known]))
        errors = squared_errors(completed, images)
        baseline = squared_errors(repeated(images), images)
        mse, around = float(errors.mean()), float(errors.std() / np.sqrt(len(errors)) * norm.ppf(0.5 + confidence / 2))
        figures = {
            "mse": mse,
            "low": mse - around,
            "high": mse + around,
            "baseline_mse": float(baseline.mean()),
        }
        shown = np.concatenate([images[:_SHOWN], completed[:_SHOWN]])
        return Scored(
            kept={"errors": errors},
            figures=figures,
            metrics={"mse": mse, "baseline_mse": figures["baseline_mse"]},
            plots={"samples.png": image_grid.sheet(shown, _SHOWN)},
            text=f"squared error {mse:.5f}, {mse / figures['baseline_mse']:.0%} of that of repeating the last row",
        )

    def compare(self, candidate: Arrays, champion: Arrays, version: str) -> Comparison:
        """Compare the errors of two completers image by image, by a one-sided paired t-test."""
        from scipy.stats import ttest_rel

        ours, theirs = candidate["errors"], champion["errors"]
        if ours.shape != theirs.shape:
            raise DataError("errors do not pair", expected=f"{len(ours)} images", found=len(theirs))
        same = np.array_equal(ours, theirs)
        p_value = 1.0 if same else float(ttest_rel(ours, theirs, alternative="less").pvalue)
        mses = {"candidate_mse": float(ours.mean()), "champion_mse": float(theirs.mean())}
        text = (
            f"its squared error is {mses['candidate_mse']:.5f}, that of the champion (version {version})"
            f" {mses['champion_mse']:.5f}: one-sided paired t-test p = {p_value:.3g}"
        )
        return Comparison(p_value, text, mses)

    def headline(self, kept: Arrays) -> dict[str, float]:
        """Return the mean squared error."""
        return {"mse": float(kept["errors"].mean())}

    def interface(self, images: Images) -> Interface:
        """Return upper halves in, whole images out."""
        upper = images[:, : images.shape[1] // 2]
        return Interface(Pixels(upper.shape[1:]), Pixels(images.shape[1:]), upper)

    def cells(self, value: float, summary: Summary) -> tuple[str, ...]:
        """Return the squared errors on validation and test, the interval, and the error of the baseline."""
        interval = f"{summary.low:.5f} to {summary.high:.5f}"
        return f"{-value:.5f}", f"{summary.mse:.5f}", interval, f"{summary.baseline_mse:.5f}"

    def line(self, value: float, summary: Summary) -> Line:
        """Return both squared errors, and that of the baseline."""
        return Line(f"MSE {-value:.4f}", f"MSE {summary.mse:.4f}", f"last row {summary.baseline_mse:.4f}")

    def tile(self, summary: Summary, version: int, confidence: float) -> Tile:
        """Return the squared error, with that of the baseline."""
        del confidence
        note = f"repeating the last row {summary.baseline_mse:.4f}, {summary.images:,} images"
        return Tile(f"Test squared error of version {version}", f"{summary.mse:.4f}", note)

    def sentence(self, summary: Summary) -> str:
        """Return the squared error, and that of the baseline."""
        return f"test squared error {summary.mse:.5f}, of repeating the last row {summary.baseline_mse:.5f}."


def squared_errors(completed: Images, images: Images) -> npt.NDArray[np.float64]:
    """Return the mean squared error over the lower half of each image, (N,), pixels from 0 to 1."""
    known = images.shape[1] // 2
    apart = (completed[:, known:].astype(np.float32) - images[:, known:]) / 255
    errors: npt.NDArray[np.float64] = np.square(apart).mean(axis=(1, 2, 3), dtype=np.float64)
    return errors


def repeated(images: Images) -> Images:
    """Return images whose lower half repeats the last row of the upper one."""
    known = images.shape[1] // 2
    lower = np.repeat(images[:, known - 1 : known], images.shape[1] - known, axis=1)
    return np.concatenate([images[:, :known], lower], axis=1)
