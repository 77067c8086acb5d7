"""Trains one model per seed, in pieces: an interrupted training resumes, and a finished one is not repeated.

A piece is a task, which leaves a checkpoint; the metrics of its epochs are written when it is done. All of it stays in
the study's folder, so code that changes without changing what is trained makes the stage run, and trains nothing.

A seed whose training fails, because its loss diverged for instance, is reported, and the best of the others is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydantic

from pipeline.core import params
from pipeline.core.errors import EngineError
from pipeline.core.files import write_json
from pipeline.executors.base import Done, Executor, Failed, Progress
from pipeline.models.base import Span
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.training.task import TaskResult, TrainingTask, exported_model
from pipeline.models.values import Hyperparameters

_RESULT = "trained.json"
_PIECES = 4  # of a training: a kill costs a quarter at most, and each piece some seconds to begin (chosen)


class TrainSettings(params.Settings):
    """Section `train` of params.

    Attributes:
        seeds: Number of models of the best trial, its own included; the best on validation is kept.
        seed: Seed of the first further one; the others follow by one. One of more than 32 bits is hashed.
    """

    seeds: int = pydantic.Field(ge=1, le=1000)
    seed: params.Seed


@dataclass(frozen=True)
class SeedsResult:
    """The trained models: the one to keep, and what every seed reached on validation.

    Attributes:
        task: The last task of the kept model; see `task.exported_model`.
        trained: The result of all of its epochs.
        values: The objective after the last epoch, by seed.
        value: That of the kept model.
        trainings: The results of all epochs, by seed.
        failed: Why the other seeds have no model, by seed.
    """

    task: TrainingTask
    trained: TaskResult
    values: dict[int, float]
    value: float
    trainings: Mapping[int, TaskResult] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The mean of all values."""
        return statistics.mean(self.values.values())

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean; None with one seed."""
        count = len(self.values)
        return statistics.stdev(self.values.values()) / math.sqrt(count) if count > 1 else None

    def added_seconds(self, seed: int) -> float:
        """Return the time in which other seeds were trained after one had ended: what they cost beyond a search.

        Args:
            seed: The seed of the search's training.
        """
        ended = self.trainings[seed].epochs[-1].at
        others = [epoch for other, trained in self.trainings.items() if other != seed for epoch in trained.epochs]
        seconds = 0.0
        for epoch in sorted(others, key=lambda epoch: epoch.at):  # in parallel, or with pauses in between
            seconds += max(0.0, epoch.at - max(ended, epoch.at - epoch.seconds))
            ended = max(ended, epoch.at)
        return seconds


class Seeds:
    """Trainings that differ in their seed alone.

    Args:
        tasks: What to train, by seed: a task from the first epoch to the last, in a folder of its own that stays.
        objective: The epoch metric to choose by.
    """

    def __init__(self, tasks: Mapping[int, TrainingTask], objective: str) -> None:
        self._tasks, self._objective = tasks, objective
        self._known = {seed: _read(_written(task)) for seed, task in tasks.items()}
        self._failed = self._read_failed()

    def start(self, executor: Executor) -> None:
        """Submit the remaining training."""
        for seed in self._tasks:
            self._submit_next(executor, seed)

    def pieces(self) -> dict[int, TrainingTask]:
        """Return the next piece of every seed whose training is not finished and has not failed."""
        return {seed: piece for seed in self._tasks if (piece := self._next(seed)) is not None}

    def finish(self, executor: Executor) -> SeedsResult:
        """Wait until every seed is trained or has failed, and return the best on validation.

        Raises:
            EngineError: No seed could be trained, or this machine cannot train.
        """
        while any(self._next(seed) for seed in self._tasks):
            for event in executor.wait(timeout_s=1.0):
                if isinstance(event, Progress):
                    self._print(event.key, event.message)
                elif isinstance(event, Done):
                    self.keep(event.key, event.result)
                    self._submit_next(executor, event.key)
                elif isinstance(event, Failed):
                    self.fail(event.key, event.reason)
                else:
                    raise EngineError(
                        f"training with seed {event.key} cannot continue",
                        expected="a machine that can train",
                        found=event.reason,
                        done="finished pieces are kept",
                        next_step="fix the cause and run the same command again",
                    )
        trained = {seed: known for seed, known in self._known.items() if known is not None and seed not in self._failed}
        if not trained:
            raise EngineError(
                "training failed with every seed",
                expected="a model of at least one of them",
                found="; ".join(f"seed {seed}: {reason}" for seed, reason in sorted(self._failed.items())),
                next_step="set another train.seed in params.yaml",
            )
        if self._failed:
            self._write_failed()
        values = {seed: trained[seed].epochs[-1][self._objective] for seed in sorted(trained)}
        best = max(values, key=lambda seed: (values[seed], -last_loss(trained[seed])))
        failed = dict(sorted(self._failed.items()))
        return SeedsResult(self._last(best), trained[best], values, values[best], trained, failed)

    def _next(self, seed: int) -> TrainingTask | None:
        """Return the next piece of a seed's training; None when all is done."""
        task, known = self._tasks[seed], self._known[seed]
        done = known.epochs if known else []
        if seed in self._failed:
            return None
        if len(done) == task.span.total or (done and done[-1].stopped):
            return None
        stop = next(end for end in _ends(task.span.total) if end > len(done))
        return replace(task, span=Span(len(done), stop, task.span.total))

    def _last(self, seed: int) -> TrainingTask:
        """Return the piece in which a finished training ended."""
        task, known = self._tasks[seed], self._known[seed]
        epochs = len(known.epochs) if known else 0
        stop = _end(epochs, task.span.total)
        return replace(task, span=Span(0, stop, task.span.total))

    def _submit_next(self, executor: Executor, seed: int) -> None:
        piece = self._next(seed)
        if piece is not None:
            executor.submit(seed, piece)
        elif seed not in self._failed and not exported_model(self._last(seed)).is_dir():  # the folder was cleaned up
            self._known[seed] = None
            self._submit_next(executor, seed)

    def keep(self, seed: int, piece: TaskResult) -> None:
        """Add the result of a seed's next piece, and store it."""
        known = self._known[seed]
        whole = replace(piece, epochs=[*(known.epochs if known else []), *piece.epochs])
        for epoch in piece.epochs:  # the images of a generator may be comparable with nothing, whatever its loss is
            if wrong := [name for name, value in epoch.values.items() if not math.isfinite(value)]:
                self.fail(seed, f"{wrong[0]} is {epoch[wrong[0]]} after epoch {epoch.epoch}")
                return
        write_json(_written(self._tasks[seed]), whole.plain())
        self._known[seed] = whole

    def fail(self, seed: int, reason: str) -> None:
        """Do without a seed."""
        self._failed[seed] = reason
        print(f"seed {seed}: failed: {reason}", flush=True)

    @property
    def _outcome(self) -> Path:
        """The file that says which of these seeds have failed, once that is settled."""
        return next(iter(self._tasks.values())).folder.parent / "failed.json"

    def _write_failed(self) -> None:
        """Write which seeds have failed, so that the next call keeps the same model; it may have been logged."""
        failed = {str(seed): reason for seed, reason in sorted(self._failed.items())}
        write_json(self._outcome, {"seeds": sorted(self._tasks), "failed": failed})

    def _read_failed(self) -> dict[int, str]:
        """Return the seeds that are known to have failed beside the same others; they are not tried again."""
        try:
            found = json.loads(self._outcome.read_text(encoding="utf-8"))
            failed = {int(seed): str(reason) for seed, reason in found["failed"].items()}
            return failed if found["seeds"] == sorted(self._tasks) else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # missing or damaged: try all of them

    def _print(self, seed: int, epoch: EpochMetrics) -> None:
        print(
            f"seed {seed}: epoch {epoch.epoch}/{self._tasks[seed].span.total},"
            f" {self._objective} {epoch[self._objective]:.4f}, {epoch.seconds:.1f} s",
            flush=True,
        )


