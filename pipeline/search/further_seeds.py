"""Uses idle workers of a search for what comes next: the leader is trained with the further seeds of the stage train.

The search decides nothing by these trainings, and never waits for a whole one. They stay in the study's folder, where
the stage train continues them; those of a leader that lost are removed there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from pipeline.executors.base import Done, Failed
from pipeline.models.training.seeds import Seeds
from pipeline.models.training.task import TrainingTask
from pipeline.models.values import Hyperparameters

_FIRST_KEY = 1_000_000_000  # keys of tasks; those below are numbers of trials


class FurtherSeeds:
    """Trainings of leaders with further seeds, in pieces.

    Args:
        tasks: Returns the trainings for a trial, by its number and hyperparameters: whole ones, by seed.
        objective: The epoch metric that the search maximises.
    """

    def __init__(self, tasks: Callable[[int, Hyperparameters], Mapping[int, TrainingTask]], objective: str) -> None:
        self._tasks = tasks
        self._objective = objective
        self._seeds: dict[int, Seeds] = {}
        self._running: dict[int, tuple[int, int]] = {}  # trial and seed, by key
        self._keys = itertools.count(_FIRST_KEY)

    @property
    def running(self) -> bool:
        """Whether a piece is in training."""
        return bool(self._running)

    def next(self, number: int, point: Hyperparameters) -> tuple[int, TrainingTask] | None:
        """Return a piece to train, with its key, for the trial that leads; None if there is none."""
        if number not in self._seeds:
            tasks = self._tasks(number, point)
            if not tasks:
                return None
            self._seeds[number] = Seeds(tasks, self._objective)
        for seed, piece in self._seeds[number].pieces().items():
            if (number, seed) not in self._running.values():
                key = next(self._keys)
                self._running[key] = number, seed
                return key, piece
        return None

    def handle(self, event: Done | Failed) -> bool:
        """Store the result of a piece; return False if the event is of another task."""
        if event.key not in self._running:
            return False
        number, seed = self._running.pop(event.key)
        if isinstance(event, Done):
            self._seeds[number].keep(seed, event.result)
        else:
            self._seeds[number].fail(seed, event.reason)
        return True
