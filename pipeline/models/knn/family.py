"""Nearest neighbours on pixels: the floor that every other family has to beat.

How many neighbours vote is not left to the search: one pass over the distances tells it for every number at once, by
cross-validation on the training images alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import pydantic

from pipeline.datasets.base import Labelled, Labels, Splits
from pipeline.models.base import BaseFamily, FamilySettings, Fitted, OnEpoch, Span
from pipeline.models.space import Choice, Hyperparameters, Space

Floats = npt.NDArray[np.float32]

_METRICS = {"l1": "manhattan", "l2": "euclidean"}


class NeighboursSettings(FamilySettings):
    """What the family's section of params holds.

    Attributes:
        neighbours: The numbers of neighbours that cross-validation chooses from.
        folds: Of cross-validation; each in turn is the one that the others are asked about.
        fold_images: Training images that cross-validation uses, all folds together.
        images: By metric, how many training images are kept to be neighbours; 0: all. L1 costs a subtraction for every
            pair of pixels, L2 a matrix product: measured on one core with 28×28 images, 1 and 12 billion pixels/s.
    """

    neighbours: Annotated[tuple[pydantic.PositiveInt, ...], pydantic.Field(min_length=1)] = (1, 3, 5, 7, 10, 20, 50)
    folds: int = pydantic.Field(default=5, ge=2)
    fold_images: int = pydantic.Field(default=5_000, ge=10)
    images: Mapping[str, Annotated[int, pydantic.Field(ge=0)]] = {"l1": 10_000, "l2": 0}


@dataclass(frozen=True)
class Neighbours(Fitted):
    """The images that vote, as uint8 (N, H, W, C), their labels (N,), and how."""

    known: Labelled
    metric: str
    votes: int

    def save_state(self, path: Path) -> None:
        """Write that there is nothing to go on from: one epoch is all there is."""
        np.savez(path, votes=self.votes)

    def export(self, folder: Path) -> None:
        """Write ``model.npz``."""
        told = {"metric": np.array(_METRICS[self.metric]), "votes": np.array(self.votes)}
        np.savez(folder / "model.npz", allow_pickle=False, images=self.known.images, labels=self.known.labels, **told)


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
        metric = str(hyperparameters["metric"])
        order = np.random.default_rng(seed).permutation(len(data.train))
        folds = np.array_split(order[: self.settings.fold_images], self.settings.folds)
        accuracy = self._cross_validate(data.train, folds, metric)
        votes = max(accuracy, key=lambda k: (accuracy[k], -k))
        kept = np.sort(order[: self.settings.images.get(metric, 0) or None])
        known = data.train.take(kept)
        val = data.val.take(np.arange(len(data.val)))
        predicted = predict(known, val, metric, [votes])[votes]
        metrics = {
            "epoch": 1.0,
            "accuracy": accuracy[votes],
            "val_accuracy": float((predicted == val.labels).mean()),
            "neighbours": float(votes),
            **{f"accuracy_{k}": value for k, value in accuracy.items()},
            "seconds": time.monotonic() - started,
            "at": time.time(),
            "stopped": 1.0,
        }
        on_epoch(metrics)
        return Neighbours([metrics], 0, known, metric, votes)

    def _cross_validate(self, train: Labelled, folds: list[npt.NDArray[np.int64]], metric: str) -> dict[int, float]:
        """Return the mean accuracy of each number of neighbours over the folds."""
        right: dict[int, list[float]] = {k: [] for k in self.settings.neighbours}
        for held_out in folds:
            others = np.concatenate([fold for fold in folds if fold is not held_out])
            asked = train.take(held_out)
            for k, predicted in predict(train.take(others), asked, metric, self.settings.neighbours).items():
                right[k].append(float((predicted == asked.labels).mean()))
        return {k: float(np.mean(values)) for k, values in right.items()}


def predict(known: Labelled, asked: Labelled, metric: str, numbers: tuple[int, ...] | list[int]) -> dict[int, Labels]:
    """Return the label of every image asked about, by each number of neighbours.

    Args:
        known: Images that vote, with their labels.
        asked: Images of the same shape.
        metric: ``l1`` or ``l2``, on pixels.
        numbers: How many neighbours vote.
    """
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(max(numbers), len(known)), algorithm="brute", metric=_METRICS[metric]).fit(
        _flat(known)
    )
    nearest = known.labels[index.kneighbors(_flat(asked), return_distance=False)]
    one_hot = np.eye(int(known.labels.max()) + 1, dtype=np.int32)[nearest]
    counts = one_hot.cumsum(axis=1)
    return {k: counts[:, min(k, counts.shape[1]) - 1].argmax(axis=1) for k in numbers}


def _flat(data: Labelled) -> Floats:
    return np.ascontiguousarray(data.images.reshape(len(data), -1), dtype=np.float32)
