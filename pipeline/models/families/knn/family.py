"""Nearest neighbours on pixels: the floor that every other family has to beat.

How many neighbours vote is not left to the search: one pass over the distances scores every number at once, by
cross-validation on the training images alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline.datasets.arrays import Images, Labelled, Labels, Splits
from pipeline.models.base import BaseFamily, FamilySettings, Fitted, OnEpoch, Span
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.space import Choice, Space
from pipeline.models.values import Hyperparameters, word

Floats = npt.NDArray[np.float32]
Votes = npt.NDArray[np.int32]

_METRICS = {"l1": "manhattan", "l2": "euclidean"}
_MANY = 1_000_000  # of neighbours or folds: more is a mistake
_Count = Annotated[int, pydantic.Field(ge=1, le=_MANY)]


class NeighboursSettings(FamilySettings):
    """The family's section of params.

    Attributes:
        neighbours: The numbers of neighbours that cross-validation chooses from.
        folds: Number of folds of cross-validation; each in turn is held out.
        fold_images: Training images that cross-validation uses, all folds together.
        images: By metric, how many training images are kept to be neighbours; 0: all. L1 costs a subtraction for every
            pair of pixels, L2 a matrix product: measured on one busy core, 0.5 and 6 billion of them a second.
    """

    neighbours: Annotated[tuple[_Count, ...], pydantic.Field(min_length=1)] = (1, 3, 5, 7, 10, 20, 50)
    folds: int = pydantic.Field(default=5, ge=2, le=_MANY)
    fold_images: int = pydantic.Field(default=5_000, ge=10)
    images: Mapping[Literal["l1", "l2"], Annotated[int, pydantic.Field(ge=0)]] = {"l1": 10_000, "l2": 0}


@dataclass(frozen=True)
class Score:
    """Share of images labelled right, and mean cross-entropy in nats."""

    accuracy: float
    loss: float


@dataclass(frozen=True)
class Neighbours(Fitted):
    """The images that vote, as uint8 (N, H, W, C), their labels (N,), and how."""

    known: Labelled
    metric: str
    k: int
    classes: int

    def save_state(self, path: Path) -> None:
        """Write a state without weights: training ends after one epoch, so nothing resumes from it."""
        np.savez(path, k=self.k)

    def export(self, folder: Path) -> None:
        """Write ``model.npz``."""
        vote = {"metric": np.array(_METRICS[self.metric]), "votes": np.array(self.k)}
        np.savez(folder / "model.npz", allow_pickle=False, images=self.known.images, labels=self.known.labels, **vote)

    def answer(self, images: Images) -> object:
        """Return the labels of the images."""
        return votes(self.known, images, self.metric, [self.k], self.classes)[self.k].argmax(axis=1)


class Family(BaseFamily):
    """The majority among the nearest training images decides; of equals, the class that comes first."""

    Settings: ClassVar[type[FamilySettings]] = NeighboursSettings
    settings: NeighboursSettings
    space: ClassVar[Space] = {"metric": Choice(choices=("l2", "l1"))}
    serving: ClassVar[str] = "neighbours"

    def fit(
        self,
        hyperparameters: Hyperparameters,
        data: Splits,
        span: Span,
        *,
        seed: int,
        state: Path | None,
        on_epoch: OnEpoch,
    ) -> Fitted:
        """Choose the number of neighbours and score it on validation, in one epoch, which is the last."""
        del span, state
        started = time.monotonic()
        metric = word(hyperparameters, "metric")
        order = np.random.default_rng(seed).permutation(len(data.train))
        used = order[: self.settings.fold_images]
        folds = _folds(used, data.train.groups, self.settings.folds)
        scores = self._cross_validate(data.train, folds, metric, len(data.class_names))
        chosen = max(scores, key=lambda number: (scores[number].accuracy, -number))
        most = {str(name): count for name, count in self.settings.images.items()}.get(metric, 0)
        known = data.train.take(np.sort(order[: most or None]))
        k = min(chosen, len(known))  # fewer images may be kept than cross-validation has used
        val = data.val.take(np.arange(len(data.val)))
        scored = score(votes(known, val.images, metric, [k], len(data.class_names))[k], val.labels)
        values = {
            "loss": scores[chosen].loss,
            "accuracy": scores[chosen].accuracy,
            "val_loss": scored.loss,
            "val_accuracy": scored.accuracy,
            "neighbours": float(k),
            **{f"accuracy_{number}": found.accuracy for number, found in scores.items()},
        }
        metrics = EpochMetrics(1, values, time.monotonic() - started, time.time(), stopped=True)
        on_epoch(metrics)
        return Neighbours([metrics], 0, known, metric, k, len(data.class_names))

    def _cross_validate(
        self, train: Labelled, folds: list[npt.NDArray[np.int64]], metric: str, classes: int
    ) -> dict[int, Score]:
        """Return the mean scores of each number of neighbours over the folds."""
        found: dict[int, list[Score]] = {k: [] for k in self.settings.neighbours}
        for held_out in folds:
            others = np.concatenate([fold for fold in folds if fold is not held_out])
            queries = train.take(held_out)
            counts = votes(train.take(others), queries.images, metric, self.settings.neighbours, classes)
            for k, of_images in counts.items():
                found[k].append(score(of_images, queries.labels))
        return {
            k: Score(float(np.mean([s.accuracy for s in scores])), float(np.mean([s.loss for s in scores])))
            for k, scores in found.items()
        }


def _folds(used: npt.NDArray[np.int64], groups: tuple[str, ...], count: int) -> list[npt.NDArray[np.int64]]:
    """Return the images in at most so many parts; a group is in one of them, and so is an image without one."""
    from sklearn.model_selection import GroupKFold

    names = [groups[index] or index for index in used.tolist()] if groups else []
    _, number = np.unique([str(type(name)) + str(name) for name in names], return_inverse=True)
    parts = min(count, int(number.max(initial=0)) + 1)
    if parts < 2:  # no groups, or a single one
        return np.array_split(used, min(count, len(used)))
    return [used[rows] for _, rows in GroupKFold(parts).split(used, groups=number)]


def votes(known: Labelled, images: Images, metric: str, numbers: Sequence[int], classes: int) -> dict[int, Votes]:
    """Return how many of the nearest images are of each class, (N, classes), by number of neighbours.

    Args:
        known: Images that vote, with their labels.
        images: Images of the same shape, (N, H, W, C).
        metric: ``l1`` or ``l2``, on pixels.
        numbers: How many neighbours vote, at most as many as there are.
        classes: Number of classes.
    """
    from sklearn.neighbors import NearestNeighbors

    most = min(max(numbers), len(known))
    index = NearestNeighbors(n_neighbors=most, algorithm="brute", metric=_METRICS[metric]).fit(_flat(known.images))
    nearest = known.labels[index.kneighbors(_flat(images), return_distance=False)]
    counts = np.eye(classes, dtype=np.int32)[nearest].cumsum(axis=1)
    return {k: counts[:, min(k, most) - 1] for k in numbers}


def score(of_images: Votes, labels: Labels) -> Score:
    """Compare the majority with the truth, and the shares of the votes, as `serving.neighbours` gives them."""
    classes = of_images.shape[1]
    shares = (of_images + 1 / classes) / (of_images.sum(axis=1, keepdims=True) + 1)
    right = of_images.argmax(axis=1) == labels
    return Score(float(right.mean()), float(-np.log(shares[np.arange(len(labels)), labels]).mean()))


def _flat(images: Images) -> Floats:
    return np.ascontiguousarray(images.reshape(len(images), -1), dtype=np.float32)
