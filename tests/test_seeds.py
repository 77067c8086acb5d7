"""A training goes on where it was killed, and one that is finished is found, not done again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.backend import configure
from pipeline.executors.base import Done, Event, Progress
from pipeline.models.base import Span
from pipeline.models.training.seeds import Seeds
from pipeline.models.training.task import TrainingTask, exported_model, run
from tests.test_models import POINTS

SEEDS = (3, 4)
EPOCHS = 5


class Killed(Exception):
    """The process ends here."""


class Here:
    """Runs tasks in this process, as many as it is allowed to."""

    slots = 1

    def __init__(self, tasks: int = 99) -> None:
        self._left, self._waiting = tasks, list[tuple[int, TrainingTask]]()

    def submit(self, key: int, task: TrainingTask) -> None:
        self._waiting.append((key, task))

    def wait(self, timeout_s: float) -> Iterator[Event]:
        key, task = self._waiting.pop(0)
        if not self._left:
            raise Killed
        self._left -= 1
        messages: list[Any] = []
        result = run(task, messages.append)
        yield from (Progress(key, message) for message in messages)
        yield Done(key, result, "here")


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


def seeds(data: Path, folder: Path) -> Seeds:
    rungs = {
        seed: TrainingTask("mlp", {}, POINTS["mlp"], data, seed, Span(0, EPOCHS, EPOCHS), folder / f"seed-{seed}",
                   folder / "epochs.log", export=True)
        for seed in SEEDS
    }  # fmt: skip
    return Seeds(rungs, "val_accuracy")


def train(data: Path, folder: Path, tasks: int = 99) -> Any:
    folder.mkdir(exist_ok=True)
    executor, training = Here(tasks), seeds(data, folder)
    training.start(executor)  # type: ignore[arg-type]
    return training.finish(executor)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished training, which tests leave as it is."""
    return train(few_digits, tmp_path_factory.mktemp("seeds") / "whole")


def test_a_killed_training_goes_on_and_comes_to_the_same(few_digits: Path, whole: Any, tmp_path: Path) -> None:
    for _ in range(4):  # each attempt gets one piece further with one of the seeds, or both
        with pytest.raises(Killed):
            train(few_digits, tmp_path / "cut", tasks=1)
    cut = train(few_digits, tmp_path / "cut")
    assert cut.values == whole.values
    assert [epoch["loss"] for epoch in cut.trained.epochs] == [epoch["loss"] for epoch in whole.trained.epochs]
    assert [epoch.epoch for epoch in cut.trained.epochs] == list(range(1, EPOCHS + 1))
    assert exported_model(cut.task).is_dir()
    computed = sorted((tmp_path / "cut" / "epochs.log").read_text().split("\n")[:-1])
    assert computed == sorted(f"seed-{seed} {epoch}" for seed in SEEDS for epoch in range(1, EPOCHS + 1))


def test_what_is_trained_already_is_not_trained_again(few_digits: Path, whole: Any) -> None:
    assert train(few_digits, whole.task.folder.parent, tasks=0) == whole


def test_a_training_whose_model_is_gone_is_done_again(few_digits: Path, whole: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole.task.folder.parent, tmp_path / "t"))
    shutil.rmtree(copy / whole.task.folder.name / f"epoch-{EPOCHS:04d}")
    again = train(few_digits, copy)
    assert again.values == whole.values
    assert exported_model(again.task).is_dir()
