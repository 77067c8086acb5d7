"""The training loop of every family that Keras trains. A family adds its model, its data and its scores."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.backend import input_pipeline
from pipeline.datasets.arrays import Labelled, Splits
from pipeline.models.base import BaseFamily, Fitted, OnEpoch, Span, Spec, TrainingError
from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.models.training import checkpoint
from pipeline.models.values import Hyperparameters, whole

if TYPE_CHECKING:
    import keras

Values = dict[str, float]

_VALIDATION_BATCH = 512


def _no_score(model: Any, values: Values) -> Values:
    del model, values
    return {}


def _never(model: Any, values: Values) -> bool:
    del model, values
    return False


@dataclass(frozen=True)
class TrainingPlan:
    """What a family adds to the loop.

    Attributes:
        arrays: Returns what `keras.Model.fit` gets of some images: x, and y where there is one.
        validates: Whether Keras computes its metrics on validation images, too.
        arguments: Further arguments of `keras.Model.fit`.
        score: Returns the metrics to add to those of Keras, given the model and the metrics of Keras.
        stops: Returns whether the training ends with this epoch, given the model and all metrics.
    """

    arrays: Callable[[Labelled], tuple[Any, ...]]
    validates: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)
    score: Callable[[Any, Values], Values] = _no_score
    stops: Callable[[Any, Values], bool] = _never


class KerasFamily(BaseFamily):
    """A family that Keras trains, epoch by epoch."""

    @abstractmethod
    def plan(self, data: Splits) -> TrainingPlan:
        """Return how to train on some data."""

    @abstractmethod
    def compiled(self, hyperparameters: Hyperparameters, spec: Spec, *, steps: int, seed: int) -> keras.Model:
        """Return a new compiled model to train.

        Args:
            hyperparameters: A point of the search space.
            spec: Image shape and number of classes.
            steps: Training steps that schedules span.
            seed: Seed of what the model draws by itself, such as augmentation; initial weights are seeded already.
        """

    @abstractmethod
    def fitted(self, model: Any, hyperparameters: Hyperparameters, data: Splits, history: list[EpochMetrics]) -> Fitted:
        """Return the result of a training, with the network to export."""

    def fit(
        self,
        hyperparameters: Hyperparameters,
        data: Splits,
        span: Span,
        *,
        seed: int,
        state: Path | None,
        on_epoch: OnEpoch,
    ) -> Fitted:
        """Train some epochs; see `BaseFamily.fit`. On a CPU, a training cut into spans gives identical weights."""
        plan = self.plan(data)
        batch_size = min(whole(hyperparameters, "batch_size"), len(data.train))
        steps = span.total * math.ceil(len(data.train) / batch_size)
        model = checkpoint.begin(
            lambda: self.compiled(hyperparameters, Spec.of(data), steps=steps, seed=seed), state, seed
        )
        loop = _Loop(model, plan, data, batch_size, seed)
        history = []
        for epoch in range(span.start, span.stop):
            metrics = loop.train_epoch(epoch)
            history.append(metrics)
            on_epoch(metrics)
            if metrics.stopped:
                break
        return self.fitted(model, hyperparameters, data, history)


class _Loop:
    """Trains a model, one epoch at a time."""

    def __init__(self, model: keras.Model, plan: TrainingPlan, data: Splits, batch_size: int, seed: int) -> None:
        self._model, self._plan, self._train = model, plan, data.train
        self._batch_size, self._seed = batch_size, seed
        validation = input_pipeline.validation(plan.arrays(data.val), _VALIDATION_BATCH) if plan.validates else {}
        self._arguments: dict[str, Any] = {**plan.arguments, **validation}

    def train_epoch(self, epoch: int) -> EpochMetrics:
        """Train an epoch, counted from 0, and return its metrics.

        The order of the images depends on (seed, epoch) alone, so that a resumed training repeats it.

        Raises:
            TrainingError: The loss is not finite.
        """
        started = time.monotonic()
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._train))
        history = self._model.fit(
            **input_pipeline.batches(self._plan.arrays(self._train.take(order)), self._batch_size),
            **self._arguments,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
        ).history
        values = {name: float(of_epoch[0]) for name, of_epoch in history.items()}
        if not math.isfinite(values["loss"] + values.get("val_loss", 0.0)):
            raise TrainingError(f"the loss diverged in epoch {epoch + 1}", found=f"loss {values['loss']}")
        values |= self._plan.score(self._model, values)
        stopped = self._plan.stops(self._model, values)
        return EpochMetrics(epoch + 1, values, time.monotonic() - started, time.time(), stopped)
