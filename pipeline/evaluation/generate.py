"""Generators: how far their images are from the test images, in network features; a paired bootstrap compares two.

Beside every figure stands the floor: what as many training images score against the same test images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import evaluate
from pipeline.core.errors import DataError
from pipeline.datasets.arrays import Images, TestSplit
from pipeline.evaluation import base, feature_network, generative_metrics, image_grid
from pipeline.evaluation.base import Arrays, Comparison, Scored
from pipeline.evaluation.interface import Column, Interface, Pixels
from pipeline.evaluation.labels import Chart, Labels, Line, Tile, percent

_MOST = 5_000  # test images that are compared: FID has settled, and a resample takes a twentieth of a second
_RESAMPLES = 200  # with 200, a p value of 0.05 is met or missed by ten
_ROWS = 10  # of the picture
_NEAR = 0.01  # share of test images that are nearer to a training image than `near`


class Summary(evaluate.Summary):
    """The scores of a generator, and those of real images in its place."""

    task: Literal["generate"]
    fid: float
    kid: float
    floor_fid: float
    floor_kid: float
    memorised: float
    nearest: float
    nearest_real: float
    covered: int
    classes: int
    features: str


class Task(base.Task[Summary]):
    """Generates new images."""

    noun = "generator"
    serving: ClassVar[Mapping[str, tuple[str, ...]]] = {"generator": ("keras",)}
    summary_type = Summary
    picture = "samples.png"
    labels = Labels(
        "Leaderboard of generators",
        "Validation FID",
        False,
        ("Validation FID", "Test FID", "real", "Test KID", "real", "Classes drawn", "Memorised"),
        (
            Chart("FID", {"generated": "val_fid", "real": "floor_fid"}),
            Chart("Losses", {"discriminator": "discriminator_loss", "generator": "generator_loss"}),
        ),
        "FID and KID are distances to real images, the lower the better, in the features of a network that was trained"
        " on the training split; beside them, as real, stands what as many training images score. Memorised: the share"
        " of generated images that are nearer to a training image than all but 1 % of test images are.",
    )

    def score(self, model: Any, split: TestSplit, features: Path, confidence: float) -> Scored:
        """Score a generator; keep the features of generated and of test images."""
        del confidence
        fixed = feature_network.load(features)
        chosen = np.sort(np.random.default_rng(0).permutation(len(split.test))[:_MOST])
        test = split.test.take(chosen)
        drawn = draw(model, np.bincount(test.labels, minlength=len(split.class_names)))
        seen, real = fixed.embed(drawn), fixed.embed(test.images)
        figures = {**_distances(seen.features, real.features, fixed), **_memory(seen.features, real.features, fixed)}
        classes = generative_metrics.covered(seen.classes, real.classes, fixed.classes)
        return Scored(
            kept={"features": seen.features, "real": real.features},
            figures={**figures, "covered": classes, "classes": fixed.classes, "features": fixed.digest},
            metrics={**figures, "coverage": classes / fixed.classes},
            plots={"samples.png": image_grid.sheet(_by_class(model, len(split.class_names)), len(split.class_names))},
            text=(
                f"FID {figures['fid']:.3f} (real images {figures['floor_fid']:.3f}), KID {figures['kid']:.4f}"
                f" ({figures['floor_kid']:.4f}), {classes} of {fixed.classes} classes drawn"
            ),
        )

    def compare(self, candidate: Arrays, champion: Arrays, version: str) -> Comparison:
        """Compare the FIDs of two generators against the same test images, by a paired bootstrap.

        Each resample draws test images, the same ones for both, and samples of each generator: the p value is the share
        of resamples in which the candidate is not nearer. A margin would have to be chosen per dataset; this one comes
        from how much FID moves with the images that it is taken over.
        """
        real = candidate["real"]
        if not np.array_equal(real, champion["real"]):
            raise DataError(
                "generators do not compare",
                expected="the same test images and feature network",
                found="others",
                next_step="dvc repro --force evaluate",
            )
        ours, theirs = (generative_metrics.fid(of["features"], real) for of in (candidate, champion))
        lost = sum(_not_nearer(candidate["features"], champion["features"], real, seed) for seed in range(_RESAMPLES))
        p_value = (lost + 1) / (_RESAMPLES + 1)
        text = (
            f"its FID is {ours:.3f}, that of the champion (version {version}) {theirs:.3f}: bootstrap p = {p_value:.3g}"
        )
        return Comparison(p_value, text, {"candidate_fid": ours, "champion_fid": theirs})

    def headline(self, kept: Arrays) -> dict[str, float]:
        """Return FID and KID."""
        return {
            "fid": generative_metrics.fid(kept["features"], kept["real"]),
            "kid": generative_metrics.kid(kept["features"], kept["real"]),
        }

    def interface(self, images: Images) -> Interface:
        """Return rows of number, seed and label in, images out."""
        import pandas as pd

        columns = (Column("n", "long"), Column("seed", "long"), Column("label", "long", required=False))
        example = pd.DataFrame({"n": [len(images)], "seed": [0], "label": [-1]})
        return Interface(columns, Pixels(images.shape[1:]), example)

    def cells(self, value: float, summary: Summary) -> tuple[str, ...]:
        """Return FID and KID with those of real images, classes drawn and the share of memorised images."""
        return (
            f"{-value:.2f}",
            f"{summary.fid:.2f}",
            f"{summary.floor_fid:.2f}",
            f"{summary.kid:.4f}",
            f"{summary.floor_kid:.4f}",
            f"{summary.covered} of {summary.classes}",
            percent(summary.memorised, 1),
        )

    def line(self, value: float, summary: Summary) -> Line:
        """Return both FIDs, and that of real images."""
        return Line(f"FID {-value:.2f}", f"FID {summary.fid:.2f}", f"real images {summary.floor_fid:.2f}")

    def tile(self, summary: Summary, version: int, confidence: float) -> Tile:
        """Return the FID, with that of real images."""
        del confidence
        drawn = f"{summary.covered} of {summary.classes} classes drawn"
        note = f"real images {summary.floor_fid:.2f}, {drawn}, {summary.images:,} images"
        return Tile(f"Test FID of version {version}", f"{summary.fid:.2f}", note)

    def sentence(self, summary: Summary) -> str:
        """Return FID and KID with those of real images, and the feature network."""
        return (
            f"test FID {summary.fid:.3f} (real images {summary.floor_fid:.3f}), KID {summary.kid:.4f}"
            f" ({summary.floor_kid:.4f}), in features {summary.features[:12]}."
        )

    def key(self, split: TestSplit, features: Path) -> str:
        """Return the digest of test split and feature network: figures of two networks do not compare."""
        network = json.loads((features / "scale.json").read_text(encoding="utf-8"))
        return hashlib.sha256(f"{split.digest} {network['digest']}".encode()).hexdigest()


def draw(model: Any, counts: npt.NDArray[np.int64]) -> Images:
    """Return images of a served generator: the requested number of each class, always the same."""
    import pandas as pd

    labels = np.arange(len(counts))
    images: Images = np.asarray(model.predict(pd.DataFrame({"n": counts, "seed": labels, "label": labels})))
    return images


def _by_class(model: Any, classes: int) -> Images:
    """Return images for a picture: one class per column."""
    images = draw(model, np.full(classes, _ROWS))
    return images.reshape(classes, _ROWS, *images.shape[1:]).swapaxes(0, 1).reshape(images.shape)


def _distances(
    drawn: feature_network.Features, real: feature_network.Features, fixed: feature_network.FeatureNetwork
) -> dict[str, float]:
    some = np.random.default_rng(1).permutation(len(fixed.train.features))[: len(real)]
    others = fixed.train.features[some]
    return {
        "fid": generative_metrics.fid(drawn, real),
        "kid": generative_metrics.kid(drawn, real),
        "floor_fid": generative_metrics.fid(others, real),
        "floor_kid": generative_metrics.kid(others, real),
    }


def _memory(
    drawn: feature_network.Features, real: feature_network.Features, fixed: feature_network.FeatureNetwork
) -> dict[str, float]:
    """Return signs of memorised images: how near to training images generated ones are, and test images.

    ``memorised`` is the share of generated images that are nearer to one than all but a hundredth of the test images:
    a hundredth is what new images have. ``nearest`` and ``nearest_real`` are median distances.
    """
    ours, theirs = (generative_metrics.nearest(of, fixed.train.features) for of in (drawn, real))
    return {
        "memorised": float((ours < np.quantile(theirs, _NEAR)).mean()),
        "nearest": float(np.median(ours)),
        "nearest_real": float(np.median(theirs)),
    }


def _not_nearer(
    candidate: feature_network.Features, champion: feature_network.Features, real: feature_network.Features, seed: int
) -> bool:
    random = np.random.default_rng(seed)

    def resampled(features: feature_network.Features) -> generative_metrics.Moments:
        return generative_metrics.Moments.of(features[random.integers(0, len(features), len(features))])

    of_real = resampled(real)
    return generative_metrics.fid(resampled(candidate), of_real) >= generative_metrics.fid(resampled(champion), of_real)
