"""A training goes on where it was killed, and one that is finished is found, not done again."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.base import read_json
from pipeline.artifacts.train import Summary
from pipeline.backend import configure
from pipeline.core.errors import EngineError
from pipeline.datasets.arrays import load_splits
from pipeline.executors.base import ENDS, Broken, Done, Event, Failed, Progress, answer
from pipeline.models import loading
from pipeline.models.base import Span
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.training.seeds import Seeds, TrainSettings, finished, further, write_finished
from pipeline.models.training.task import TaskResult, TrainingTask, exported_model, run
from pipeline.registry.packaging import TrainedModel
from pipeline.search.further_seeds import FurtherSeeds
from pipeline.stages import train as stage
from tests.test_models import POINTS

SEEDS = (3, 4)
EPOCHS = 3


class Killed(Exception):
    """The process ends here."""


class Here:
    """Runs tasks in this process, as many as it is allowed to; what they raise is an event, as from a worker."""

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
        outcome, result = answer(run, task, messages.append)
        yield from (Progress(key, message) for message in messages)
        yield self.event(ENDS[outcome](key, result, "here"), task)

    def event(self, event: Event, task: TrainingTask) -> Event:
        return event


@pytest.fixture(scope="module", autouse=True)
def keras_backend() -> None:
    configure.configure("tensorflow", threads=1)


DIVERGING = {**POINTS["mlp"], "learning_rate": 1e38, "batch_norm": False}


def seeds(
    data: Path, folder: Path, family: str, those: tuple[int, ...], diverging: tuple[int, ...], epochs: int
) -> Seeds:
    rungs = {
        seed: TrainingTask(*(("mlp", {}, DIVERGING) if seed in diverging else (family, {}, POINTS[family])), data, seed,
                           Span(0, epochs, epochs), folder / f"seed-{seed}", folder / "epochs.log", export=True)
        for seed in those
    }  # fmt: skip
    return Seeds(rungs, "val_accuracy")


def train(
    data: Path,
    folder: Path,
    tasks: int = 99,
    *,
    family: str = "mlp",
    those: tuple[int, ...] = SEEDS,
    diverging: tuple[int, ...] = (),
    epochs: int = EPOCHS,
    on: type[Here] = Here,
) -> Any:
    folder.mkdir(exist_ok=True)
    executor, training = on(tasks), seeds(data, folder, family, those, diverging, epochs)
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


def knn(data: Path, folder: Path, tasks: int = 99, **others: Any) -> Any:
    """Train nearest neighbours, which takes no time, except for the seeds that diverge."""
    return train(data, folder, tasks, family="knn", **others)


def test_a_finished_training_of_a_search_counts_as_one_of_the_seeds(
    few_digits: Path, whole: Any, tmp_path: Path
) -> None:
    finalist = replace(whole.task, span=Span(0, EPOCHS, EPOCHS), folder=tmp_path / "finalist")
    assert not finished(finalist)
    finalist.folder.mkdir()
    write_finished(finalist.folder, exported_model(whole.task).parent, whole.trained, EPOCHS)
    assert finished(finalist)
    assert not list(finalist.folder.rglob("state.npz"))
    settings = TrainSettings(seeds=3, seed=finalist.seed - 1)
    others = further(tmp_path / "t", settings, finalist)
    assert list(others) == [finalist.seed - 1, finalist.seed + 1]
    seeds = Seeds({**others, finalist.seed: finalist}, "val_accuracy")
    assert list(seeds.pieces()) == list(others)
    alone = Seeds({finalist.seed: finalist}, "val_accuracy").finish(Here(tasks=0))  # type: ignore[arg-type]
    assert alone.trained == whole.trained
    assert exported_model(alone.task).is_dir()
    shutil.rmtree(exported_model(alone.task))
    assert not finished(finalist)


@pytest.mark.usefixtures("eager")
def test_a_seed_that_diverges_is_left_out_and_is_not_tried_again(tiny_digits: Path, tmp_path: Path) -> None:
    found = knn(tiny_digits, tmp_path / "t", diverging=(3,))
    assert found.values == {4: knn(tiny_digits, tmp_path / "healthy").values[4]}
    assert list(found.failed) == [3]
    assert re.match(r"the loss diverged in epoch 1: found loss (nan|inf)", found.failed[3])
    assert exported_model(found.task).is_dir()
    assert knn(tiny_digits, tmp_path / "t", tasks=0, diverging=(3,)) == found  # what was logged stays what it is
    assert list(knn(tiny_digits, tmp_path / "t", those=(3, 4, 5), diverging=(3, 5)).failed) == [3, 5]


@pytest.mark.usefixtures("eager")
def test_a_seed_that_is_lost_on_the_way_is_left_out(tiny_digits: Path, tmp_path: Path) -> None:
    class Dying(Here):
        def event(self, event: Event, task: TrainingTask) -> Event:
            lost = task.seed == 4 and task.span.start > 0
            return Failed(event.key, "3 workers died on it", "here") if lost else event

    class Incomparable(Here):
        def event(self, event: Event, task: TrainingTask) -> Event:
            if task.seed == 3 and isinstance(event, Done):
                event.result.epochs[-1].values["val_other"] = math.nan
            return event

    found = train(tiny_digits, tmp_path / "dying", epochs=2, on=Dying)
    assert (list(found.values), found.failed) == ([3], {4: "3 workers died on it"})
    found = knn(tiny_digits, tmp_path / "incomparable", on=Incomparable)
    assert (list(found.values), found.failed) == ([4], {3: "val_other is nan after epoch 1"})


@pytest.mark.usefixtures("eager")
def test_a_training_fails_only_with_all_of_its_seeds_and_another_seed_is_a_new_one(
    tiny_digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"with every seed: .*seed 3: the loss .*seed 4: .*next: set another "):
        knn(tiny_digits, tmp_path / "t", diverging=SEEDS)
    assert list(knn(tiny_digits, tmp_path / "t", those=(5,)).values) == [5]


def test_a_machine_that_cannot_train_is_held_against_no_seed(tiny_digits: Path, tmp_path: Path) -> None:
    class Full(Here):
        def event(self, event: Event, task: TrainingTask) -> Event:
            return Broken(event.key, "no space left", "here") if task.seed == 4 else event

    with pytest.raises(EngineError, match=r"seed 4 cannot continue: .*found no space left; .*run the same command"):
        knn(tiny_digits, tmp_path / "t", on=Full)
    assert list(knn(tiny_digits, tmp_path / "t").values) == [3, 4]


@pytest.mark.usefixtures("eager")
def test_idle_workers_of_a_search_train_further_seeds_of_its_leader(tiny_digits: Path, tmp_path: Path) -> None:
    template = TrainingTask("knn", {}, POINTS["knn"], tiny_digits, 7, Span(0, EPOCHS, EPOCHS), tmp_path / "none",
                            tmp_path / "epochs.log", export=True)  # fmt: skip

    def tasks(number: int, point: Any) -> Any:
        (tmp_path / f"of-{number}").mkdir()
        return further(tmp_path / f"of-{number}", TrainSettings(seeds=number, seed=0), template)

    idle = FurtherSeeds(tasks, "val_accuracy")
    assert idle.next(1, {}) is None  # the training of the search is the only one
    (first, one), (second, two) = idle.next(3, {}), idle.next(3, {})  # type: ignore[misc]
    assert (one.seed, two.seed, idle.next(3, {})) == (0, 1, None)
    assert not idle.handle(Failed(0, "diverged", "here"))  # a trial's
    assert idle.handle(Done(first, run(one, lambda _: None), "here"))
    assert idle.handle(Failed(second, "3 workers died on it", "here"))
    assert not idle.running
    assert idle.next(3, {}) is None
    again = Seeds(further(tmp_path / "of-3", TrainSettings(seeds=3, seed=0), template), "val_accuracy")
    assert list(again.pieces()) == [1]  # the stage train tries a seed again that failed beside a search


def test_time_of_further_seeds_counts_once_and_only_after_the_search(whole: Any) -> None:
    def trained(*epochs: tuple[float, float]) -> TaskResult:
        return TaskResult([EpochMetrics(1, {}, seconds, at) for seconds, at in epochs], 1)

    own = trained((9, 91), (9, 100))
    begun = trained((20, 95), (20, 115))  # 15 s of it after the search
    later = trained((5, 120), (10, 160))  # 5 s alone after the one before, a pause, and 10 s
    beside = trained((20, 118))  # 3 s beyond `begun`, which `later` covers as well
    result = replace(whole, trainings={7: own, 0: begun, 1: later, 2: beside})
    assert result.added_seconds(7) == 15 + 3 + 2 + 10
    assert replace(whole, trainings={7: own}).added_seconds(7) == 0


@pytest.mark.usefixtures("eager")
def test_the_summary_names_a_seed_without_a_model(tiny_digits: Path, tmp_path: Path) -> None:
    data, family = load_splits(tiny_digits), loading.load("knn", {})
    trained = TrainedModel(knn(tiny_digits, tmp_path / "t", diverging=(3,)), family, data, "tensorflow")
    stage.save(trained, stage.LoggedModel("run", "model"), 4, tmp_path / "model", tmp_path / "report")
    summary = read_json(tmp_path / "report" / "summary.json", Summary, "train")
    assert summary.failed == {"3": trained.result.failed[3]}
    assert set(summary.seeds) == {"4"}
