"""Forecasts how long searches and trainings will take, before any of them begins.

The duration follows from the epochs of the budget and the seconds of an epoch: those that an earlier search of the
workspace measured, or else those of a short training here, on a part of the data.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.arrays import Splits, load_splits
from pipeline.evaluation import feature_network
from pipeline.executors.base import Done, Executor, Progress, Work
from pipeline.models import loading
from pipeline.models.base import BaseFamily, Span, Spec
from pipeline.models.training import task as training
from pipeline.models.values import Hyperparameters
from pipeline.search import cost_estimate, enqueued, lengths
from pipeline.search.settings import SearchSettings
from pipeline.search.study import rungs

_BATCHES = 32  # of a short training (chosen: some seconds, and long enough to tell)
_DEFAULT_BATCH = 64  # for families without the dimension
_PRODUCTS_S = 2e9  # multiply-adds of a core in a second: a low figure, for networks too small to be worth timing
_START_S = 3.0  # of compiling a small network (measured with perceptrons and small CNNs on a core)
_PASSES = 3  # of a network for an image: forwards, and backwards for values and for weights
_POINTS = 64  # of a space, over which the cost of an epoch is averaged (chosen)


@dataclass(frozen=True)
class EpochTime:
    """Seconds on one worker.

    Attributes:
        epoch_s: Seconds of an epoch.
        start_s: Seconds of the beginning of a training, in which its network is compiled.
        single: Whether a training ends after one epoch.
    """

    epoch_s: float
    start_s: float
    single: bool = False


@dataclass(frozen=True)
class TimingTask:
    """A short training of a family, to time an epoch; see `time_epoch`.

    Attributes:
        family: Name of the family.
        settings: Its section of params.
        hyperparameters: A point of its search space.
        data: Folder of the prepared dataset.
        features: Folder written by the stage `features`, for families that need it.
    """

    family: str
    settings: dict[str, Any]
    hyperparameters: Hyperparameters
    data: Path
    features: Path


@dataclass(frozen=True)
class Forecast:
    """What a family's search and training on a dataset will take.

    Attributes:
        dataset: Name of the dataset.
        family: Name of the family.
        trials: Trials of the search.
        epochs: Its epochs.
        seeds: Further trainings of the best hyperparameters.
        trial_epochs: Epochs of each of them.
        time: Seconds of an epoch; None if they are not known yet.
        workers: Number of workers.
        deadline_s: After so long a search ends; 0 for none.
        reason: Why the time is not known.
    """

    dataset: str
    family: str
    trials: int
    epochs: int
    seeds: int
    trial_epochs: int
    time: EpochTime | None
    workers: int
    deadline_s: float = 0.0
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Wall time; 0 if it is not known."""
        if self.time is None:
            return 0.0
        search = self._seconds(self.epochs, self.trials)
        return min(search, self.deadline_s or search) + self._seconds(self.seeds * self.trial_epochs, self.seeds)

    def _seconds(self, epochs: int, trainings: int) -> float:
        assert self.time is not None
        return (epochs * self.time.epoch_s + trainings * self.time.start_s) / self.workers

    def __str__(self) -> str:
        epochs = f"{self.dataset} {self.family}: about {self.epochs + self.seeds * self.trial_epochs} epochs"
        if self.time is None:
            return f"{epochs}; their time is not known: {self.reason}"
        return f"{epochs} of {self.time.epoch_s:.2g} s on one worker, {cost_estimate.duration(self.seconds)}"


