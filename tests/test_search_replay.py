"""The decisions of a search follow from its definition and its results alone, whoever trains and whatever is killed."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pipeline.core import params
from pipeline.core.errors import EngineError
from pipeline.executors.base import Done, Event, Failed
from pipeline.models.base import BaseFamily, FamilySettings
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.space import Choice, Range, Space
from pipeline.models.training.task import TaskResult
from pipeline.models.values import Hyperparameters
from pipeline.search.rung_results import RungResult, RungResults
from pipeline.search.scheduler import TrialScheduler
from pipeline.search.settings import Budget, SearchSettings
from pipeline.search.study import Study
from pipeline.search.study_definition import Definition

PARAMS = Path(__file__).parents[1] / "params.yaml"


class Family(BaseFamily):
    """A family that trains nothing."""

    space: ClassVar[Space] = {
        "rate": Range(low=1e-4, high=1e-2, log=True),
        "width": Choice(choices=(1, 2, 8)),
    }

    def fit(self, *arguments: Any, **named: Any) -> Any:
        raise NotImplementedError


class Killed(Exception):
    """The process of the search ends here."""


class InMemory(RungResults):
    """Results that need no disk."""

    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {}

    def claim(self, number: int, point: Hyperparameters) -> None:
        assert self.kept.setdefault(number, point) == point, "a replay gave another point"

    def get(self, number: int, stop: int) -> RungResult | None:
        return self.kept.get((number, stop))

    def put(self, number: int, stop: int, result: RungResult) -> None:
        assert (number, stop) not in self.kept, "a rung was trained twice"
        self.kept[number, stop] = result

    elapsed_s = 0.0


def curve(point: Hyperparameters, epoch: int) -> float:
    """Return a value that depends on nothing but hyperparameters and epoch; one point in ten stops early."""
    noise = int(hashlib.sha256(f"{point} {epoch}".encode()).hexdigest()[:6], 16) / 16**6
    return round(1 - 0.5 / epoch - abs(float(point["rate"]) - 3e-3) * 30 - 0.05 * noise, 4)


@dataclass
class Machine:
    """An executor of some workers that take random times, and that may be killed in the middle."""

    slots: int
    chance: random.Random
    kill: float = 0.0
    running: dict[int, Any] = field(default_factory=dict)
    trained: int = 0
    now: float = 0.0  # seconds: an epoch takes one
    ends: dict[int, float] = field(default_factory=dict)
    device: str = "cpu"

    def submit(self, key: int, task: Any) -> None:
        self.running[key] = task
        self.ends[key] = self.now + task.span.stop - task.span.start
        assert len(self.running) <= self.slots

    def wait(self, timeout_s: float) -> Iterator[Event]:
        if self.chance.random() < self.kill:
            raise Killed
        key = self.chance.choice(list(self.running))
        task = self.running.pop(key)
        if fails(task.point):
            yield Failed(key, "diverged", f"worker-{self.chance.random()}")
            return
        self.trained += task.span.stop - task.span.start
        epochs = [
            EpochMetrics(n, {"val_accuracy": curve(task.point, n)}, self.chance.random(), self.chance.random())
            for n in range(task.span.start + 1, task.span.stop + 1)
        ]
        yield Done(key, TaskResult(epochs, 10, device=self.device), f"worker-{self.chance.random()}")


class Further:
    """Further seeds of leaders, which idle workers train without end."""

    def __init__(self) -> None:
        self._keys = itertools.count(10**9)
        self._mine: set[int] = set()

    @property
    def running(self) -> bool:
        return False

    def next(self, number: int, point: Hyperparameters) -> tuple[int, Any]:
        key = next(self._keys)
        self._mine.add(key)
        return key, SimpleNamespace(point=point, span=SimpleNamespace(start=0, stop=1))

    def handle(self, event: Done | Failed) -> bool:
        return event.key in self._mine


class Timed(Machine):
    """The same, on a clock on which rungs end in their order."""

    def wait(self, timeout_s: float) -> Iterator[Event]:
        key = min(self.running, key=lambda key: self.ends[key])
        self.now = self.ends[key]
        self.chance = SimpleNamespace(random=lambda: 1.0, choice=lambda _: key)  # type: ignore[assignment]
        yield from super().wait(timeout_s)


@dataclass
class Crowded(Machine):
    """A machine whose memory suffices for one wide model, if it is alone; some are too large even then."""

    too_large: int = 99

    def wait(self, timeout_s: float) -> Iterator[Event]:
        key = self.chance.choice(list(self.running))
        width = int(self.running[key].point["width"])
        if width >= self.too_large or (width == 8 and len(self.running) > 1):
            self.running.pop(key)
            yield Failed(key, "out of memory", "worker", died=self.chance.random() < 0.5)
        else:
            yield from super().wait(timeout_s)


def fails(point: Hyperparameters) -> bool:
    return float(point["rate"]) > 8e-3


def settings(**search: Any) -> SearchSettings:
    section = params.section("search", PARAMS)
    return params.parse("search", {**section, **search}, SearchSettings)


def searched(
    folder: Path,
    found: SearchSettings,
    budget: Budget,
    results: RungResults,
    machine: Machine,
    deadline_s: float | None = None,
    further: Further | None = None,
) -> Study:
    """Search until the budget is used, starting again after each kill; return the study."""
    family = Family("fake", FamilySettings())
    definition = Definition("d", "fake", "d", "c", {}, found.defining(), budget.trial_epochs, "tensorflow")
    record: Any = SimpleNamespace(show=lambda *_: None, mirror=lambda trial: None)
    progress: Any = SimpleNamespace(update=lambda *_: None, task_done=lambda *_: None, epoch_s=1.0)

    def task(number: int, point: Hyperparameters, start: int, stop: int) -> Any:
        return SimpleNamespace(point=point, span=SimpleNamespace(start=start, stop=stop), folder=folder)

    while True:
        study = Study(folder, definition, found, family, steps=1000)
        machine.running.clear()
        scheduler = TrialScheduler(
            study, budget, found.slots, lambda point: float(point["width"]), results, machine,  # type: ignore[arg-type]
            lambda: record, task, lambda number: None, progress, further,  # type: ignore[arg-type]
            deadline_s, lambda: machine.now,
        )  # fmt: skip
        try:
            scheduler.run()
        except Killed:
            continue
        assert scheduler.cut == (deadline_s is not None)
        return study


def table(study: Study) -> str:
    """Return what is written to trials.csv and best.json."""
    best = study.require_best()
    return study.table().to_csv(index=False) + json.dumps([best.number, best.hyperparameters, best.value])


SEARCHES = [
    {"sampler": "random"},
    {"sampler": "random", "pruner": "median"},
    {"sampler": "random", "pruner": "hyperband"},
    {"sampler": "random", "pruner": "none"},
    {"sampler": "qmc"},
    {"sampler": "tpe"},
]


def compared(folder: Path, cases: int, seed: int) -> int:
    """Compare searches with one worker and no kill to others; return how many studies were searched."""
    chance = random.Random(seed)
    studies = 0
    for case in range(cases):
        found = settings(**SEARCHES[case % len(SEARCHES)], seed=case, slots=chance.choice([1, 2, 4, 4, 8]))
        small = Budget(trials=chance.randint(2, 9), epochs=chance.randint(9, 60), trial_epochs=9)
        large = Budget(trials=small.trials + 5, epochs=small.epochs + chance.randint(0, 60), trial_epochs=9)
        for budget in (small, large):
            alone = InMemory()
            expected = table(searched(folder, found, budget, alone, Machine(1, random.Random(0))))
            machine = Machine(chance.randint(1, 16), random.Random(case), kill=chance.choice([0, 0.1, 0.3]))
            further = chance.choice([None, Further()])
            other = searched(folder, found, budget, InMemory(), machine, further=further)
            assert table(other) == expected, (case, budget)
            studies += 2
        grown = InMemory()
        first, second = Machine(3, random.Random(case)), Machine(2, random.Random(case), kill=0.2)
        searched(folder, found, small, grown, first)
        assert table(searched(folder, found, large, grown, second)) == expected, f"case {case}: the budget was raised"
        studies += 2
    return studies


def test_workers_speed_kills_and_a_budget_raised_later_change_no_decision(tmp_path: Path) -> None:
    assert compared(tmp_path, 12, seed=1) >= 70


@pytest.mark.slow
def test_no_decision_changes_in_two_thousand_studies(tmp_path: Path) -> None:
    assert compared(tmp_path, 340, seed=2) >= 2000


def test_where_the_first_trials_fail_a_budget_for_one_still_finds_one(tmp_path: Path) -> None:
    for seed in range(8):  # some begin with points that cannot be trained
        budget = Budget(trials=9, epochs=9, trial_epochs=9)
        found = settings(sampler="random", seed=seed)
        study = searched(tmp_path, found, budget, InMemory(), Machine(2, random.Random(seed)))
        assert study.trials[study.require_best().number].state.name == "COMPLETE"


def test_the_budget_is_never_exceeded_and_the_winner_is_complete(tmp_path: Path) -> None:
    for seed in range(20):
        found = settings(sampler="random", seed=seed)
        budget = Budget(trials=8, epochs=20 + seed, trial_epochs=9)
        machine = Machine(4, random.Random(seed))
        study = searched(tmp_path, found, budget, InMemory(), machine)
        assert machine.trained <= budget.epochs
        assert study.trials[study.require_best().number].state.name == "COMPLETE"
        assert study.status().counts["running"] == 0


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_deadline_stops_all_but_the_leader_which_trains_to_its_end_in_time(workers: int, tmp_path: Path) -> None:
    for seed in range(3):
        found = settings(sampler="random", seed=seed)
        machine = Timed(workers, random.Random(seed))
        budget = Budget(trials=1000, epochs=10_000, trial_epochs=9)
        study = searched(tmp_path, found, budget, InMemory(), machine, deadline_s=60.0)
        assert study.trials[study.require_best().number].state.name == "COMPLETE"
        assert 50 <= machine.now <= 1.05 * 60
        assert study.status().counts["running"] == 0


def test_where_memory_runs_out_a_trial_is_tried_again_alone(tmp_path: Path) -> None:
    for seed in range(5):
        found, budget = settings(sampler="random", seed=seed), Budget(trials=8, epochs=60, trial_epochs=9)
        alone = searched(tmp_path, found, budget, InMemory(), Machine(1, random.Random(0)))
        results = InMemory()
        crowded = searched(tmp_path, found, budget, results, Crowded(3, random.Random(seed)))
        assert table(crowded) == table(alone)
        assert not any(result.disturbed for result in results.kept.values() if isinstance(result, RungResult))
        results = InMemory()
        searched(tmp_path, found, budget, results, Crowded(3, random.Random(seed), too_large=8))
        failed = [result for result in results.kept.values() if isinstance(result, RungResult) and result.failed]
        widths = [trial.params["width"] for trial in alone.trials]
        assert any(result.disturbed for result in failed) == (8 in widths)


def test_a_worker_of_another_class_of_device_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for device, disturbed in (("cpu", False), ("cpu-bfloat16", True)):
        results, machine = InMemory(), Machine(2, random.Random(0), device=device)
        searched(tmp_path, settings(), Budget(trials=4, epochs=36, trial_epochs=9), results, machine)
        trained = [result for result in results.kept.values() if isinstance(result, RungResult) and not result.failed]
        assert {result.disturbed for result in trained} == {disturbed}
        assert capsys.readouterr().err.count("is a cpu-bfloat16 device, and the study began on cpu") == disturbed


def test_where_nothing_can_be_trained_no_failure_is_recorded_and_the_next_call_tries_again(tmp_path: Path) -> None:
    class Broken(Machine):
        def wait(self, timeout_s: float) -> Iterator[Event]:
            key, _ = self.running.popitem()
            yield Failed(key, "out of memory", "worker")

    results, found, budget = InMemory(), settings(sampler="tpe"), Budget(trials=4, epochs=36, trial_epochs=9)
    with pytest.raises(EngineError, match=r"so did the centre.*found \d failed, most with: out of memory"):
        searched(tmp_path, found, budget, results, Broken(2, random.Random(0)))
    assert not [key for key in results.kept if isinstance(key, tuple)]
    alone = table(searched(tmp_path, found, budget, InMemory(), Machine(1, random.Random(0))))
    assert table(searched(tmp_path, found, budget, results, Machine(2, random.Random(0)))) == alone
