"""Transfer learns from a pinned model, and only from that."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from pipeline.backend import configure
from pipeline.core.errors import DataError, ParamsError
from pipeline.datasets.arrays import Labelled, Splits, load_splits
from pipeline.models import loading
from pipeline.models.base import Span, Spec, TrainingError
from tests.test_models import POINTS


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


@pytest.fixture(scope="module")
def data(prepared_digits: Path) -> Splits:
    return load_splits(prepared_digits)


def _below(part: Labelled, classes: int) -> Labelled:
    return part.take(np.flatnonzero(part.labels < classes))


@pytest.fixture(scope="module")
def pretrained(data: Splits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A perceptron that knows digits 0 to 4, pinned as `pipeline.registry.pretrained` pins a registered one."""
    folder = tmp_path_factory.mktemp("pretrained")
    few = replace(data, train=_below(data.train, 5), val=_below(data.val, 5))
    fitted = loading.load("mlp", {}).fit(POINTS["mlp"], few, Span(0, 4, 4), seed=1, state=None, on_epoch=lambda _: None)
    fitted.export(folder)
    file = folder / "model.keras"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    named = "models:/digits-classifier@champion"
    return {"init_from": named, "pin": {"init_from": named, "version": "1", "file": str(file), "sha256": sha256}}


@pytest.mark.parametrize("fine_tune", [False, True])
def test_the_body_stays_when_frozen_and_moves_when_fine_tuned(
    fine_tune: bool, pretrained: dict[str, Any], data: Splits
) -> None:
    import keras

    family = loading.load("transfer", pretrained)
    point = {**POINTS["transfer"], "fine_tune": fine_tune, "learning_rate": 1e-2}
    fitted = family.fit(point, data, Span(0, 3, 3), seed=1, state=None, on_epoch=lambda _: None)
    before = keras.saving.load_model(pretrained["pin"]["file"], compile=False)
    body = fitted.network.get_layer("body")
    same = [np.array_equal(a, b) for a, b in zip(body.get_weights(), before.get_weights(), strict=False)]
    assert all(same) if not fine_tune else not any(same[:2])
    losses = [epoch["loss"] for epoch in fitted.history]
    assert losses[-1] < losses[0]
    assert fitted.history[-1]["val_accuracy"] > 0.4  # chance is 0.1, and half of the classes are new


def test_a_model_that_is_not_the_pinned_one_is_refused(pretrained: dict[str, Any], data: Splits) -> None:
    other = {**pretrained, "pin": {**pretrained["pin"], "sha256": "0" * 64}}
    with pytest.raises(DataError, match="expected sha256 0000"):
        loading.load("transfer", other).build(POINTS["transfer"], Spec.of(data))
    with pytest.raises(TrainingError, match=r"takes other images: expected \(32, 32, 3\), found \(28, 28, 1\)"):
        loading.load("transfer", pretrained).build(POINTS["transfer"], Spec((32, 32, 3), 10))


@pytest.mark.parametrize("settings", [{}, {"init_from": "models:/a@b"}])
def test_a_model_that_is_not_resolved_is_an_error_before_anything_trains(settings: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match=r"transfer\.init_from: expected a registered model such as"):
        loading.load("transfer", settings).suggest(optuna.create_study().ask())
