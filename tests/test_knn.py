"""Nearest neighbours vote, and cross-validation chooses how many."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.backend import configure
from pipeline.datasets.arrays import Labelled, Splits, load_splits
from pipeline.models import loading
from pipeline.models.base import Span
from pipeline.models.families.knn import family as knn


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


@pytest.fixture(scope="module")
def data(prepared_digits: Path) -> Splits:
    return load_splits(prepared_digits)


FIVE = Labelled(
    np.repeat(np.array([[0, 0], [10, 0], [40, 40], [50, 40], [41, 41]], np.uint8), 1, axis=0).reshape(5, 1, 2, 1),
    np.array([0, 0, 1, 1, 1]),
)


def test_the_metrics_differ_where_they_should() -> None:
    """From (0, 0), (30, 30) is 60 or 42.4 away, and (45, 0) 45 or 45: the nearer one depends on the metric."""
    known = Labelled(np.array([[30, 30], [45, 0]], np.uint8).reshape(2, 1, 2, 1), np.array([0, 1]))
    queries = np.zeros((1, 1, 2, 1), np.uint8)
    assert knn.votes(known, queries, "l2", [1], 2)[1].tolist() == [[1, 0]]
    assert knn.votes(known, queries, "l1", [1], 2)[1].tolist() == [[0, 1]]


def test_the_majority_decides_and_of_equals_the_first() -> None:
    queries = np.array([[5, 0]], np.uint8).reshape(1, 1, 2, 1)
    found = knn.votes(FIVE, queries, "l2", [1, 4, 5], 2)
    assert [found[k].tolist() for k in (1, 4, 5)] == [[[1, 0]], [[2, 2]], [[2, 3]]]
    assert [knn.score(found[k], np.array([0])).accuracy for k in (1, 4, 5)] == [1.0, 1.0, 0.0]
    assert knn.score(found[4], np.array([0])).loss == pytest.approx(math.log(2))


def test_the_number_of_neighbours_is_cross_validated_on_training_images_alone(data: Splits) -> None:
    family = loading.load("knn", {"neighbours": [1, 3, 600], "fold_images": 600})
    epochs: list[Any] = []
    fitted = family.fit({"metric": "l2"}, data, Span(0, 8, 8), seed=0, state=None, on_epoch=epochs.append)
    (epoch,) = fitted.history
    assert epochs == [epoch]
    assert epoch.stopped
    assert epoch["neighbours"] in (1, 3)
    assert epoch["accuracy_600"] < 0.3 < 0.9 < epoch["accuracy"]
    assert epoch["val_accuracy"] > 0.9


def test_folds_and_neighbours_are_at_most_as_many_as_there_are_images(data: Splits, tmp_path: Path) -> None:
    family = loading.load("knn", {"neighbours": [40], "folds": 1000, "fold_images": 60, "images": {"l2": 20}})
    fitted = family.fit({"metric": "l2"}, data, Span(0, 1, 1), seed=0, state=None, on_epoch=lambda _: None)
    assert fitted.history[0]["neighbours"] == 20
    assert len(fitted.answer(data.val.images[:3])) == 3  # type: ignore[arg-type]
    fitted.export(tmp_path)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as stored:
        assert int(stored["votes"]) == len(stored["images"]) == 20


def test_only_as_many_images_are_kept_as_params_allow(data: Splits, tmp_path: Path) -> None:
    family = loading.load("knn", {"images": {"l1": 50}, "fold_images": 50})
    family.fit({"metric": "l1"}, data, Span(0, 1, 1), seed=0, state=None, on_epoch=lambda _: None).export(tmp_path)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as stored:
        assert stored["images"].shape == (50, 28, 28, 1)
