"""Completers: the squared error of the lower halves that they add; a paired t-test over images compares two.

Beside it stands the error of repeating the last row that is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, TestSplit
from pipeline.evaluation import base, image_grid
from pipeline.evaluation.base import Arrays, Comparison, Scored

_SHOWN = 20  # images in the picture, each above what was made of its upper half


class Task(base.Task):
    """Completes images of which the upper half is known."""

    def score(self, model: Any, split: TestSplit, features: Path, confidence: float) -> Scored:
        """Score a completer; kept is the mean squared error of each image, in units of the whole range of a pixel."""
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
            told=f"squared error {mse:.5f}, {mse / figures['baseline_mse']:.0%} of that of repeating the last row",
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
        told = (
            f"its squared error is {mses['candidate_mse']:.5f}, that of the champion (version {version})"
            f" {mses['champion_mse']:.5f}: one-sided paired t-test p = {p_value:.3g}"
        )
        return Comparison(p_value, told, mses)

    def headline(self, kept: Arrays) -> dict[str, float]:
        """Return the mean squared error."""
        return {"mse": float(kept["errors"].mean())}


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
