"""Trains one model per seed, in pieces: a training that was killed goes on, and one that is finished is found again.

A piece is a rung, which leaves a checkpoint; what its epochs gave is written down when it is done. All of it stays in
the study's folder, so code that changes without changing what is trained makes the stage run, and trains nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.core.errors import EngineError
from pipeline.core.files import write_json
from pipeline.executors.base import Done, Executor, Progress
from pipeline.models.base import Metrics, Span
from pipeline.models.training.task import TaskResult, TrainingTask, exported_model

_PIECES = 4  # of a training: a kill costs a quarter at most, and each piece some seconds to begin (chosen)


@dataclass(frozen=True)
class SeedsResult:
    """The trained models: the one to keep, and what every seed reached on validation.

    Attributes:
        rung: The last task of the kept model; see `rung.exported_model`.
        trained: What became of all of its epochs.
        values: The objective after the last epoch, by seed.
        value: That of the kept model.
    """

    rung: TrainingTask
    trained: TaskResult
    values: dict[int, float]
    value: float


class Seeds:
    """Trainings that differ in their seed alone.

    Args:
        rungs: What to train, by seed: a rung from the first epoch to the last, in a folder of its own that stays.
        objective: The epoch metric to choose by.
    """

    def __init__(self, rungs: Mapping[int, TrainingTask], objective: str) -> None:
        self._rungs, self._objective = rungs, objective
        self._known = {seed: _read(_written(rung)) for seed, rung in rungs.items()}

    def start(self, executor: Executor) -> None:
        """Submit what is left to train."""
        for seed in self._rungs:
            self._go_on(executor, seed)

    def finish(self, executor: Executor) -> SeedsResult:
        """Wait until every seed is trained, and return the best on validation.

        Raises:
            EngineError: A seed could not be trained.
        """
        while any(self._next(seed) for seed in self._rungs):
            for event in executor.wait(timeout_s=1.0):
                if isinstance(event, Progress):
                    self._tell(event.key, event.message)
                elif isinstance(event, Done):
                    self._keep(event.key, event.result)
                    self._go_on(executor, event.key)
                else:
                    raise EngineError(f"training with seed {event.key} failed", found=event.reason)
        trained = {seed: known for seed, known in self._known.items() if known is not None}
        values = {seed: trained[seed].epochs[-1][self._objective] for seed in sorted(trained)}
        best = max(values, key=lambda seed: (values[seed], -last_loss(trained[seed])))
        return SeedsResult(self._last(best), trained[best], values, values[best])

    def _next(self, seed: int) -> TrainingTask | None:
        """Return the next piece of a seed's training; None when all is done."""
        rung, known = self._rungs[seed], self._known[seed]
        done = known.epochs if known else []
        if len(done) == rung.span.total or (done and done[-1].get("stopped")):
            return None
        stop = next(end for end in _ends(rung.span.total) if end > len(done))
        return replace(rung, span=Span(len(done), stop, rung.span.total))

    def _last(self, seed: int) -> TrainingTask:
        """Return the piece in which a finished training ended."""
        rung, known = self._rungs[seed], self._known[seed]
        epochs = len(known.epochs) if known else 0
        stop = next(end for end in _ends(rung.span.total) if end >= epochs)
        return replace(rung, span=Span(0, stop, rung.span.total))

    def _go_on(self, executor: Executor, seed: int) -> None:
        piece = self._next(seed)
        if piece is not None:
            executor.submit(seed, piece)
        elif not exported_model(self._last(seed)).is_dir():  # somebody has tidied up
            self._known[seed] = None
            self._go_on(executor, seed)

    def _keep(self, seed: int, piece: TaskResult) -> None:
        known = self._known[seed]
        whole = replace(piece, epochs=[*(known.epochs if known else []), *piece.epochs])
        write_json(_written(self._rungs[seed]), asdict(whole))
        self._known[seed] = whole

    def _tell(self, seed: int, epoch: Metrics) -> None:
        print(
            f"seed {seed}: epoch {epoch['epoch']:.0f}/{self._rungs[seed].span.total},"
            f" {self._objective} {epoch[self._objective]:.4f}, {epoch['seconds']:.1f} s",
            flush=True,
        )


def last_loss(trained: TaskResult) -> float:
    """Return the last validation loss: it decides between equals, which are common on small validation splits."""
    return trained.epochs[-1].get("val_loss", math.inf)


def _ends(total: int) -> list[int]:
    """Return the epochs at which pieces end."""
    return sorted({math.ceil(total * piece / _PIECES) for piece in range(1, _PIECES + 1)})


def _written(rung: TrainingTask) -> Path:
    return rung.folder / "trained.json"


def _read(path: Path) -> TaskResult | None:
    try:
        return TaskResult(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # not there, or of other code: it is trained again
