"""Trains one model per seed, in pieces: an interrupted training resumes, and a finished one is not repeated.

A piece is a task, which leaves a checkpoint; the metrics of its epochs are written when it is done. All of it stays in
the study's folder, so code that changes without changing what is trained makes the stage run, and trains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core.errors import EngineError
from pipeline.core.files import write_json
from pipeline.executors.base import Done, Executor, Progress
from pipeline.models.base import Span
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.training.task import TaskResult, TrainingTask, exported_model

_PIECES = 4  # of a training: a kill costs a quarter at most, and each piece some seconds to begin (chosen)


@dataclass(frozen=True)
class SeedsResult:
    """The trained models: the one to keep, and what every seed reached on validation.

    Attributes:
        task: The last task of the kept model; see `task.exported_model`.
        trained: The result of all of its epochs.
        values: The objective after the last epoch, by seed.
        value: That of the kept model.
    """

    task: TrainingTask
    trained: TaskResult
    values: dict[int, float]
    value: float


class Seeds:
    """Trainings that differ in their seed alone.

    Args:
        tasks: What to train, by seed: a task from the first epoch to the last, in a folder of its own that stays.
        objective: The epoch metric to choose by.
    """

    def __init__(self, tasks: Mapping[int, TrainingTask], objective: str) -> None:
        self._tasks, self._objective = tasks, objective
        self._known = {seed: _read(_written(task)) for seed, task in tasks.items()}

    def start(self, executor: Executor) -> None:
        """Submit the remaining training."""
        for seed in self._tasks:
            self._submit_next(executor, seed)

    def finish(self, executor: Executor) -> SeedsResult:
        """Wait until every seed is trained, and return the best on validation.

        Raises:
            EngineError: A seed could not be trained.
        """
        while any(self._next(seed) for seed in self._tasks):
            for event in executor.wait(timeout_s=1.0):
                if isinstance(event, Progress):
                    self._print(event.key, event.message)
                elif isinstance(event, Done):
                    self._keep(event.key, event.result)
                    self._submit_next(executor, event.key)
                else:
                    raise EngineError(f"training with seed {event.key} failed", found=event.reason)
        trained = {seed: known for seed, known in self._known.items() if known is not None}
        values = {seed: trained[seed].epochs[-1][self._objective] for seed in sorted(trained)}
        best = max(values, key=lambda seed: (values[seed], -last_loss(trained[seed])))
        return SeedsResult(self._last(best), trained[best], values, values[best])

    def _next(self, seed: int) -> TrainingTask | None:
        """Return the next piece of a seed's training; None when all is done."""
        task, known = self._tasks[seed], self._known[seed]
        done = known.epochs if known else []
        if len(done) == task.span.total or (done and done[-1].stopped):
            return None
        stop = next(end for end in _ends(task.span.total) if end > len(done))
        return replace(task, span=Span(len(done), stop, task.span.total))

    def _last(self, seed: int) -> TrainingTask:
        """Return the piece in which a finished training ended."""
        task, known = self._tasks[seed], self._known[seed]
        epochs = len(known.epochs) if known else 0
        stop = next(end for end in _ends(task.span.total) if end >= epochs)
        return replace(task, span=Span(0, stop, task.span.total))

    def _submit_next(self, executor: Executor, seed: int) -> None:
        piece = self._next(seed)
        if piece is not None:
            executor.submit(seed, piece)
        elif not exported_model(self._last(seed)).is_dir():  # the folder was cleaned up
            self._known[seed] = None
            self._submit_next(executor, seed)

    def _keep(self, seed: int, piece: TaskResult) -> None:
        known = self._known[seed]
        whole = replace(piece, epochs=[*(known.epochs if known else []), *piece.epochs])
        write_json(_written(self._tasks[seed]), whole.plain())
        self._known[seed] = whole

    def _print(self, seed: int, epoch: EpochMetrics) -> None:
        print(
            f"seed {seed}: epoch {epoch.epoch}/{self._tasks[seed].span.total},"
            f" {self._objective} {epoch[self._objective]:.4f}, {epoch.seconds:.1f} s",
            flush=True,
        )


def last_loss(trained: TaskResult) -> float:
    """Return the last validation loss: it decides between equals, which are common on small validation splits."""
    return trained.epochs[-1].values.get("val_loss", math.inf)


def _ends(total: int) -> list[int]:
    """Return the epochs at which pieces end."""
    return sorted({math.ceil(total * piece / _PIECES) for piece in range(1, _PIECES + 1)})


def _written(task: TrainingTask) -> Path:
    return task.folder / "trained.json"


def _read(path: Path) -> TaskResult | None:
    try:
        return TaskResult.read(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing, or written by other code: train it again