def further_folder(
    study: Path,
    point: Hyperparameters,
    epochs: int,
    code: str,
    settings: Mapping[str, Any],
    data: str,
    backend: str,
) -> Path:
    """Return the folder of trainings with further seeds: in that of the study, as the search may begin them.

    Args:
        study: Folder of the study.
        point: Hyperparameters; they and all that follows decide what is trained, and name the folder.
        epochs: Epochs of a whole training.
        code: Digest of the code that builds and trains.
        settings: The family's section of params.
        data: Digest of the training and validation data.
        backend: Backend of Keras.
    """
    defining = [point, epochs, code, settings, data, backend]
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:12]
    return study / "trained" / digest


def further(folder: Path, settings: TrainSettings, template: TrainingTask) -> dict[int, TrainingTask]:
    """Return the trainings that the stage train adds to that of the search, by seed.

    Args:
        folder: See `further_folder`.
        settings: The section `train` of params.
        template: The training of the search, from the first epoch to the last.
    """
    seeds = [seed for seed in range(settings.seed, settings.seed + settings.seeds) if seed != template.seed]
    return {
        seed: replace(template, seed=seed, folder=folder / f"seed-{seed}", ledger=folder / "epochs.log")
        for seed in seeds[: settings.seeds - 1]
    }


def finished(task: TrainingTask) -> bool:
    """Return whether a training is finished, and its model is there."""
    trained = _read(_written(task))
    return trained is not None and (task.folder / _name(trained, task.span.total) / "model").is_dir()


def write_finished(folder: Path, checkpoint: Path, trained: TaskResult, total: int) -> None:
    """Write a finished training into an empty folder, so that `Seeds` finds it as one of its own.

    Args:
        folder: The folder of a task.
        checkpoint: Folder with its model and pictures; its state is not needed any more.
        trained: The result of all of its epochs.
        total: Epochs of a whole training.
    """
    name = _name(trained, total)
    shutil.copytree(checkpoint, folder / name, ignore=shutil.ignore_patterns("state.npz"))
    pictures = [f"{name}/{Path(picture).name}" for picture in trained.pictures]
    write_json(folder / _RESULT, replace(trained, pictures=pictures).plain())


def last_loss(trained: TaskResult) -> float:
    """Return the last validation loss: it decides between equals, which are common on small validation splits."""
    return trained.epochs[-1].values.get("val_loss", math.inf)


def _ends(total: int) -> list[int]:
    """Return the epochs at which pieces end."""
    return sorted({math.ceil(total * piece / _PIECES) for piece in range(1, _PIECES + 1)})


def _name(trained: TaskResult, total: int) -> str:
    """Return the name of the folder in which a finished training has left its model."""
    return f"epoch-{_end(len(trained.epochs), total):04d}"


def _end(epochs: int, total: int) -> int:
    """Return the epoch at which the piece ends in which a training of some epochs ended."""
    return next(end for end in _ends(total) if end >= epochs)


def _written(task: TrainingTask) -> Path:
    return task.folder / _RESULT


def _read(path: Path) -> TaskResult | None:
    try:
        return TaskResult.read(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing, or written by other code: train it again