@dataclass(frozen=True)
class Pair:
    """A family on a dataset, whose duration is to be forecast.

    Attributes:
        family: The family, with the dataset's search space.
        dataset: Name of the dataset.
        data: Folder of all data of the workspace.
    """

    family: BaseFamily
    dataset: str
    data: Path

    @property
    def prepared(self) -> Path:
        """Folder of the prepared dataset."""
        return self.data / "prepared" / self.dataset

    @property
    def centre(self) -> Hyperparameters:
        """The centre of the search space, at which an epoch is timed."""
        return enqueued.centre(self.family.suggest)

    def remembered(self) -> EpochTime | None:
        """Return what an earlier search has measured; None if there is none."""
        studies = sorted(
            (self.data / "studies").glob(f"{self.dataset}-{self.family.name}-g*"),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        measured = cost_estimate.remembered(studies)
        return None if measured is None else EpochTime(measured.epoch_s, 0.0)

    def by_formula(self) -> EpochTime | None:
        """Return a high estimate from the family's formula; None if it has none."""
        data = load_splits(self.prepared)
        products = self.family.epoch_cost(self.centre, Spec.of(data))
        if products <= 1:
            return None
        return EpochTime(len(data.train) * products * _PASSES / _PRODUCTS_S, _START_S)

    def timing(self) -> TimingTask:
        """Return the short training that times an epoch."""
        settings = self.family.settings.model_dump(mode="json")
        features = self.data / "features" / self.dataset / self.family.name
        return TimingTask(self.family.name, settings, self.centre, self.prepared, features)


def work(backend: str) -> Work:
    """Return what workers do: `time_epoch`, with Keras set up as for training."""
    return replace(training.work(backend), function="pipeline.search.forecast:time_epoch")


def measure(pairs: Sequence[Pair], executor: Executor) -> dict[Pair, EpochTime | str]:
    """Time an epoch of each pair; where that fails, return the reason."""
    found: dict[Pair, EpochTime | str] = {}
    for number, pair in enumerate(pairs):
        executor.submit(number, pair.timing())
    while len(found) < len(pairs):
        for event in executor.wait(timeout_s=1.0):
            if not isinstance(event, Progress):
                found[pairs[event.key]] = event.result if isinstance(event, Done) else event.reason
    return found


def forecast(pair: Pair, known: EpochTime | str, settings: SearchSettings, seeds: int, workers: int) -> Forecast:
    """Return what a pair's search and training will take.

    Args:
        pair: The family and the dataset.
        known: Seconds of an epoch at the centre of the space, or why they are not known.
        settings: The section `search` of params.
        seeds: Models to train of the best hyperparameters, that of the search included.
        workers: Number of workers.
    """
    data = load_splits(pair.prepared)
    steps = lengths.steps_per_epoch(pair.family, len(data.train))
    budget = settings.budget_for(pair.dataset, pair.family.name, steps)
    points = enqueued.finite(pair.family.dimensions)
    trials = budget.trials if points is None else min(budget.trials, points)
    single = isinstance(known, EpochTime) and known.single
    length = 1 if single else budget.trial_epochs
    ends = rungs(length, settings.reduction, lengths.first_rung(steps))
    epochs = cost_estimate.expected_epochs(budget.model_copy(update={"trials": trials}), settings, ends)
    time = None
    if isinstance(known, EpochTime):
        time = replace(known, epoch_s=known.epoch_s * _mean_cost(pair, Spec.of(data)))
    reason = known if isinstance(known, str) else ""
    name, deadline_s = pair.family.name, 60 * settings.deadline_minutes
    return Forecast(pair.dataset, name, trials, epochs, seeds - 1, length, time, workers, deadline_s, reason)


def _mean_cost(pair: Pair, spec: Spec) -> float:
    """Return the mean cost of an epoch over the search space, compared with the centre, by the family's formula."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    costs = [pair.family.epoch_cost(pair.family.suggest(study.ask()), spec) for _ in range(_POINTS)]
    return statistics.mean(costs) / max(1.0, pair.family.epoch_cost(pair.centre, spec))


def time_epoch(task: TimingTask, emit: Callable[[Any], None]) -> EpochTime:
    """Train on a part of the data, and return what an epoch on all of it takes; workers call it."""
    family = loading.load(task.family, task.settings)
    if family.needs_feature_network and task.features.exists():
        family.feature_network = feature_network.load(task.features)
    emit(task.family)
    whole = load_splits(task.data)
    size = task.hyperparameters.get("batch_size", _DEFAULT_BATCH)
    part = _part(whole, _BATCHES * int(size))
    started = time.monotonic()
    fitted = family.fit(task.hyperparameters, part, Span(0, 2, 2), seed=0, state=None, on_epoch=emit)
    taken = time.monotonic() - started
    last = fitted.history[-1]
    share = len(part.train) / len(whole.train)
    if last.stopped and len(fitted.history) == 1:  # neighbours: each image is compared with each
        return EpochTime(taken / share**2, 0.0, single=True)
    return EpochTime(last.seconds / share, max(0.0, taken - last.seconds * len(fitted.history)))


def _part(whole: Splits, count: int) -> Splits:
    """Return the first of the training images, and as large a share of those to validate."""
    train = min(count, len(whole.train))
    val = math.ceil(len(whole.val) * train / len(whole.train))
    return replace(whole, train=whole.train.take(np.arange(train)), val=whole.val.take(np.arange(val)))
