"""A recurrent encoder and decoder learn to complete real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from pipeline.backend import configure
from pipeline.datasets.arrays import Splits, load_splits
from pipeline.evaluation import complete
from pipeline.models import loading
from pipeline.models.base import Span, Spec
from pipeline.models.training.task import TrainingTask, run

POINT: dict[str, Any] = {
    "cell": "gru", "layers": 2, "units": 32, "dropout": 0.1, "optimizer": "adamw", "schedule": "cosine",
    "learning_rate": 5e-3, "weight_decay": 1e-4, "batch_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


@pytest.fixture(scope="module")
def data(prepared_digits: Path) -> Splits:
    return load_splits(prepared_digits)


@pytest.mark.slow
def test_it_completes_unseen_digits_better_than_repeating_their_last_row(data: Splits, tmp_path: Path) -> None:
    family = loading.load("seq2seq", {})
    fitted = family.fit(POINT, data, Span(0, 6, 6), seed=1, state=None, on_epoch=lambda _: None)
    first, last = fitted.history[0], fitted.history[-1]
    baseline = complete.squared_errors(complete.repeated(np.asarray(data.val.images)), np.asarray(data.val.images))
    assert last["baseline_mse"] == pytest.approx(baseline.mean(), rel=1e-5)
    assert last["val_mse"] < first["val_mse"]
    assert last["val_mse"] < last["baseline_mse"] / 2
    assert last["val_score"] == -last["val_mse"]
    assert fitted.draw(tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_training_cut_into_rungs_gives_the_same_weights_as_one_run_through(few_digits: Path, tmp_path: Path) -> None:
    def rung(folder: str, start: int, stop: int) -> TrainingTask:
        return TrainingTask("seq2seq", {}, POINT, few_digits, 5, Span(start, stop, 2), tmp_path / folder,
                    tmp_path / "epochs.log")  # fmt: skip

    begun = run(rung("cut", 0, 1), emit=lambda _: None)
    whole = run(rung("whole", 0, 2), emit=lambda _: None)  # in between: the other goes on from its checkpoint
    cut = [*begun.epochs, *run(rung("cut", 1, 2), emit=lambda _: None).epochs]
    assert [epoch["loss"] for epoch in cut] == [epoch["loss"] for epoch in whole.epochs]
    arrays = [np.load(tmp_path / folder / "epoch-0002" / "state.npz") for folder in ("whole", "cut")]
    for key in arrays[0].files:
        np.testing.assert_array_equal(arrays[0][key], arrays[1][key])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_it_takes_upper_halves_of_any_size(cell: str) -> None:
    model = loading.load("seq2seq", {}).build({**POINT, "cell": cell}, Spec((9, 20, 3), 7))
    assert model(np.zeros((2, 4, 20, 3), np.uint8)).shape == (2, 5, 20, 3)


def test_every_point_of_the_searched_space_builds() -> None:
    family = loading.load("seq2seq", {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    for _ in range(2):
        hyperparameters = family.suggest(study.ask())
        assert family.trainable_parameters(hyperparameters, Spec((28, 28, 1), 10)) > 0
